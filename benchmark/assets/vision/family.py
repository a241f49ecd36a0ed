"""Makes the mini family: base, text tower, heads and experts in one folder, with its manifest and scores.

Every file appears atomically and carries what it was made from (schedule, seed, hashes of data, base and head), so a
second call makes only what is missing or was made from something else.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmark.assets.training import Schedule
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision import pretraining as pretrain
from benchmark.checkpoints.families import describe_files, read_manifest, save_json, save_state, sha256
from benchmark.common.project import WEIGHTS
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.backbones import get_backbone
from benchmark.domains.vision.heads import ClassificationHead, zero_shot_head
from benchmark.domains.vision.vocabulary import join_towers, split_towers

FOLDER = WEIGHTS / "ViT-mini"
BACKBONE = get_backbone("ViT-mini")
CHECKPOINT = "base.checkpoint.safetensors"
WHAT = (
    "A tiny CLIP pre-trained in this project by contrast with class-name prompts, and experts fine-tuned from it "
    "under frozen prompt-built heads. The suites' class names, and a few training images of every class, were seen "
    "in pre-training."
)


@dataclass(frozen=True)
class Settings:
    """What a family is made with; the defaults made the committed one."""

    pool: dict[str, Any] = field(default_factory=lambda: dict(pretrain.POOL))
    base: Schedule = pretrain.SCHEDULE
    expert: Schedule = finetune.SCHEDULE
    base_seed: int = pretrain.SEED
    expert_seed: int = finetune.SEED

    def describe(self) -> dict[str, Any]:
        """As plain JSON, for the manifest and the log of the choice."""
        return {
            "base": {"schedule": asdict(self.base), "seed": self.base_seed, "pool": self.pool, "shift": pretrain.SHIFT},
            "expert": {"schedule": asdict(self.expert), "seed": self.expert_seed, "shift": finetune.SHIFT},
        }


def make_family(
    suite: str,
    tasks: list[str],
    out: Path,
    *,
    settings: Settings | None = None,
    base: bool = False,
    device: str = "cpu",
    threads: int = 2,
    sources: Path | None = None,
    committed: Path = FOLDER,
    splits: tuple[str, ...] = ("validation", "test"),
) -> dict[str, Any]:
    """Make, or go on making, the experts of ``tasks`` in ``out``; returns the manifest.

    Args:
        suite: names the set whose weight average is scored.
        base: pre-train the base and build the heads (needs the pool's packages, under ``sources`` if given);
            otherwise base, text tower and heads are taken over from ``committed``.
        threads: of torch on the CPU. Another number rounds differently.
        splits: the images on which base and experts are scored, after all training.
    """
    settings = settings or Settings()
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    earlier = manifest_of(out).get("made", {})
    seconds: dict[str, float] = dict(earlier.get("seconds", {}))
    if base:
        seconds |= _make_base(out, settings, device, sources)
    else:
        _take_base(out, committed)
    based = " --base" if base or "--base" in earlier.get("command", "") else ""
    based += f" --seed {settings.base_seed}" if base and settings.base_seed else ""
    part = f" --tasks {' '.join(tasks)}" if suite in vision.SUITES and tasks != vision.tasks(suite) else ""
    command = f"symerge-bench assets experts {suite} --retrain{based}{part} --threads {threads}"
    about = {
        "command": command,
        **settings.describe(),
        "device": device,
        "machine": platform.machine(),
        "threads": threads,
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
    }
    weights = load_file(out / "base.safetensors")
    for number, task in enumerate(tasks, 1):
        path, head_path = out / f"{task}.safetensors", out / f"heads/{task}.safetensors"
        run = {
            "task": task,
            "schedule": asdict(settings.expert),
            "seed": settings.expert_seed,
            "base": sha256(out / "base.safetensors"),
            "head": sha256(head_path),
            "data": vision.info(task).arrays_sha256["train"],
        }
        if _made_from(path, run):
            continue
        start = time.monotonic()
        print(f"expert {number} of {len(tasks)}: {task}", file=sys.stderr)
        data = vision.load_split(task, "train")
        expert, _ = finetune.finetune(
            weights,
            load_head(head_path),
            data.images,
            data.labels,
            task=task,
            schedule=settings.expert,
            seed=settings.expert_seed,
            device=device,
        )
        save_state(path, expert.state_dict(), torch.float16, _provenance(run))
        seconds[task] = round(time.monotonic() - start, 1)
        _write_manifest(out, {**about, "seconds": seconds})
    _write_manifest(out, {**about, "seconds": seconds}, _scores(out, suite, tasks, device, splits))
    return manifest_of(out)


def evaluate_family(
    folder: Path, tasks: list[str], split: str, device: str = "cpu", average: bool = False
) -> dict[str, dict[str, float]]:
    """``{"pretrained": {task: per cent}, "individual": ..., ("average": ...)}`` on one split."""
    states = {t: load_file(folder / f"{t}.safetensors") for t in tasks}
    base = load_file(folder / "base.safetensors")
    mean = finetune.average(list(states.values())) if average else {}
    rows: dict[str, dict[str, float]] = {"pretrained": {}, "individual": {}}
    if average:
        rows["average"] = {}
    for task in tasks:
        data, head = vision.load_split(task, split), load_head(folder / f"heads/{task}.safetensors")
        for row in rows:
            state = {"pretrained": base, "individual": states[task], "average": mean}[row]
            encoder = finetune.load_encoder(state, BACKBONE, device)
            rows[row][task] = round(finetune.accuracy(encoder, head, data.images, data.labels, device=device), 2)
    return rows


def load_head(path: Path) -> ClassificationHead:
    """A stored head, in float32."""
    return ClassificationHead(**{k: v.float() for k, v in load_file(path).items()})


def manifest_of(folder: Path) -> dict[str, Any]:
    """The folder's manifest, or an empty one."""
    return read_manifest(folder) if (folder / "manifest.json").exists() else {}


def _make_base(out: Path, settings: Settings, device: str, sources: Path | None) -> dict[str, float]:
    run = {**settings.describe()["base"], "data": {t: vision.info(t).arrays_sha256["train"] for t in vision.tasks()}}
    if all(_made_from(out / f"{part}.safetensors", run) for part in ("base", "text")):
        return {}
    start = time.monotonic()
    pool = pretrain.suite_pool(**settings.pool, sources=sources)
    clip, tokenizer, _ = pretrain.pretrain(
        pool, schedule=settings.base, seed=settings.base_seed, device=device, checkpoint=out / CHECKPOINT
    )
    visual, text = split_towers(clip, tokenizer)
    save_state(out / "text.safetensors", text, torch.float16, _provenance(run))
    # the heads come from the text tower as it is stored; the base is written last and marks that all is there
    clip, tokenizer = join_towers(BACKBONE, visual, load_file(out / "text.safetensors"))
    for task in vision.tasks():
        info = vision.info(task)
        head = zero_shot_head(clip, tokenizer, info.classes, info.templates)
        save_state(out / f"heads/{task}.safetensors", head.state_dict(), torch.float16)
    save_state(out / "base.safetensors", visual, torch.float16, _provenance(run))
    (out / CHECKPOINT).unlink(missing_ok=True)
    return {"base": round(time.monotonic() - start, 1)}


def _take_base(out: Path, committed: Path) -> None:
    if out.resolve() == committed.resolve():
        return
    source = read_manifest(committed)
    for name in ("base.safetensors", "text.safetensors", *(f"heads/{t}.safetensors" for t in source["classes"])):
        if not (out / name).exists() or sha256(out / name) != source["files"][name]["sha256"]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(committed / name, out / name)


def _scores(out: Path, suite: str, tasks: list[str], device: str, splits: tuple[str, ...]) -> dict[str, Any]:
    scores: dict[str, Any] = manifest_of(out).get("scores", {})
    for split in splits:
        print(f"scores on {split} images", file=sys.stderr)
        for row, values in evaluate_family(out, tasks, split, device, average=split == "validation").items():
            # an average belongs to the set of experts that it is taken over
            row_scores = scores.setdefault(split, {}).setdefault(row, {})
            row_scores.update({suite: values} if row == "average" else values)
    return scores


def _write_manifest(out: Path, run: dict[str, Any], scores: dict[str, Any] | None = None) -> None:
    present = [t for t in vision.tasks() if (out / f"{t}.safetensors").exists()]
    names = [
        "base.safetensors",
        "text.safetensors",
        *(f"{t}.safetensors" for t in present),
        *(f"heads/{t}.safetensors" for t in present),
    ]
    choice = out / "choice.json"
    save_json(
        out / "manifest.json",
        {
            "name": BACKBONE.name,
            "backbone": BACKBONE.name,
            "quick_gelu": BACKBONE.quick_gelu,
            "what": WHAT,
            **({"choice": json.loads(choice.read_text(encoding="utf-8"))["sentence"]} if choice.exists() else {}),
            "made": run,
            "classes": {t: vision.info(t).classes for t in present},
            "data": {t: vision.info(t).arrays_sha256["train"] for t in present},
            "shapes": {k: list(v.shape) for k, v in load_file(out / "base.safetensors").items()},
            "files": describe_files(out, names),
            "scores": scores if scores is not None else manifest_of(out).get("scores", {}),
        },
    )


def _provenance(run: dict[str, Any]) -> dict[str, str]:
    return {"run": json.dumps(run, sort_keys=True)}


def _made_from(path: Path, run: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}) == _provenance(run)
