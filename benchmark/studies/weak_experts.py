"""Weaker experts for ablations: fine-tuned again with fewer steps or with wrong labels, kept in the cache folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from benchmark.assets.vision import finetuning as finetune
from benchmark.checkpoints.families import save_state, sha256
from benchmark.common.cache import arrays_sha256, cache_dir
from benchmark.common.errors import UserError
from benchmark.common.seeds import derive_seed
from benchmark.suites.bench import Bench


def weak_experts(
    bench: Bench, *, expert_steps: int | None, label_noise: float | None, weak: int | None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Files and hashes of the first ``weak`` tasks' experts (all without it), made where they are missing.

    Args:
        expert_steps: steps of fine-tuning; None for as many as the committed experts had.
        label_noise: share of training labels replaced by another class, each wrong class alike.

    Raises:
        UserError: experts of another kind than the mini vision suites'.
    """
    experts, files, hashes = bench.experts(), {}, {}
    full = finetune.SCHEDULE
    steps = expert_steps or full.steps
    schedule = dataclasses.replace(full, steps=steps, warmup=max(1, full.warmup * steps // full.steps))
    for task in list(bench.tasks)[:weak]:
        split: Any = getattr(bench.source(task, "train"), "split", None)
        head: Any = experts.copy_head(task)
        if bench.suite.scale != "mini" or not hasattr(split, "images"):
            raise UserError(
                f"experts of {bench.suite.name} cannot be fine-tuned again here", "Name a mini suite of images."
            )
        about = {
            "task": task,
            "schedule": dataclasses.asdict(schedule),
            "noise": label_noise,
            "data": arrays_sha256(split.images, split.labels),
            "base": bench.checkpoints["base.safetensors"],
            "head": bench.checkpoints[f"heads/{task}.safetensors"],
        }
        run = {"run": json.dumps(about, sort_keys=True)}
        path = cache_dir() / "experts" / f"{bench.backbone}-{steps}-{label_noise or 0:g}" / f"{task}.safetensors"
        if not _made_from(path, run):
            labels = _noisy(split.labels, len(split.classes), label_noise or 0.0, derive_seed("noise", task))
            expert, _ = finetune.finetune(
                {n: experts.base[n] for n in experts.base}, head, split.images, labels, task=task,
                backbone=bench.backbone, schedule=schedule,
            )  # fmt: skip
            save_state(path, expert.state_dict(), torch.float16, run)
        files[task], hashes[task] = path, sha256(path)
    return files, hashes


def _noisy(labels: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wrong = (labels + rng.integers(1, classes, size=len(labels))) % classes
    return np.where(rng.random(len(labels)) < share, wrong, labels)


def _made_from(path: Path, run: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}) == run
