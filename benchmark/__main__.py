"""`python -m benchmark`, the same command as `symerge-bench`."""

import sys

from benchmark.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
