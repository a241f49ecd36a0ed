"""What a rehearsal runs on: experts with random weights of the true shapes, and a few generated samples a task.

A module for each domain: ``write_family`` and ``write_data`` write what the domain's own bench reads, ``open_bench``
opens that, with no sample counted. Nothing of it is a result.
"""

from __future__ import annotations

import importlib
from typing import Any

FAMILY = "rehearsal"
#: Samples of a task. Statistics of batch normalisations are estimated in batches of 50.
TRAIN, TEST = 64, 16
NOTE = "random weights; no result"


def of_domain(domain: str) -> Any:
    """The module of a domain."""
    return importlib.import_module(f"{__name__}.{domain}")
