"""On a GPU: algorithms that give the same numbers every time, and the names of the operations that have none."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: What cuBLAS reads as a process makes its first handle: without it a product may differ from run to run.
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
UNSTEADY = r"(\S+) does not have a deterministic implementation"


def prepare(device: torch.device) -> None:
    """To be called before a process computes on the device for the first time."""
    if device.type == "cuda":
        os.environ.setdefault(WORKSPACE, ":4096:8")


@contextlib.contextmanager
def steady(device: torch.device) -> Iterator[set[str]]:
    """Within this, a GPU's operations are deterministic where torch can make them so; gives the names of the others.

    The CPU's are as they are.
    """
    unsteady: set[str] = set()
    if device.type != "cuda":
        yield unsteady
        return
    import torch

    prepare(device)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=UNSTEADY)
        shown = warnings.showwarning

        def gather(message: Warning | str, *rest: Any, **more: Any) -> None:
            if named := re.match(UNSTEADY, str(message)):
                unsteady.add(named[1])
            else:
                shown(message, *rest, **more)

        warnings.showwarning = gather
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Writing over memory that is about to be written costs time and makes nothing deterministic here.
        settings.fill_uninitialized_memory = False
        try:
            yield unsteady
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            settings.fill_uninitialized_memory = fill
