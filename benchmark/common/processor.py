"""How a process is set that computes on the CPU at length."""

from __future__ import annotations

import ctypes

#: Of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: The largest piece that glibc can be told to keep once it is freed.
LARGEST = 32 << 20


def prepare_cpu() -> None:
    """Numbers below float32's normal ones are zero, and memory that was freed stays for what comes next.

    A product with such numbers takes a hundred times as long on many processors, and gradients of what is fitted well
    are full of them. Without the second, glibc hands what is free at the end of its memory back to the system after
    every step, and takes it again page by page (`give_back` in `benchmark/harness/measure.py` still hands it back).
    To be called before torch starts its threads, which take the first over from the one that starts them. Where a
    processor or a C library has no such setting it stays as it is.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    set_option(MMAP_THRESHOLD, LARGEST)
    set_option(TRIM_THRESHOLD, -1)
