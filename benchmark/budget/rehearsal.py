"""A suite's whole path at real size without its files: random weights of the true shapes, generated images.

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
from typing import Any

import numpy as np
import psutil

import methods
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import Setting
from benchmark.common.errors import UserError
from benchmark.common.tables import markdown
from benchmark.domains.vision import public as full
from benchmark.harness.job import Options
from benchmark.harness.measure import anonymous_bytes
from benchmark.records.precision import Precision
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS, variant_label
from benchmark.suites import Suite

FAMILY = "rehearsal"
TRAIN, TEST = 64, 16
# (height, width) of a typical image, for the time that decoding takes.
SIZES = {
    "MNIST": (28, 28), "KMNIST": (28, 28), "FashionMNIST": (28, 28), "EMNIST": (28, 28), "SVHN": (32, 32),
    "CIFAR10": (32, 32), "CIFAR100": (32, 32), "FER2013": (48, 48), "GTSRB": (50, 50), "EuroSAT": (64, 64),
    "PCAM": (96, 96), "STL10": (96, 96), "RESISC45": (256, 256), "RenderedSST2": (448, 448),
}  # fmt: skip
PHOTO = (375, 500)
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


def write_family(folder: Path, backbone: str, suite: Suite, dtype: str = "float32") -> None:
    """Base, experts and heads with random weights: ``folder/rehearsal/BACKBONE`` as a family folder is."""
    import torch

    from benchmark.checkpoints.families import describe_files, save_json, save_state
    from benchmark.domains.vision.backbones import create_encoder, get_backbone

    place = folder / FAMILY / backbone
    torch.manual_seed(0)
    base = create_encoder(backbone).state_dict()
    kind = getattr(torch, dtype)
    save_state(place / "base.safetensors", base, kind)
    classes = {task: full.info(task).classes for task in suite.tasks}
    for task in suite.tasks:
        # A fine-tuned tensor lies a few per cent of its own size from the base's.
        tuned = {n: t + 0.02 * t.std().nan_to_num() * torch.randn_like(t) for n, t in base.items()}
        save_state(place / f"{task}.safetensors", tuned, kind)
        weight = 100 * torch.nn.functional.normalize(
            torch.randn(len(classes[task]), get_backbone(backbone).embed_dim), dim=-1
        )
        head = {"weight": weight, "bias": torch.zeros(len(weight))}
        save_state(place / "heads" / f"{task}.safetensors", head)
    names = ["base", *suite.tasks, *(f"heads/{task}" for task in suite.tasks)]
    save_json(
        place / "manifest.json",
        {
            "name": FAMILY,
            "backbone": backbone,
            "quick_gelu": get_backbone(backbone).quick_gelu,
            "classes": classes,
            "files": describe_files(place, [f"{name}.safetensors" for name in names]),
            "made": "random weights; no result",
        },
    )


def write_data(root: Path, suite: Suite) -> None:
    """A few generated JPEGs per data set, of its size, as the hub's parquet files with its class names."""
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    for task in suite.tasks:
        about, (height, width) = full.info(task), SIZES.get(task, PHOTO)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=about.classes)})
        for split, n in ((about.splits["train"], TRAIN), (about.splits["test"], TEST)):
            coarse = rng.integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)
            images = [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in coarse]
            rows = {"image": images, "label": rng.integers(len(about.classes), size=n).tolist()}
            path = root / about.folder / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


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


def open_bench(suite: Suite, backbone: str, folder: Path, device: str, dtype: str) -> Any:
    """The real bench on the generated files; sizes of test splits are not compared, files are not hashed again."""
    from benchmark.checkpoints.families import checkpoint_folder
    from benchmark.domains.vision.backbones import get_backbone
    from benchmark.domains.vision.bench import VisionBench
    from benchmark.domains.vision.family import Family, load_family
    from benchmark.suites.bench import resolve_device, resolve_dtype

    class Bench(VisionBench):
        def _load_family(self, checkpoints: str | os.PathLike | None) -> Family:
            where = checkpoint_folder(FAMILY, backbone, checkpoints)
            return load_family(where, backbone, suite.tasks, verify=False)

        def _split(self, task: str, split: str) -> Any:
            size = get_backbone(backbone).image_size
            return full.load_split(task, split, root=folder / "data", image_size=size, counted=False)

    return Bench(
        suite,
        backbone,
        FAMILY,
        resolve_device(device),
        resolve_dtype(dtype),
        data_root=folder / "data",
        checkpoints=folder / "checkpoints",
    )


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

    from benchmark.domains.vision.backbones import get_backbone
    from benchmark.harness import runner
    from benchmark.records.store import Store
    from benchmark.suites.bench import resolve_device

    suite, backbone = what.suite, what.backbone
    texts = variants(asked, suite)
    what = replace(what, device=str(resolve_device(what.device)))
    around = surroundings(what)
    with tempfile.TemporaryDirectory(prefix="symerge-rehearsal-") as temporary:
        folder = Path(temporary)
        tell(f"writing {len(suite.tasks) + 1} random {get_backbone(backbone).name} towers and images to {folder}")
        write_family(folder / "checkpoints", backbone, suite)
        write_data(folder / "data", suite)
        os.environ.setdefault("TQDM_DISABLE", "1")
        if what.threads:
            torch.set_num_threads(what.threads)
        with _cache_in(folder / "cache"):
            bench = open_bench(suite, backbone, folder, what.device, what.precision.dtype)
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
    if suite.scale != "full" or suite.domain != "vision":
        raise UserError(
            f"{suite.typed} has nothing to rehearse: its data and checkpoints are here",
            "Rehearse a full vision suite: --suite vision-8 --backbone ViT-B-32 --rehearse",
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
