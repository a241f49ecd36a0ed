"""Which method to take for some experts: the data-free ones are run, scored on the user's data, and compared.

With labels a score is the accuracy; without, the share of samples on which the merge says what the task's own expert
says. It is the same for all methods, so that they can be ranked, but it is no accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

import methods
from benchmark.checkpoints.alignment import Aligned
from benchmark.common.errors import UserError
from benchmark.common.tables import padded
from benchmark.domains.vision.bench import ImageSource
from benchmark.merging.data import Sight
from benchmark.merging.merge import Plan, merge_experts
from benchmark.merging.which import reason
from benchmark.scores.statistics import bootstrap_interval, paired_difference
from methods.api import Experts, Merged, MergingError, place

BATCH = 64


@dataclass
class Row:
    """One method's score: bits ``{task: float [n]}`` of right answers, or why there are none."""

    name: str
    bits: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""

    @property
    def score(self) -> float:
        """Mean over tasks, percent."""
        return 100 * float(np.mean([bits.mean() for bits in self.bits.values()])) if self.bits else float("nan")


def candidates(aligned: Aligned) -> list[str]:
    """Methods without data that apply to these experts, without the two reference rows."""
    references = {name for name in methods.names() if methods.describe(name).path.stem == "reference"}
    experts = aligned.open()
    return [name for name in methods.names() if name not in references and not reason(name, experts)]


def advise(
    aligned: Aligned, sight: Sight, device: torch.device | str = "cpu", say: Callable[[str], None] = print
) -> list[Row]:
    """The rows of all candidates that are one model for all tasks, best first; then those that failed.

    Raises :class:`UserError` where there is nothing to score on.
    """
    tasks = [task for task in aligned.experts if task in sight.sources and task in sight.heads]
    if len(tasks) < len(aligned.experts):
        missing = next(task for task in aligned.experts if task not in tasks)
        if missing in sight.sources:
            raise UserError(
                f"nothing to score {missing} on: its expert has no head",
                "Name a head for each task in a suite of your own: docs/own-suite.md",
            )
        raise UserError(
            f"nothing to score {missing} on: it has no data",
            f"Give every task its data: --labelled {missing}=FOLDER, --images or --texts without labels.",
        )
    names = candidates(aligned)
    experts = sight.experts(Plan(aligned, names[0]), device)
    own = {task: predictions(individual(experts, task), sight, task, device) for task in tasks}
    answers = {task: _labels(sight, task) if task in sight.labelled else own[task] for task in tasks}
    rows = []
    say(f"{len(names)} methods are tried, each once; the slowest ones solve a problem for every matrix")
    for name in names:
        began, row = time.monotonic(), Row(name)
        try:
            merged = merge_experts(Plan(aligned, name), experts)
            if merged.differs or merged.wrap is not None:
                row.why = "gives each task a model of its own"
            else:
                row.bits = score(merged, sight, answers, device)
        except MergingError as error:
            row.why = str(error)
        row.seconds = time.monotonic() - began
        rows.append(row)
        say(f"{name}: {row.why or f'{row.score:.1f}'} ({row.seconds:.0f} s)")
    rows.sort(key=lambda each: -each.score if each.bits else float("inf"))
    if not any(row.bits for row in rows):
        raise UserError("no method could be scored on these", f"{rows[0].name}: {rows[0].why}")
    return rows


def individual(experts: Experts, task: str) -> nn.Module:
    """The task's own expert with its head."""
    weights = experts.state(task)
    return Merged(experts.subset([task]), {name: weights[name] for name in experts.names}).model(task)


def predictions(model: nn.Module, sight: Sight, task: str, device: torch.device | str) -> np.ndarray:
    """The class that a model says of each sample of the task, int ``[n]``."""
    source, made = sight.sources[task], []
    with torch.inference_mode():
        for index in torch.arange(len(source)).split(BATCH):
            made.append(model(place(source[index][0], torch.device(device))).argmax(-1).cpu())
    return torch.cat(made).numpy()


def score(
    merged: Merged, sight: Sight, answers: Mapping[str, np.ndarray], device: torch.device | str
) -> dict[str, np.ndarray]:
    """``{task: 1.0 where the merge is right}``."""
    return {
        task: (predictions(merged.model(task), sight, task, device) == right).astype(float)
        for task, right in answers.items()
    }


def _labels(sight: Sight, task: str) -> np.ndarray:
    source = sight.sources[task]
    assert isinstance(source, ImageSource)
    labels: np.ndarray = source.labels.numpy()
    return labels


def board(rows: Sequence[Row], aligned: Aligned, labelled: bool) -> list[str]:
    """The table, and in words how sure the first place is."""
    tasks = list(aligned.experts)
    what = "mean accuracy" if labelled else "agreement with the experts"
    lines = []
    for row in rows:
        if row.bits:
            interval = bootstrap_interval(row.bits)
            low, high = max(0.0, interval.low), min(100.0, interval.high)
            half = f"{row.score:.1f} ({low:.1f} to {high:.1f})"
            lines.append([row.name, half, *(f"{100 * row.bits[t].mean():.1f}" for t in tasks), f"{row.seconds:.0f}"])
    table = padded(["method", what, *tasks, "s"], lines, "<<" + ">" * (len(tasks) + 1))
    scored = [row for row in rows if row.bits]
    return [*table, "", sure(scored), *(f"{row.name}: {row.why}" for row in rows if row.why)]


def sure(scored: Sequence[Row]) -> str:
    """How sure it is that the first is better than the others, on these samples."""
    best, *others = scored
    count = sum(len(bits) for bits in best.bits.values())
    close = []
    for other in others:
        difference = paired_difference({None: best.bits}, {None: other.bits})
        if difference.tied:
            close.append(f"{other.name} ({-difference.value:+.1f})")
    if not others:
        return f"{best.name} is the only one that could be scored."
    if not close:
        return (
            f"{best.name} is ahead of every other on these {count:,} samples beyond what their number explains (95 %)."
        )
    return (
        f"{best.name} is first, but on these {count:,} samples it cannot be told from {', '.join(close[:5])}"
        f"{f' and {len(close) - 5} more' if len(close) > 5 else ''}: more of them would tell (95 %)."
    )
