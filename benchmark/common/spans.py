"""Times for people."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Seconds, rounded as roughly as they are known.

    >>> duration(42.4), duration(600), duration(9000), duration(None)
    ('42 s', '10 min', '2.5 h', '?')
    """
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
