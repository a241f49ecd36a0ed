"""The command line of the project on a machine with two emulated devices: ``python -m helpers.emulated run ...``.

It is what shares a plan with a test; suites have two tasks, as in :func:`helpers.emulated.two_tasks`.
"""

import sys

from helpers.emulated import here, two_tasks

if __name__ == "__main__":
    from benchmark.cli import main

    with here(2), two_tasks():
        sys.exit(main.main(sys.argv[1:]))
