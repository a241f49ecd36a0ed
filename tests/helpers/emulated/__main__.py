"""The command line of the project on a machine with two emulated devices: ``python -m helpers.emulated run ...``."""

import sys

from helpers.emulated import here

if __name__ == "__main__":
    from benchmark.cli import main

    with here(2):
        sys.exit(main.main(sys.argv[1:]))
