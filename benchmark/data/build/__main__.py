import sys

from benchmark.data.build import main

sys.exit(main())
