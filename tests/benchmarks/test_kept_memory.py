"""Updates of a method in a process that keeps freed memory, against one that hands it back to the system.

    ./run_all.sh --bench -k kept_memory -s                                      # minutes
    SYMERGE_BENCH_METHOD=wemoe SYMERGE_BENCH_ROUNDS=2 ./run_all.sh --bench -k kept_memory -s

Each is a process of its own, one thread, one after the other; the least of each number over the rounds, each over all
tasks of ``vision-small-8``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmark.common.project import ROOT

METHOD = os.environ.get("SYMERGE_BENCH_METHOD", "wemoe")
ROUNDS = int(os.environ.get("SYMERGE_BENCH_ROUNDS", 1))
PROGRAM = """
import json, resource, sys
import torch
if sys.argv[1] == "kept":
    from benchmark.common.processor import keep_freed_memory
    keep_freed_memory()
torch.set_num_threads(1)
import methods
from benchmark import suites
from methods.api import Stream

bench, taken = suites.open_bench(suites.load("vision-small-8")), []
sources = {task: bench.source(task, "test") for task in bench.tasks}
images = {task: torch.stack([source[torch.arange(16)][0]] * int(sys.argv[3])) for task, source in sources.items()}
stream = Stream.from_batches(images)

def rounds(steps, total, text):
    for step in steps:
        before = resource.getrusage(resource.RUSAGE_SELF)
        yield step
        after = resource.getrusage(resource.RUSAGE_SELF)
        taken.append([getattr(after, n) - getattr(before, n) for n in ("ru_utime", "ru_stime", "ru_minflt")])

stream.progress = rounds
methods.get(sys.argv[2])(bench.experts(), stream, steps=int(sys.argv[3]), batch_size=16)
print(json.dumps([min(column) for column in zip(*taken)]))
"""


def test_kept_memory_against_memory_handed_back() -> None:
    found = {}
    for how in ("handed back", "kept"):
        words = [sys.executable, "-c", PROGRAM, how, METHOD, str(ROUNDS)]
        done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
        found[how] = json.loads(done.stdout.splitlines()[-1])
        user, system, pages = found[how]
        print(
            f"\n{METHOD}, memory {how}: {user + system:.1f} CPU s a round, {system:.1f} the system's; {pages:,} pages"
        )
    plain, kept = (sum(found[how][:2]) for how in ("handed back", "kept"))
    print(f"kept against handed back: {kept / plain:.2f} of the CPU time")
