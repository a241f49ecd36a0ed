"""The columns of a board's tables: what each is called, how a row fills it, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from benchmark.board.beside import within
from benchmark.board.rows import INCOMPLETE, TRIAL, Board
from benchmark.records import metrics
from benchmark.records.record import SOURCES

NONE = "–"
#: After the name of a row that has a remark.
REMARK = "†"


class Column(NamedTuple):
    """`align` is ">" for numbers and "<" for text; `cell(row)` is the text of a row of the board."""

    name: str
    align: str
    cell: Callable[[Any], str]


MEANING = {
    "method": "name, and its parameters that are not the suite's defaults; an oracle saw test labels and is not "
    "ranked, and a row that was not measured here says so; † has a remark",
    "mean": "mean over all tasks of the score, in percent; seeds averaged",
    "95 %": "confidence interval of the number to the left: over test samples for n = 1, over seeds and samples for "
    "n > 1",
    "normalised": "mean over tasks of the score in percent of that task's own expert (individual); expert / score "
    "where lower is better",
    "Δm": "mean over tasks of the change from the task's own expert, in percent of the expert's score, with the sign "
    "turned where lower is better; negative is worse than the experts",
    "worst task": "the task with the lowest score; where metrics differ, with the lowest normalised score",
    "mean rank": "rank among the methods of the track, averaged over tasks; 1 is best, and equal scores share the "
    "mean of their ranks",
    "access": 'data the method was handed besides the experts; "unlabelled test" means it adapts on the test inputs',
    "task id": "whether inference must be told the task beyond choosing its head",
    "n": "number of seeds; a deterministic method runs once",
    "track": "the game a method plays: ranks, and what follows from them, are within a track, since what stores more "
    "or sees more is no better merge for it",
    "rank": "place in its track, by the mean over tasks, or by the expert-normalised mean where metrics differ",
    "overall": "place among the methods of all tracks",
    "reference": "mean of this project's own committed runs with the same parameters and seeds",
    "to reference": "what was measured less the reference, in points",
    "may rank": "the ranks that hold with 95 % confidence: 1 + the methods surely better, to the number of methods "
    "less those surely worse; within the track, and sure of all the row's comparisons together (Bonferroni), while a "
    "win or a tie is said of one pair by itself: a row may be ranked alike with one that it surely beats",
    "to the row above": "paired difference to the next better method of the track on the same samples, with its 95 % "
    "interval; tied where that holds zero",
    "chosen": "the value that was chosen on labelled validation samples",
    "of": "the values it was chosen among",
    "at the edge": "the chosen value is the lowest or highest that was tried, so a better one may lie outside",
    "each seed": "the score of each seed, in their order",
    "published": "what a paper or repository prints for the same suite, backbone and checkpoint family; * a secondary "
    "summary, ‡ not printed but the mean of the tasks that are",
    "gap": "measured less published, in points",
    "within": "whether what is published lies within the 95 % interval of what was measured, to a tenth of a point",
    "storage": "what must be kept, in models (1 is a single merged model, heads of the tasks left out)",
    "merge, adapt, evaluate": "wall seconds, mean over seeds, on the machine that ran them",
    "peak memory": "largest anonymous memory beyond that at the start of the run; CUDA: largest allocation there",
    "trainable": "parameters the method trains",
    "images": "samples it drew from its data, repeats counted",
}


def number(value: Any, digits: int = 1) -> str:
    """The number with this many decimals, or a dash where there is none."""
    return NONE if value is None or pd.isna(value) else f"{value:,.{digits}f}"


def _interval(name: str) -> Callable[[Any], str]:
    low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    return lambda row: NONE if pd.isna(row[low]) else f"{row[low]:.1f} to {row[high]:.1f}"


def _spread(name: str) -> Callable[[Any], str]:
    low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")

    def cell(row: Any) -> str:
        half = "" if pd.isna(row[low]) else f" ±{(row[high] - row[low]) / 2:.1f}"
        return number(row[name]) + half

    return cell


def _name(row: Any) -> str:
    mark = {"reference": " (not ranked)", "oracle": " (oracle)"}
    source = "" if row["source"] == SOURCES[0] else f" ({row['source']})"
    return row["method"] + mark.get(row["row"], "") + source + (f" {REMARK}" if row["remark"] else "")


def worst(row: Any) -> str:
    """The worst task and its score."""
    return f"{row['worst_task']} {row['worst']:.1f}" if row["worst_task"] else NONE


def may_rank(row: Any) -> str:
    """The interval of a row's rank."""
    if pd.isna(row["rank_low"]):
        return NONE
    return f"{row['rank_low']}" if row["rank_low"] == row["rank_high"] else f"{row['rank_low']} to {row['rank_high']}"


def above(row: Any) -> str:
    """The difference to the next better method, its interval, and "tied" where that holds zero."""
    if pd.isna(row["above"]):
        return NONE
    tied = ", tied" if row["above_tied"] == "tied" else ""
    return f"{row['above']:+.1f} ({row['above_low']:+.1f} to {row['above_high']:+.1f}){tied}"


def _number(name: str, key: str, digits: int = 1) -> Column:
    return Column(name, ">", lambda row: number(row[key], digits))


RANK = _number("rank", "rank", 0)
METHOD = Column("method", "<", _name)
MEAN = _number("mean", "mean")
NORMALISED = _number("normalised", "normalised")
DELTA = Column("Δm", ">", lambda row: NONE if pd.isna(row["delta"]) else f"{row['delta']:+.1f}")
WORST = Column("worst task", ">", worst)
ACCESS = Column("access", "<", lambda row: row["access"])
REFERENCE = _number("reference", "reference")
TO_REFERENCE = Column(
    "to reference", ">", lambda row: NONE if pd.isna(row["reference_gap"]) else f"{row['reference_gap']:+.1f}"
)


