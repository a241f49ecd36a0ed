"""Records of suites whose tasks have metrics of their own."""

from __future__ import annotations

import numpy as np

from benchmark.board import rows
from benchmark.records import metrics
from benchmark.records.record import Array, CorrectBits, Record, TaskResult, Values
from helpers.records import make_record, make_spec

DENSE = {"seg": "miou", "depth": "abs_err", "normal": "mean_angle"}


GLUE = {"cola": "mcc", "rte": "accuracy", "stsb": "pearson_spearman"}


N = 60


def result(metric: str, **arrays) -> TaskResult:
    if metric == "accuracy":
        kept = CorrectBits.of(arrays["correct"])
    else:
        kept = Values(arrays={name: Array.of(array) for name, array in arrays.items()})
    about, n = metrics.get(metric), metrics.samples(metric, kept)
    value = metrics.score(metric, kept)
    return TaskResult(metric=metric, value=value, higher_is_better=about.higher_is_better, n=n, statistics=kept)


def dense(quality: float, seed: int = 0) -> dict[str, TaskResult]:
    """Statistics of a model that is right with probability `quality`; what is hard in an image is so for all."""
    hard = np.random.default_rng(9).random(N)
    rng = np.random.default_rng([seed, int(1000 * quality)])
    right = rng.binomial(400, np.clip(quality + 0.2 * (0.5 - hard), 0, 1))
    confusion = np.zeros((N, 2, 2), "int32")
    confusion[:, 0, 0], confusion[:, 0, 1] = right // 2, (400 - right) // 2
    confusion[:, 1, 1], confusion[:, 1, 0] = right // 2, (400 - right) // 2
    error = (1.3 - quality) * (0.5 + hard) * rng.gamma(50, 1 / 50, N)
    count = np.full(N, 400, "int32")
    histogram = np.zeros((N, 360), "int32")
    histogram[:, 40] = 400
    return {
        "seg": result("miou", confusion=confusion),
        "depth": result("abs_err", abs_sum=error * count, rel_sum=error * count / 3, count=count),
        "normal": result("mean_angle", angle_sum=40 * error * count, count=count, histogram=histogram),
    }


def glue(quality: float, seed: int = 0) -> dict[str, TaskResult]:
    rng = np.random.default_rng([seed, int(1000 * quality)])
    label, target = np.arange(N) % 2, np.arange(N) / 10
    kept = rng.random(N) < quality
    noise = 6 * (1 - quality) * rng.normal(size=N)
    return {
        "cola": result("mcc", predicted=np.where(kept, label, 1 - label), label=label),
        "rte": result("accuracy", correct=rng.random(N) < quality),
        "stsb": result("pearson_spearman", predicted=target + noise, target=target),
    }


def record(method: str, tasks: dict[str, TaskResult], suite: str = "dense-test", seed: int | None = None) -> Record:
    made = make_record(method, tasks=[], suite_tasks=list(tasks), spec=make_spec(method, seed, suite=suite))
    return made.model_copy(update={"tasks": tasks})


def row_of(board: rows.Board, method: str) -> dict:
    (found,) = board.rows[board.rows["method"] == method].to_dict("records")
    return found
