"""Two methods on the same samples: difference, paired interval, wins and losses by task."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark import rows, stats
from benchmark.errors import UserError, unknown
from benchmark.record import Record


def compare(records: Iterable[Record], first: str, second: str, suite: str) -> str:
    """Markdown: first minus second over all tasks and on each, in points, with 95 % intervals.

    Records of the same run (a local and a reference one) count once, the later in ``records`` winning.
    Raises :class:`UserError` where one of the two has no complete record.
    """
    found: dict[str, dict[int | None, Record]] = {}
    for record in records:
        if record.status == "done" and not record.missing:
            found.setdefault(record.variant, {})[record.spec.seed] = record
    for name in (first, second):
        if name not in found:
            raise unknown("method with records", name, found, f"Run it: ./run_all.sh --suite {suite} --methods {name}")
    sides = [{seed: _scores(record) for seed, record in found[name].items()} for name in (first, second)]
    tasks = next(iter(found[first].values())).suite_tasks
    whole = stats.paired_difference(sides[0], sides[1])
    each = {}
    for task in tasks:
        each[task] = stats.paired_difference(*({s: {task: v[task]} for s, v in side.items()} for side in sides))
    wins = sum(d.value > 0 and not d.tied for d in each.values())
    losses = sum(d.value < 0 and not d.tied for d in each.values())
    verdict = "tied" if whole.tied else f"{first if whole.value > 0 else second} is better"
    lines = [
        f"{first} (n={len(sides[0])}) minus {second} (n={len(sides[1])}) on {suite}, points of the mean over tasks:",
        f"{whole.value:+.2f} [{whole.low:+.2f}, {whole.high:+.2f}]: {verdict}. "
        f"By task: {wins} wins, {len(tasks) - wins - losses} ties, {losses} losses.",
        "",
        "| task | difference | 95 % | |",
        "|---|---:|---:|---|",
    ]
    for task, gap in each.items():
        said = "tied" if gap.tied else ("win" if gap.value > 0 else "loss")
        lines.append(f"| {task} | {gap.value:+.1f} | {gap.low:+.1f} to {gap.high:+.1f} | {said} |")
    return "\n".join(lines)


def _scores(record: Record) -> dict:
    found = rows.scores(record)
    if found is None:
        raise UserError(f"{record.variant} on {record.spec.suite} has no statistics per sample to pair")
    return found
