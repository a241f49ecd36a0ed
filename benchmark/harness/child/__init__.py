"""A method's code runs in a process of its own, which holds what its access grants and nothing else.

``process`` is the side of the harness, ``inside`` that of the method, ``channel`` what they say to each other,
``refusals`` what is refused in there. What is promised by it, and what is not: docs/security.md.
"""
