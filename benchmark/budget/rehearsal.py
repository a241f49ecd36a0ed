"""A suite's whole path at real size without its files: random weights of the true shapes, generated samples.

A method's process is its own, as in every run, and so is its peak memory; a method that adapts makes one update.
Nothing here is a result: the records lie apart (``<results>/rehearsal``) under a family of their own, and no board
reads them. What is learned is that the path holds, what it takes, and how good the estimates are.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil

import methods
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import Setting
from benchmark.budget.generated import FAMILY, TEST, TRAIN, of_domain
from benchmark.common.errors import UserError
from benchmark.common.tables import markdown
from benchmark.harness.job import Options
from benchmark.harness.measure import anonymous_bytes
from benchmark.records.precision import Precision
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS, variant_label
from benchmark.suites import Suite

#: How far a peak may lie from its estimate, as a share of that.
NEAR = 0.25
GIB = float(2**30)


@dataclass
class Outcome:
    """What became of one run. Peaks are anonymous memory in bytes; None where nothing was measured."""

    variant: str
    status: str
    record: Record | None
    peak: int | None
    """Of the largest process, the runtime's own part included."""
    seconds: float
    """From the plan to the record."""
    estimate: float | None = None
    """``together`` in bytes as ``--dry-run`` estimates it, for these images and updates."""
    together: int | None = None
    """Of all processes at once."""

    @property
    def ratio(self) -> float | None:
        """The peak of all processes over its estimate."""
        return self.together / self.estimate if self.together and self.estimate else None

    @property
    def off(self) -> bool:
        """Whether the peak lies further than a quarter from its estimate."""
        return self.ratio is not None and abs(self.ratio - 1) > NEAR


