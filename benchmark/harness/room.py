"""Evaluation where memory does not suffice: a smaller batch is found by trying, or what does not fit is said."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmark.common.errors import UserError
from benchmark.harness.child.process import Failure

T = TypeVar("T")


class NoRoom(UserError):
    """What is evaluated does not fit into the device's memory, however small the batch."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, here or in the process of a method that goes on."""
    kind = error.kind if isinstance(error, Failure) else type(error).__name__
    return kind in ("MemoryError", "OutOfMemoryError") or "DefaultCPUAllocator" in str(error)


def fitting(attempt: Callable[[int], T], size: int, device: torch.device, tell: Callable[[str], None]) -> tuple[T, int]:
    """What ``attempt`` gives with batches of ``size``, or of half as many as often as memory does not suffice.

    An attempt begins anew, so that all samples are evaluated in batches of one size, which is given back with it. What
    the last one held is free by then.

    Args:
        tell: is told each smaller size.

    Raises:
        NoRoom: a batch of one sample does not fit.
    """
    while True:
        try:
            return attempt(size), size
        except Exception as error:
            if not out_of_memory(error):
                raise
        # The error is gone here, and its traceback with it, which held the tensors of every frame.
        free(device)
        if size == 1:
            raise NoRoom(
                f"the merged model and one sample do not fit into the memory of {device}{_left(device)}",
                "Try --dtype bfloat16 or --autocast bfloat16 (another row of the board), or a device with more.",
            )
        size //= 2
        tell(f"memory does not suffice; evaluating in batches of {size}")


def placed(make: Callable[[], T], device: torch.device) -> T:
    """What ``make`` gives, which takes memory of the device. Raises :class:`NoRoom` where there is too little."""
    try:
        return make()
    except Exception as error:
        if not out_of_memory(error):
            raise
    free(device)
    raise NoRoom(
        f"the merged model does not fit into the memory of {device}{_left(device)}",
        "Try --dtype bfloat16 (another row of the board), or a device with more.",
    )


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more, to other processes as well."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _left(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    left, total = torch.cuda.mem_get_info(device)
    return f": {left / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
