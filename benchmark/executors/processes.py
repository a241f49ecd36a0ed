"""Several devices: one process each works on the same plan, and the store's locks decide who does which run.

A process that dies takes nothing with it but the run it was at: the parent does what is left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmark.common.errors import UserError
from benchmark.common.project import ROOT

if TYPE_CHECKING:
    import torch


def command(argv: Sequence[str], device: torch.device, told: Path) -> list[str]:
    """The command line of one worker: the parent's own arguments on one device. A later option overrides an earlier."""
    return [sys.executable, "-P", "-m", "benchmark", *argv, "--device", str(device), "--worker", str(told)]


def typed(argv: Sequence[str]) -> list[str]:
    """What the user typed, of a worker's command line too."""
    return list(argv[:-4] if argv[-2:-1] == ["--worker"] else argv)


def told(path: Path) -> dict[str, str | None]:
    """What the parent of this worker has written for it: the records that were there before."""
    starts: dict[str, str | None] = json.loads(path.read_text(encoding="utf-8"))
    return starts


def labels(devices: Sequence[torch.device]) -> list[str]:
    """A name for each worker: its device, numbered where that is named more than once."""
    often, seen = Counter(map(str, devices)), Counter[str]()
    names = []
    for device in map(str, devices):
        seen[device] += 1
        names.append(device if often[device] == 1 else f"{device}#{seen[device]}")
    return names


def spread(
    argv: Sequence[str], devices: Sequence[torch.device], before: Mapping[str, str | None], threads: int | None = None
) -> list[int]:
    """Run the command ``argv`` (of ``run``) once per device, at the same time, and wait; returns the exit statuses.

    Args:
        before: records that were there (``runner.before``), so that ``--force`` does a run once, not once a device.
        threads: of each worker on the CPU; by default the cores are shared out.

    Raises:
        UserError: a worker could not be started. KeyboardInterrupt ends the workers, and their runs go on later.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = threads or max(1, cores // len(devices))
    environment = {"OMP_NUM_THREADS": str(share), "MKL_NUM_THREADS": str(share), **os.environ, "TQDM_DISABLE": "1"}
    # The workers run this very code, wherever it was imported from.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    workers: list[subprocess.Popen[str]] = []
    readers = []
    told = tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8")  # noqa: SIM115, closed below
    try:
        json.dump(before, told)
        told.flush()
        for device, label in zip(devices, labels(devices), strict=True):
            worker = subprocess.Popen(
                command(argv, device, Path(told.name)),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            workers.append(worker)
            assert worker.stderr is not None
            readers.append(threading.Thread(target=_tell, args=(worker.stderr, label), daemon=True))
            readers[-1].start()
        for worker in workers:
            worker.wait()
        for reader in readers:
            reader.join()
    except OSError as error:
        raise UserError(f"no process could be started for a device: {error}", "Name one device.") from error
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in workers:
            worker.wait()
        told.close()
    statuses = [worker.returncode for worker in workers]
    for label, status in zip(labels(devices), statuses, strict=True):
        if status not in (0, 1):
            print(f"the process on {label} ended with status {status}; its runs are done here", file=sys.stderr)
    return statuses


def _tell(stream: IO[str], label: str) -> None:
    for line in stream:
        print(f"[{label}] {line.rstrip()}", file=sys.stderr, flush=True)
