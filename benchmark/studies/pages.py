"""Studies as Markdown and CSV. What they hold is decided in ``tables``. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.common.errors import UserError, shown
from benchmark.common.escapes import code, inline
from benchmark.common.files import write_atomic
from benchmark.common.tables import padded
from benchmark.records import access as accesses
from benchmark.records.record import Record, commits_text
from benchmark.studies.settings import Ablation
from benchmark.studies.tables import CrossTask

NONE = "–"
MARKER = re.compile(r"<!-- (studies/\S+\.md), table ([1-9]\d*) -->")


@dataclass(frozen=True)
class About:
    """What a title says: the suite, how many test samples, which commits, and the commands that made the records."""

    suite: str
    tasks: int
    samples: int
    seeds: int
    commits: list[str]
    commands: list[str]

    @classmethod
    def of(cls, suite: str, records: Iterable[Record]) -> About:
        """From the records of one study; samples and tasks are those of its largest record."""
        finished = [record for record in records if record.status == "done"]
        largest = max(finished, key=lambda record: len(record.tasks))
        return cls(
            suite=suite,
            tasks=len(largest.tasks),
            samples=sum(task.n for task in largest.tasks.values()),
            seeds=len({record.spec.seed for record in finished if record.spec.seed is not None}) or 1,
            commits=sorted({r.provenance.commit for r in finished if r.provenance.commit}),
            commands=sorted({" ".join(record.provenance.argv) for record in finished}),
        )

    def line(self) -> str:
        """For a figure's title."""
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "1 seed"
        size = f"{self.suite}, {self.tasks} tasks, {self.samples:,} test samples"
        return f"{size}, {seeds}, commit {commits_text(self.commits)}"

    def footer(self) -> list[str]:
        """For the end of a page."""
        return ["", *(f"- Command: {code(command)}" for command in self.commands),
                f"- Commit: {inline(', '.join(commit[:12] for commit in self.commits))}", ""]  # fmt: skip


