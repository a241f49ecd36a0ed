"""Runs whose merge is made from other runs: same record, same store, same evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import methods
from benchmark.common import facts
from benchmark.common.errors import UserError, shown
from benchmark.harness import adapted
from benchmark.harness.evaluate import PLAIN
from benchmark.harness.job import Job, Options
from benchmark.harness.setup import MERGED
from benchmark.records import access as accesses
from benchmark.records.method_version import method_version
from benchmark.records.precision import Precision
from benchmark.records.record import Record
from benchmark.records.spec import RunSpec
from benchmark.records.store import Store
from benchmark.suites.bench import Bench
from methods.api import Access, Experts, Merged
from methods.core.registry import PACKAGE

Make = Callable[[Experts, Any], Merged]


@dataclass(frozen=True)
class Derived(Job):
    """A job whose merge is made from other runs; ``made.name`` stands in the spec where a method's name does.

    ``prepare()`` looks up what it is made from, and gives the function that makes it: one that pickle knows by name.
    """

    made: methods.Method = field(kw_only=True)
    prepare: Callable[[], Make] = field(kw_only=True)

    @property
    def method(self) -> methods.Method:
        """What the record says of it."""
        return self.made

    def function(self) -> Make:
        """What is called with experts and stream."""
        return self.prepare()


@dataclass(frozen=True)
class Kind:
    """One kind of derived run.

    Attributes:
        name: as in the spec, e.g. ``study.transfer``.
        title: for the record.
        file, function: the code that makes its numbers; what it reaches is the kind's version.
    """

    name: str
    title: str
    file: Path
    function: str

    @property
    def version(self) -> str:
        """Hash of the arithmetic that the function reaches, as methods have one."""
        return _version(self.file, self.function)


#: What the functions of all kinds are handed.
_HANDED = tuple((PACKAGE / "api.py", name) for name in ("Experts", "Merged", "Stream"))


@functools.cache
def _version(file: Path, function: str) -> str:
    return method_version(file, function, _HANDED)


SELF_ADAPTED = Kind(
    "study.self_adapted",
    "The same layer adapted on the recipient itself",
    Path(__file__).with_name("adaptation.py"),
    "adapt_layer",
)


def derive(
    kind: Kind,
    bench: Bench,
    prepare: Callable[[], Make],
    parameters: Mapping[str, Any],
    *,
    seed: int | None,
    variant: str,
    access: Access,
    precision: Precision = PLAIN,
) -> Derived:
    """A derived run on ``bench``.

    Args:
        prepare: gives ``make(experts, stream)``, see :class:`Derived`; the stream is None without access.
        parameters: what decides its numbers, the ids of the runs it is made from included.
        access: the data behind the merge, those its sources saw included.
    """
    spec = RunSpec(
        suite=bench.suite.name,
        suite_version=bench.suite.identity,
        backbone=bench.backbone,
        family=bench.family,
        checkpoints=bench.checkpoints,
        data=bench.data_of(access),
        method=kind.name,
        method_version=kind.version,
        parameters=dict(parameters),
        seed=seed,
        **precision.identity(holds_vectors=True),
    )

    method = methods.Method(
        kind.name,
        __name__,
        kind.title,
        "arXiv:2412.19098",
        access,
        {**spec.parameters, **({} if seed is None else {"seed": 0})},
    )
    return Derived(spec, variant, {}, str(bench.device), made=method, prepare=prepare)


def access_of(records: Sequence[Record]) -> Access:
    """The data that these runs were handed together."""
    access = Access()
    for record in records:
        access = access | accesses.read(record.access)
    return access


def merged_file(record: Record, store: Store) -> Path:
    """The file of the merge that a run saved. Raises UserError where it is another one by now."""
    return _as_noted(record, store, MERGED)


def adapted_file(record: Record, store: Store) -> Path:
    """The file of the layers that a run adapted. Raises UserError where it is another one by now."""
    return _as_noted(record, store, adapted.ADAPTED)


def _as_noted(record: Record, store: Store, name: str) -> Path:
    """The run's file of this name, if its content is what the record says; where it says nothing, as it is."""
    path, noted = store.folder(record.spec) / name, record.artifacts.get(name)
    if noted is not None and path.is_file() and facts.sha256(path, on_disk=False) != noted:
        raise UserError(
            f"{shown(path)} is not the file that the run {record.variant} saved: its sha256 differs from the record's",
            "Delete it and type the same command again; it is then made again.",
        )
    return path


def without_merges(options: Options) -> Options:
    """The same, but merges are not kept: what they are made of is."""
    return replace(options, keep_merged=False, need_merged=False)
