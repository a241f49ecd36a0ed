"""One run as data: what a plan lists, an executor runs and a record answers. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import methods
from benchmark.records.precision import Precision
from benchmark.records.spec import RunSpec
from methods.core.access import Access


@dataclass(frozen=True)
class Job:
    """One entry of a plan: independent of all others, passed whole."""

    spec: RunSpec
    """Its identity: suite, backbone, family, data, method, parameters, seed, precision."""
    variant: str
    """As boards call it: the method and the parameters that are not the suite's defaults."""
    changed: Mapping[str, Any]
    """Those parameters."""
    device: str = "cpu"
    """Where it computes, as torch names it; no part of its identity."""

    @property
    def id(self) -> str:
        """The id of its run."""
        return self.spec.run_id

    @property
    def method(self) -> methods.Method:
        """What the registry says of the run's method."""
        return methods.describe(self.spec.method)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords the method is called with."""
        seed = {} if self.spec.seed is None else {"seed": self.spec.seed}
        return {**self.spec.parameters, **seed}

    @property
    def access(self) -> Access:
        """The data that the method is handed."""
        return self.method.access_for(self.spec.parameters)

    @property
    def precision(self) -> Precision:
        """What it stores, computes and accumulates in."""
        return self.spec.precision

    def function(self) -> Callable[[Any, Any], Any] | None:
        """What is called with experts and stream in place of the method; a function that pickle knows by its name."""
        return None


DAY = 86_400.0


@dataclass(frozen=True)
class Options:
    """How jobs are carried out; nothing here changes a number beyond rounding (``compile``)."""

    force: bool = False
    time_limit: float | None = DAY
    """Seconds that a run may take; None: as long as it does."""
    memory_limit: float | None = None
    """Bytes of anonymous memory that a method's process may take; None: most of what is free."""
    keep_merged: bool = True
    need_merged: bool = False
    """Make a discarded merge again, where the run is done already; its record stays as it is."""
    argv: Sequence[str] = ()
    """The command as typed, for records."""
    batch_size: int | None = None
    """Of the evaluation; None: the suite's."""
    compile: bool = False
    quiet: bool = False
    """No progress, no notes."""
    work: Mapping[str, float] = field(default_factory=dict)
    """About how long each run takes beside the others, by its id; where one is not there, as long as the mean."""
    before: Mapping[str, str | None] | None = None
    """When the record of a run began that was there before this command, see ``runner.before``; None: as it is now."""