def chosen(row: Any) -> str:
    """The chosen value, with a mark where it is an end of its grid."""
    if not row["chosen"]:
        return NONE
    return row["chosen"] + (f" ({row['at_edge']} of {row['grid']})" if row["at_edge"] else "")


CHOSEN = Column("chosen", "<", chosen)
SEARCHES = [
    METHOD,
    Column("chosen", "<", lambda row: row["chosen"]),
    Column("of", "<", lambda row: row["grid"]),
    Column("at the edge", "<", lambda row: row["at_edge"] or "no"),
]
N = Column("n", ">", lambda row: str(row["n"]))
EACH_SEED = Column(
    "each seed", "<", lambda row: ", ".join(f"{float(text):.1f}" for text in row["seed_scores"].split()) or NONE
)
COST = [
    METHOD,
    _number("storage", "storage_models", 2),
    _number("merge s", "merge_seconds"),
    _number("adapt s", "adapt_seconds"),
    _number("evaluate s", "evaluate_seconds"),
    _number("peak memory MiB", "peak_anonymous_mib", 0),
    _number("peak CUDA MiB", "peak_cuda_mib", 0),
    _number("trainable", "trainable_parameters", 0),
    _number("images", "images_seen", 0),
]
VERSUS = [RANK, METHOD, Column("may rank", ">", may_rank), Column("to the row above", ">", above)]
PUBLISHED = [
    METHOD,
    Column("measured", ">", _spread("mean")),
    _number("published", "published"),
    Column("gap", ">", lambda row: NONE if pd.isna(row["published_gap"]) else f"{row['published_gap']:+.1f}"),
    Column("within", "<", lambda row: within(row["low"], row["high"], row["published"]) or NONE),
    Column("source", "<", lambda row: row["published_source"]),
    Column("others print", "<", lambda row: row["published_others"] or NONE),
]


def _text(name: str) -> Column:
    return Column(name.replace("_", " "), "<", lambda row: row[name] or NONE)


MISSING = [_text(name) for name in INCOMPLETE]
TRIALS = [_text(name) if name != "limit" else _number("limit", "limit", 0) for name in TRIAL]


def of_bystanders(board: Board) -> list[str]:
    """What the columns of the suite's bystanders mean, a line each."""
    absent = "a dash: it was not measured, or the merge is no model by itself"
    return [
        f"- **{each.title}**: {each.about or each.metric}; in no mean and no rank; {absent}."
        for each in board.bystanders
    ]


def unlike(board: Board) -> bool:
    """Whether its tasks have different metrics."""
    return len(set(board.metrics.values())) > 1


def summary(board: Board) -> list[Column]:
    """What the overview shows of a board: no mean of scores where they are not averaged."""
    if board.averaged:
        return [RANK, METHOD, MEAN, Column("95 %", ">", _interval("mean")), NORMALISED, ACCESS, N]
    relative = [NORMALISED, Column("95 %", ">", _interval("normalised")), DELTA]
    return [RANK, METHOD, *relative, Column("95 %", ">", _interval("delta")), ACCESS, N]


def scores(board: Board) -> list[Column]:
    """The board's first table."""
    first = summary(board)
    if board.averaged and unlike(board):
        first[-2:-2] = [DELTA]
    return [
        *first[:-2],
        WORST,
        _number("mean rank", "mean_rank"),
        *(_number(each.title, each.name, each.digits) for each in board.bystanders),
        ACCESS,
        Column("task id", "<", lambda row: row["task_id"]),
        N,
        *_references(board),
    ]


def _references(board: Board) -> list[Column]:
    """Beside the project's own numbers, where there are any for a row."""
    return [REFERENCE, TO_REFERENCE] if board.rows["reference"].notna().any() else []


def seeds(board: Board) -> list[Column]:
    """Of rows with several seeds, the score of each."""
    return [METHOD, N, MEAN if board.averaged else NORMALISED, EACH_SEED]


def tasks(board: Board) -> list[Column]:
    """A column for each task, with the metric and its arrow where metrics differ."""
    first = MEAN if board.averaged else NORMALISED
    return [METHOD, first, *(_task(board, task) for task in board.tasks)]


def _task(board: Board, task: str) -> Column:
    if not unlike(board):
        return _number(task, task)
    metric = metrics.METRICS.get(board.metrics[task])
    if metric is None:
        return _number(f"{task} ({board.metrics[task]})", task, 2)
    unit = f", {metric.unit}" if metric.unit not in ("", "%") else ""
    return _number(f"{task} ({metric.name}{unit} {metric.arrow})", task, metric.digits)


def terminal(board: Board | None) -> list[Column]:
    """The columns for a terminal, those that matter most first."""
    if board is None or board.averaged:
        first = [Column("mean", ">", _spread("mean")), Column("norm", ">", NORMALISED.cell)]
    else:
        first = [Column("norm", ">", _spread("normalised")), DELTA]
    more = []
    if board is not None:
        more = [*_references(board), *([CHOSEN] if (board.rows["chosen"] != "").any() else [])]
    costs = [_number("adapt s", "adapt_seconds"), _number("images", "images_seen", 0)]
    return [RANK, METHOD, *first, WORST, ACCESS, *more, *costs]