def variants(asked: Sequence[str] | None, suite: Suite) -> list[str]:
    """The methods asked for (default: all registered), each that reads data with one update.

    Raises UserError, MergingError for an unknown name.
    """
    from benchmark.harness.runner import suite_methods
    from benchmark.records.spec import parse_method

    texts = []
    for text in suite_methods(suite, asked or ["all"]):
        name, keywords = parse_method(text)
        about = methods.describe(name)
        steps = about.footprint.steps
        if about.access_for({**about.parameters, **keywords}) and steps in about.parameters and steps not in keywords:
            keywords[str(steps)] = 1
        texts.append(variant_label(name, keywords))
    return [*REFERENCE_ROWS, *texts]


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed, where and how."""

    suite: Suite
    backbone: str
    results: Path
    """Folder of the records; emptied of nothing, written anew."""
    options: Options = Options()
    precision: Precision = Precision()
    device: str = "cpu"
    threads: int | None = None


class Peak:
    """The most anonymous memory of a ``with`` block in bytes: of this process or one that it started, and of all."""

    def __enter__(self) -> Peak:
        self.bytes, self.together, self._stop = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.05):
            with contextlib.suppress(psutil.Error):
                sizes = [anonymous(process.pid) for process in (own, *own.children(recursive=True))]
                self.bytes, self.together = max(self.bytes, *sizes), max(self.together, sum(sizes))


def anonymous(pid: int) -> int:
    """Anonymous resident memory of a process in bytes; its whole resident memory where the system tells no more."""
    size = anonymous_bytes(pid)
    if size is not None:
        return size
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Decoded images go there meanwhile."""
    before = os.environ.get("SYMERGE_CACHE")
    os.environ["SYMERGE_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["SYMERGE_CACHE"]
        if before is not None:
            os.environ["SYMERGE_CACHE"] = before


def rehearse(
    what: Rehearsal,
    *,
    asked: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Iterator[Outcome]:
    """Rehearse a suite; yields each run's outcome as it ends.

    Args:
        asked: methods and variants; None: every registered method.
    """
    import torch

    from benchmark.harness import runner
    from benchmark.records.store import Store
    from benchmark.suites.bench import resolve_device, resolve_dtype

    suite, backbone = what.suite, what.backbone
    domain = of_domain(suite.domain)
    texts = variants(asked, suite)
    what = replace(what, device=str(resolve_device(what.device)))
    around = surroundings(what)
    with tempfile.TemporaryDirectory(prefix="symerge-rehearsal-") as temporary:
        folder = Path(temporary)
        tell(f"writing {len(suite.tasks) + 1} random {backbone} encoders and {domain.SAMPLES} to {folder}")
        domain.write_family(folder / "checkpoints" / FAMILY / backbone, backbone, suite)
        domain.write_data(folder / "data", backbone, suite)
        os.environ.setdefault("TQDM_DISABLE", "1")
        if what.threads:
            torch.set_num_threads(what.threads)
        with _cache_in(folder / "cache"):
            bench = domain.open_bench(
                suite, backbone, folder, resolve_device(what.device), resolve_dtype(what.precision.dtype)
            )
            for number, text in enumerate(texts, 1):
                tell(f"{number}/{len(texts)} {text}")
                began = time.monotonic()
                jobs = runner.plan(bench, [text], seeds=[0], precision=what.precision)
                chosen = [job for job in jobs if job.variant == text] or jobs[-1:]
                options = replace(what.options, force=True, keep_merged=False)
                with Peak() as peak:
                    (record,) = runner.execute(chosen, bench, Store(what.results), options)
                seconds = time.monotonic() - began
                guess = estimated(record, around)
                yield Outcome(text, _status(record), record, peak.bytes or None, seconds, guess, peak.together or None)


def surroundings(what: Rehearsal) -> Setting:
    """What the estimates of a rehearsal start from: its few images in place of the suite's."""
    planned = SimpleNamespace(suite=what.suite, backbone=what.backbone, family=FAMILY)
    around = dry_run.setting(planned, what.device, what.options)
    tasks = len(what.suite.tasks)
    samples = {"train": TRAIN * tasks, "val": TRAIN * tasks // 10, "test": TEST * tasks}
    return replace(around.at(what.precision), samples=samples, eval_batch=min(around.eval_batch, TEST))


def estimated(record: Record | None, around: Setting) -> float | None:
    """Bytes that the run's processes were estimated to take at their peak; None without a merge."""
    if record is None or record.status != "done":
        return None
    return estimate.need(record.spec.method, record.spec.parameters, around).together


def _status(record: Record) -> str:
    if record.error is not None:
        return "left out" if record.error.type == methods.NotApplicable.__name__ else record.error.type
    return record.status


HEADER = (
    "method", "outcome", "merge s", "adapt s", "evaluate s", "process s", "merge GiB", "process GiB", "all GiB",
    "estimated", "share",
)  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown, in the order they were run. GiB are peaks of anonymous memory: of what the merge adds,
    of the largest process, of all at once, and that as estimated; a star marks more than a quarter off."""
    rows = []
    for one in outcomes:
        cost = one.record.cost if one.record else None
        merged = None if cost is None or cost.peak_anonymous_mb is None else cost.peak_anonymous_mb / 1024
        spent = (cost.merge_seconds, cost.adapt_seconds, cost.evaluate_seconds) if cost else (None,) * 3
        cells = ["–" if n is None else f"{n:.1f}" for n in (*spent, one.seconds)]
        held = (merged, *(size and size / GIB for size in (one.peak, one.together, one.estimate)))
        peaks = ["–" if n is None else f"{n:.2f}" for n in held]
        share = "–" if one.ratio is None else f"{one.ratio:.2f}{'*' if one.off else ''}"
        rows.append([f"`{one.variant}`", one.status, *cells, *peaks, share])
    return "\n".join(markdown(HEADER, rows, "<<" + ">" * (len(HEADER) - 2))) + "\n"


def verdict(outcomes: Sequence[Outcome]) -> str:
    """How many peaks are as estimated, and which are not."""
    known = [one for one in outcomes if one.ratio is not None]
    off = [f"{one.variant} ({one.ratio:.2f} of its estimate)" for one in known if one.off]
    said = f"{len(known) - len(off)} of {len(known)} peaks lie within a quarter of the estimate of --dry-run"
    return f"{said}; not: {', '.join(off)}" if off else said


def check(suite: Suite) -> None:
    """Raise UserError where a suite has nothing to rehearse."""
    if suite.scale != "full" or suite.own is not None:
        raise UserError(
            f"{suite.typed} has nothing to rehearse: its data and checkpoints are here",
            "Rehearse a full suite: --suite vision-8 --backbone ViT-B-32 --rehearse",
        )


def main(what: Rehearsal, asked: Sequence[str] | None) -> int:
    """``run --rehearse``: rehearse a suite, and print the table, which is also written beside the records.

    1 where a run failed, or took memory more than a quarter off its estimate.
    """
    check(what.suite)
    outcomes = []
    for one in rehearse(what, asked=asked):
        outcomes.append(one)
        what.results.mkdir(parents=True, exist_ok=True)
        page = what.results / f"{what.suite.name}--{what.backbone}.md"
        page.write_text(table(outcomes), encoding="utf-8")
    print(table(outcomes), end="")
    print(verdict(outcomes))
    return 0 if all(one.status in ("done", "left out") and not one.off for one in outcomes) else 1
