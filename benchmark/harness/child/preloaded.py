"""What the server of processes has done before the first: imported what methods share, and read what they declare.

No method's own file is imported here; each is, where it runs.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch._dynamo  # noqa: F401, an optimiser's first step would import it

import methods
import methods.tools
from benchmark.harness.child import inside  # noqa: F401

for module in pkgutil.iter_modules(methods.tools.__path__):
    importlib.import_module(f"methods.tools.{module.name}")
methods.names()
