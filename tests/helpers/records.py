"""Records for tests that need some."""

from pathlib import Path

import numpy as np

from benchmark.records.record import CorrectBits, Cost, MethodInfo, Provenance, Record, TaskResult
from benchmark.records.spec import RunSpec

#: Records as earlier versions of the program wrote them.
EARLIER = Path(__file__).parents[1] / "earlier"

TASKS = ["mnist", "fashion", "optdigits"]


def make_spec(method="ties", seed=None, **changes):
    fields = dict(
        suite="vision-mini-8",
        suite_version="1",
        backbone="ViT-mini",
        family="project",
        checkpoints={"base": "aa"},
        data={"test": dict.fromkeys(TASKS, "dd")},
        method=method,
        method_version="v1",
        parameters={},
        seed=seed,
    )
    return RunSpec(**{**fields, **changes})


def classified(correct):
    correct = np.asarray(correct, dtype=bool)
    return TaskResult(metric="accuracy", value=100 * correct.mean(), n=len(correct), statistics=CorrectBits.of(correct))


def make_record(method="ties", seed=None, accuracy=0.7, tasks=TASKS, n=200, changed=None, spec=None, **fields):
    """A finished record; each task's samples are right with probability `accuracy` (or accuracy[task])."""
    changed = changed or {}
    spec = spec or make_spec(method, seed, parameters=changed)
    rng = np.random.default_rng([ord(char) for char in f"{method}{seed}{changed}"])
    rate = accuracy if isinstance(accuracy, dict) else dict.fromkeys(tasks, accuracy)
    given = dict(
        run_id=spec.run_id,
        spec=spec,
        variant=fields.pop("variant", method),
        changed=changed,
        status="done",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
        method=MethodInfo(title=method.title(), paper="arXiv:0000.00000"),
        cost=Cost(
            merge_seconds=1.5, adapt_seconds=0.0, evaluate_seconds=2.0, peak_anonymous_mb=10.0, trainable_parameters=0,
            model_bytes=4_000_000, storage_bytes=0, images_drawn=0,
        ),
        provenance=Provenance(commit="0123456789abcdef", dirty=False, argv=["symerge-bench", "run"]),
        suite_tasks=TASKS,
        tasks={task: classified(rng.random(n) < rate[task]) for task in tasks},
    )  # fmt: skip
    return Record(**{**given, **fields})
