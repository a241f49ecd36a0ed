"""A plain form and ours in turns, so that whatever else the machine does falls on both; what counts is their ratio."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

Seconds = tuple[float, float]


@dataclass
class Turns:
    """Wall and CPU seconds of every round of both forms."""

    plain: list[Seconds] = field(default_factory=list)
    ours: list[Seconds] = field(default_factory=list)

    def ratio(self, clock: int) -> float:
        """The fastest round of ours over the fastest of the plain form; ``clock`` 0 is wall, 1 is CPU time."""
        return least(self.ours)[clock] / least(self.plain)[clock]


def now() -> Seconds:
    """Wall and CPU time of this process, all its threads."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """What has passed since ``start``."""
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


class Rounds:
    """Given to a stream as its progress, it notes what each round of adaptation took, without what precedes them."""

    def __init__(self) -> None:
        self.taken: list[Seconds] = []

    def __call__(self, rounds: Iterator[Any], total: int, text: str) -> Iterator[Any]:
        for item in rounds:
            start = now()
            yield item
            self.taken.append(since(start))


def least(taken: list[Seconds]) -> Seconds:
    """The least wall and the least CPU time of all."""
    return min(s[0] for s in taken), min(s[1] for s in taken)


def fastest(function: Callable[[], Any], times: int) -> Seconds:
    """What the fastest of ``times`` calls took."""
    taken = []
    for _ in range(times):
        start = now()
        function()
        taken.append(since(start))
    return least(taken)


def compare(
    benchmark: Any,
    group: str,
    plain: Callable[[], Seconds | None],
    ours: Callable[[], Seconds | None],
    *,
    rounds: int,
    warm: bool = True,
) -> Turns:
    """Run both ``rounds`` times, plain first; a function that returns seconds has timed itself.

    The benchmark's own figures are those of ours; its extra information holds both and their ratios.
    """
    turns = Turns()

    def turn(function: Callable[[], Seconds | None], kept: list[Seconds]) -> None:
        start = now()
        own = function()
        kept.append(own or since(start))

    if warm:
        plain()
        ours()
    benchmark.group = group
    benchmark.pedantic(
        lambda: turn(ours, turns.ours), setup=lambda: turn(plain, turns.plain), rounds=rounds, warmup_rounds=0
    )
    benchmark.extra_info.update(
        threads=torch.get_num_threads(),
        plain_wall=min(s[0] for s in turns.plain),
        ours_wall=min(s[0] for s in turns.ours),
        ratio_wall=round(turns.ratio(0), 3),
        ratio_cpu=round(turns.ratio(1), 3),
    )
    return turns


def trim() -> None:
    """Give freed memory back to the system, so that what is used next is seen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
