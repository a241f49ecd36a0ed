import sys

from benchmark.assets.vision.build import main

sys.exit(main())
