"""Do intervals and verdicts of `statistics` hold on results of known truth? `python -m benchmark.scores.simulation`

A run's samples are right where `level + seed's own level + luck > 0`; part of a sample's luck is shared by all runs,
as a hard image is hard for every model. The truth is the probability of being right over new seeds and samples.
Coverage: how often the nominal 95 % interval holds it. False positives: how often two methods of equal truth are said
to differ (both directions together). Power: how often a true difference is seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from benchmark.scores import statistics as stats

#: The quantile level at which a run is right, for a success rate of about 84 %.
LEVEL = 1.0


@dataclass(frozen=True)
class World:
    """Results of one kind: `tasks` of `n` samples, `seeds` runs of a method (1: deterministic).

    `spread`: standard deviation of a seed's own level, once over all tasks and once on each; `shared`: correlation of a
    sample's luck between runs.
    """

    name: str
    seeds: int
    n: int
    spread: float = 0.0
    shared: float = 0.0
    tasks: int = 8


WORLDS = [
    World("deterministic, 60 samples a task", 1, 60),
    World("deterministic, 750 samples a task", 1, 750),
    World("deterministic, 20 tasks of 200", 1, 200, tasks=20),
    World("5 seeds that agree", 5, 200, 0.0, 0.9),
    World("5 seeds, sampling dominates", 5, 200, 0.03, 0.9),
    World("5 seeds, both count", 5, 200, 0.1, 0.5),
    World("5 seeds, seeds dominate", 5, 200, 0.3, 0.9),
    World("3 seeds, both count", 3, 200, 0.1, 0.5),
]


def draw(rng: np.random.Generator, world: World, runs: int, level: float = LEVEL) -> list[dict[str, np.ndarray]]:
    """`runs` results `{task: right [n]}` that share their samples."""
    spread, shape = world.spread, (runs, world.tasks, world.n)
    levels = level + rng.normal(0, spread, (runs, 1, 1)) + rng.normal(0, spread, (runs, world.tasks, 1))
    common, own = rng.normal(size=(1, *shape[1:])), rng.normal(size=shape)
    right = levels + world.shared**0.5 * common + (1 - world.shared) ** 0.5 * own > 0
    return [{f"task {number}": task for number, task in enumerate(run)} for run in right]


def truth(world: World, level: float = LEVEL) -> float:
    """The expected score, in percent."""
    return 100 * float(distributions.norm.cdf(level / np.sqrt(1 + 2 * world.spread**2)))


def coverage(world: World, repetitions: int, seed: int = 0, resamples: int = 1000) -> float:
    """How often the interval of `stats.interval` holds the truth."""
    rng, expected = np.random.default_rng(seed), truth(world)
    hits = 0
    for repetition in range(repetitions):
        runs = draw(rng, world, world.seeds)
        if world.seeds == 1:
            found = stats.bootstrap_interval(runs[0], n=resamples, seed=repetition)
        else:
            found = stats.interval(runs)
        hits += found.low <= expected <= found.high
    return hits / repetitions


def differing(world: World, repetitions: int, gap: float = 0.0, seed: int = 0, resamples: int = 1000) -> float:
    """How often two methods whose levels differ by `gap` are not called tied."""
    rng = np.random.default_rng(seed)
    hits = 0
    for repetition in range(repetitions):
        both = _two(rng, world, gap)
        hits += not stats.paired_difference(*both, n=resamples, seed=repetition).tied
    return hits / repetitions


def _two(rng: np.random.Generator, world: World, gap: float) -> list[dict[int | None, stats.Scores]]:
    """Runs of two methods on the same samples, their seeds the same numbers."""
    state = draw(rng, world, 2 * world.seeds)
    if gap:
        # The second method is worse by turning right answers wrong at random.
        keep = 1 - gap
        state[world.seeds :] = [
            {task: right & (rng.random(len(right)) < keep) for task, right in run.items()}
            for run in state[world.seeds :]
        ]
    halves = state[: world.seeds], state[world.seeds :]
    return [{None if world.seeds == 1 else place: run for place, run in enumerate(half)} for half in halves]


def ranks(world: World, repetitions: int, methods: int = 12, seed: int = 0) -> tuple[float, float]:
    """How often a rank interval holds the row's true rank, and how often a row of equal methods is set apart.

    Methods come in pairs of equal truth, the pairs 3 points apart; any rank of its pair is a true rank of a row.
    """
    rng = np.random.default_rng(seed)
    held, apart, rows = 0, 0, 0
    for _ in range(repetitions):
        found: list[dict[int | None, stats.Scores]] = []
        drawn = draw(rng, world, methods * world.seeds)
        for place in range(methods):
            keep = 1 - 0.03 * (place // 2)
            runs = drawn[place * world.seeds : (place + 1) * world.seeds]
            kept = [{task: right & (rng.random(len(right)) < keep) for task, right in run.items()} for run in runs]
            found.append({None if world.seeds == 1 else number: run for number, run in enumerate(kept)})
        for place, (low, high) in enumerate(stats.rank_intervals(found)):
            pair = {place // 2 * 2 + 1, place // 2 * 2 + 2}
            held += any(low <= rank <= high for rank in pair)
            apart += not all(low <= rank <= high for rank in pair)
            rows += 1
    return held / rows, apart / rows


def table(repetitions: int, named: str = "") -> str:
    """Markdown: coverage, false positives and power in every world (whose name holds `named`); the rank intervals."""
    lines = ["| results | coverage | false positives | power, 2 points |", "|---|---:|---:|---:|"]
    for place, world in enumerate(WORLDS):
        if named not in world.name:
            continue
        cells = (
            coverage(world, repetitions, seed=place),
            differing(world, repetitions, seed=100 + place),
            differing(world, max(1, repetitions // 4), gap=0.02 / 0.84, seed=200 + place),
        )
        lines.append(f"| {world.name} | {' | '.join(f'{100 * cell:.1f} %' for cell in cells)} |")
    lines += ["", "| rank intervals, 12 methods in equal pairs | hold a true rank | part a pair |", "|---|---:|---:|"]
    for world in (WORLDS[1], WORLDS[5]):
        if named not in world.name:
            continue
        held, apart = ranks(world, max(1, repetitions // 10))
        lines.append(f"| {world.name} | {100 * held:.1f} % | {100 * apart:.2f} % |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4000, metavar="N", help="simulated comparisons a number")
    parser.add_argument("--named", default="", metavar="TEXT", help="only kinds of results whose name holds this")
    arguments = parser.parse_args(argv)
    print(table(arguments.repetitions, arguments.named))


if __name__ == "__main__":
    main()
