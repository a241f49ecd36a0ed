"""How a process is set that computes on the CPU at length."""

from __future__ import annotations

import ctypes

#: Of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def flush_small_numbers() -> None:
    """Numbers below float32's normal ones are zero from here on.

    A product with such numbers may take a hundred times as long as another, as adaptation that runs away showed
    (`docs/performance.md`). To be called before torch starts its threads, which take it
    over from the one that starts them. A processor that cannot do so stays as it is.
    """
    import torch

    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Memory that is freed from here on stays with the process, for what asks for as much in the next round.

    glibc takes pieces of more than 32 MB from the system each time, page by page, and hands back what is free at the
    end of its memory. What asks for pieces of many sizes, as a merge does tensor by tensor, would need more memory so:
    this is for rounds that are alike. `give_back` in `benchmark/harness/measure.py` hands all of it back. Another C
    library stays as it is.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    set_option(MMAP_MAX, 0)
    set_option(TRIM_THRESHOLD, -1)