def table(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a Markdown table, padded; the first ``left`` columns are text, the others numbers."""
    return padded(header, lines, "<" * left + ">" * (len(header) - left))


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """A number, or a dash for nan."""
    return NONE if pd.isna(value) else f"{value:{'+' if sign else ''}.{digits}f}"


def gap(value: float, low: float, high: float) -> str:
    """A difference in points with its interval; bold where the interval leaves out zero."""
    if pd.isna(value):
        return NONE
    if pd.isna(low):
        return f"{value:+.1f}"
    text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def transfer_page(frame: pd.DataFrame, about: About) -> str:
    """The matrix of transfers, a table for each source."""
    lines = [f"# Transfer of adapted layers on {about.suite}", "",
             "Mean over tasks in percent; differences in points with paired 95 % intervals (bold: without zero). "
             "*own*: the recipient as its method left it. *transferred*: with the source's layers in place of its own, "
             "nothing trained. *self-adapted*: with the same layer adapted on the recipient itself, with the source's "
             "budget. *gain* = transferred - own; *beyond* = transferred - self-adapted. "
             "n: seeds of the source (a deterministic recipient is one merge).", ""]  # fmt: skip
    for source, group in frame.groupby("source", sort=False):
        lines += [f"## From `{source}`: {group['layer'].iloc[0]}", ""]
        lines += table(
            ["recipient", "own", "transferred", "self-adapted", "gain", "beyond", "n"],
            [[r.recipient, number(r.own), number(r.transferred), number(r.self_adapted),
              gap(r.gain, r.gain_low, r.gain_high), gap(r.beyond, r.beyond_low, r.beyond_high), str(r.n)]
             for r in group.itertuples()],
        )  # fmt: skip
        lines.append("")
    return "\n".join([*lines[:-1], *about.footer()])


def cross_task_frame(cross: CrossTask) -> pd.DataFrame:
    """One row per encoder and head, with the score before and after the head was adapted to the encoder."""
    return pd.DataFrame(
        [
            [encoder, head, cross.before[i, j], cross.adapted[i, j]]
            for i, encoder in enumerate(cross.tasks)
            for j, head in enumerate(cross.tasks)
        ],
        columns=["encoder", "head", "before", "adapted"],
    )


def pilot_page(cross: CrossTask, correlations: pd.DataFrame, about: About) -> str:
    """Cross-task performance in one line a task, and its correlation with merge quality."""
    off = ~np.eye(len(cross.tasks), dtype=bool)
    lines = [f"# Cross-task performance on {about.suite}", "",
             "Head of one task on the encoders of the other experts: mean over these, in percent, before and after the "
             "head was adapted to each of them; beside the expert's own score, and the other heads on its encoder.",
             ""]  # fmt: skip
    lines += table(
        ["task", "own expert", "its head on others", "adapted", "other heads on its encoder", "adapted"],
        [[task, *(number(v) for v in (
            cross.before[i, i], cross.before[off[:, i], i].mean(), cross.adapted[off[:, i], i].mean(),
            cross.before[i, off[i]].mean(), cross.adapted[i, off[i]].mean()))]
         for i, task in enumerate(cross.tasks)]
        + [["mean", *(number(v) for v in (np.diag(cross.before).mean(), cross.before[off].mean(),
            cross.adapted[off].mean(), cross.before[off].mean(), cross.adapted[off].mean()))]],
    )  # fmt: skip
    lines += ["", "## Correlation with merge quality", "",
              "Over sets of tasks: cross-task performance (mean over ordered pairs within the set) against the mean "
              "score of the merge of that set on its own tasks. Intervals of 95 % by leaving out one task at a time, "
              "since sets share tasks. *normalised*: both in percent of the experts' own scores. *task effects "
              "removed*: normalised, less what an effect of each task explains. *heads adapted*: both sides after "
              "adaptation of the heads.", ""]  # fmt: skip
    pearson = correlations[correlations["kind"] == "pearson"]
    spearman = correlations[correlations["kind"] == "spearman"].set_index(["merger", "heads", "size", "compared"])
    rows = []
    for r in pearson.itertuples():
        other = spearman.loc[(r.merger, r.heads, r.size, r.compared)]
        rows.append([
            r.merger + (", heads adapted" if r.heads == "adapted" else ""), str(r.size), r.compared, str(r.n),
            _coefficient(r.value, r.low, r.high), _coefficient(other["value"], other["low"], other["high"]),
        ])  # fmt: skip
    lines += table(["merger", "tasks in a set", "compared", "sets", "Pearson", "Spearman"], rows, left=3)
    return "\n".join([*lines, *about.footer()])


def _coefficient(value: float, low: float, high: float) -> str:
    return number(value, 2, True) + (f" [{low:+.2f}, {high:+.2f}]" if not pd.isna(low) else "")


def ablation_page(study: Ablation, frame: pd.DataFrame, about: About) -> str:
    """A table for each setting: every variant with its interval and its difference from the baseline."""
    lines = [f"# {study.question}", "",
             "Mean over tasks in percent with 95 % interval; *difference* from the first variant of the list "
             f"(`{study.variants[0]}`) in the same setting, in points, paired (bold: without zero). An oracle saw test "
             "labels.", ""]  # fmt: skip
    lines += [study.notes.strip(), ""] if study.notes else []
    several = frame["setting"].nunique() > 1
    for setting, group in frame.groupby("setting", sort=False):
        lines += [f"## {setting[0].upper()}{setting[1:]}", ""] if several else []
        unseen = group["unseen"].notna().any()
        header = ["variant", "mean", "95 %", "normalised", "difference", *(["seen", "unseen"] if unseen else []),
                  "adapt s", "trainable", "n"]  # fmt: skip
        rows = []
        for r in group.itertuples():
            oracle = " (oracle)" if accesses.read(r.access).labelled("test") else ""
            rows.append([
                r.variant + oracle, number(r.mean),
                f"{r.low:.1f} to {r.high:.1f}" if not pd.isna(r.low) else NONE, number(r.normalised),
                gap(r.difference, r.difference_low, r.difference_high),
                *([number(r.seen), number(r.unseen)] if unseen else []), number(r.adapt_seconds),
                f"{r.trainable:,.0f}", str(r.n),
            ])  # fmt: skip
        lines += [*table(header, rows), ""]
    return "\n".join([*lines[:-1], *about.footer()])


def refresh(folder: Path) -> list[Path]:
    """Put the tables of studies into the reports of a results folder; the reports that changed.

    A report is any ``folder/*.md``. The table that follows a line ``<!-- studies/ablations/parts.md, table 1 -->``
    becomes the first table of that file, and everything else stays as it is.

    Raises:
        UserError: a marker names a file or a table that is not there; no report is changed then.
    """
    new = {path: refreshed(path.read_text(encoding="utf-8"), path) for path in sorted(folder.glob("*.md"))}
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        write_atomic(path, new[path])
    return changed


def refreshed(text: str, report: Path) -> str:
    """The text of ``report`` with the tables that its markers name."""
    lines, new, i = text.split("\n"), list[str](), 0
    while i < len(lines):
        new.append(lines[i])
        marker = MARKER.fullmatch(lines[i].strip())
        i += 1
        if not marker:
            continue
        blank = i
        while blank < len(lines) and not lines[blank].strip():
            blank += 1
        end = blank
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        # A marker without a table yet takes its own blank line along.
        new += ["", *_table_of(report.parent / marker[1], int(marker[2]), report)]
        i = end if end > blank else i
    return "\n".join(new)


def _table_of(path: Path, wanted: int, report: Path) -> list[str]:
    """The lines of a page's table, counted from 1."""
    if not path.is_file():
        raise UserError(
            f"{shown(report)} shows a table of {shown(path)}, which is not there",
            "Write it with ./run_all.sh study KIND --tables, or mend the line <!-- ... --> in the report.",
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("|") and not (i and lines[i - 1].startswith("|"))]
    if wanted > len(starts):
        raise UserError(
            f"{shown(report)} shows table {wanted} of {shown(path)}, which has {len(starts)}",
            "Mend the line <!-- ... --> in the report.",
        )
    after = lines[starts[wanted - 1] :]
    return after[: next((i for i, line in enumerate(after) if not line.startswith("|")), len(after))]
