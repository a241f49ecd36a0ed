"""The data that a merge is handed or scored on: images of each task, and the encoder and heads that see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.checkpoints.alignment import Aligned, Expert, align
from benchmark.checkpoints.models import Model
from benchmark.common.bars import pause
from benchmark.common.errors import UserError, shown
from benchmark.domains.vision.backbones import Preprocessing
from benchmark.domains.vision.bench import ImageSource
from benchmark.domains.vision.encoders import Encoder, open_encoder
from benchmark.domains.vision.encoders.pixels import Pixels
from benchmark.domains.vision.own import weights
from benchmark.domains.vision.own.images import open_images
from benchmark.domains.vision.own.unlabelled import Unlabelled, open_unlabelled
from benchmark.merging.given import Given, reads_texts
from benchmark.merging.merge import Plan, open_experts
from benchmark.suites.own import Head, Splits, Task
from methods.api import Access, Experts, Stream
from methods.core.stream import Source

SPLITS = ("train", "val", "test")


@dataclass
class Sight:
    """The encoder over the base's weights, the heads, and the images (or texts) of each task.

    Attributes:
        module: the encoder.
        head_names: ``{task: what stands before weight and bias in the expert}``.
        labelled: tasks whose images have labels.
    """

    module: nn.Module
    heads: dict[str, nn.Module]
    head_names: dict[str, str]
    sources: Mapping[str, Source]
    labelled: tuple[str, ...]
    notes: list[str]

    def experts(self, plan: Plan, device: torch.device | str) -> Experts:
        """The plan's experts with encoder and heads on the device."""
        heads = {task: head.to(device) for task, head in self.heads.items() if task in plan.tasks}
        return open_experts(plan, heads=heads, encoder=self.module.to(device), device=device)

    def stream(self, access: Access, tasks: Sequence[str], device: torch.device | str, seed: int = 0) -> Stream:
        """A stream of the images; those given stand for every split that the access names."""
        from tqdm import tqdm

        def progress(rounds: Iterator[Any], total: int, text: str) -> Iterator[Any]:
            return iter(tqdm(rounds, total=total, desc=text, unit="step", delay=2, mininterval=pause(), leave=False))

        sources: dict[str, dict[str, Source]] = {split: {t: self.sources[t] for t in tasks} for split in SPLITS}
        return Stream(sources, access, seed=seed, device=device, progress=progress)


def look(base: Model, paths: Mapping[str, Path], given: Given, heads: Sequence[str] = ()) -> tuple[Aligned, Sight]:
    """Align the experts and open encoder, heads and images.

    Heads are each task's own here, also where base and experts have them alike.

    Raises:
        UserError: an encoder that no library builds, a folder without images, one that cannot be read, classes that
            are not the head's. FamilyError: see :func:`align`.
    """
    for option, named in (("--images", given.images), ("--labelled", given.labelled)):
        if unknown := [task for task in named if task not in paths]:
            raise UserError(
                f"{option} names {unknown[0]!r}, of which there is no expert", f"Experts: {', '.join(paths)}"
            )
    if reads_texts(base.config):
        raise UserError(
            f"images are given, and {shown(base.path)} reads texts ({base.config.get('model_type', 'a text model')})",
            f"Give --texts {next(iter(paths))}=FILE[:COLUMN].",
        )
    shapes = base.state.shapes
    usual = [given.head] if given.head else list(weights.USUAL)
    classifier = any(name.endswith(f"{prefix}.weight") for prefix in usual for name in _names_of(paths, base))
    encoder = open_encoder(base.path, shapes, encoder=given.encoder, features=given.features, classifier=classifier)
    if encoder.pixels is None:
        raise UserError(
            f"{shown(base.path)} does not say how images are made ready for it",
            "Put its preprocessor_config.json beside it, or describe it in a suite of your own: docs/own-suite.md",
        )
    own = [encoder.head] if encoder.head and any(n.startswith(f"{encoder.head}.") for n in shapes) else []
    aligned = align(base, paths, [*heads, *own], lambda: encoder.library_names)
    module = encoder.module
    pairs = encoder.names(shapes, f"base {shown(base.path)}")
    module.load_state_dict({name: to_float(base.state[there]) for name, there in pairs.items()})
    notes: list[str] = []
    found = {task: _head(task, expert, encoder, given.head, notes) for task, expert in aligned.experts.items()}
    heads_of = {task: head for task, (head, _, _) in found.items() if head is not None}
    sources: dict[str, ImageSource | Unlabelled] = {}
    for task in paths:
        head, _, classes = found[task]
        if task in given.labelled:
            outputs = len(head.get_parameter("weight")) if head is not None else None
            sources[task] = _labelled(task, given.labelled[task], encoder.pixels, classes, outputs, notes)
        elif task in given.images:
            sources[task] = _unlabelled(task, given.images[task], encoder.pixels)
    names = {task: prefix for task, (_, prefix, _) in found.items()}
    return aligned, Sight(module, heads_of, names, sources, tuple(given.labelled), notes)


def _names_of(paths: Mapping[str, Path], base: Model) -> list[str]:
    """Names of the first expert's tensors, or of the base's where that is an adapter."""
    from benchmark.checkpoints.files import weights as files_of
    from benchmark.checkpoints.models import open_model

    first = next(iter(paths.values()))
    return list(base.state if files_of(first).adapter else open_model(first).state)


def to_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _head(
    task: str, expert: Expert, encoder: Encoder, name: str | None, notes: list[str]
) -> tuple[nn.Module | None, str, list[str] | None]:
    """The expert's head, its name in the expert, and its classes; no head where it has none."""
    checkpoint = weights.Checkpoint(expert.path, expert.own, expert.sha256)
    try:
        found = weights.read_head(task, Head(tensors=name), checkpoint, encoder)
    except UserError as error:
        if name is not None:
            raise
        notes.append(f"{task}: no head ({error.message}); methods that need one cannot merge these")
        return None, "", None
    prefix = name or weights.prefix_of(task, checkpoint, encoder)
    return found.head, weights.ending_of(checkpoint.shapes, prefix) or prefix, found.classes


def _unlabelled(task: str, folder: Path, pixels: Pixels) -> Unlabelled:
    """All images below a folder."""
    try:
        return open_unlabelled(folder, pixels)
    except UserError as error:
        raise UserError(f"--images {task}: {error.message}", error.hint) from None


def _labelled(
    task: str, place: Path, pixels: Pixels, said: Sequence[str] | None, outputs: int | None, notes: list[str]
) -> ImageSource:
    """Images with labels: class folders, a CSV, parquet, the hub's layout. All of them are one split here."""
    about = Task.model_validate({"expert": str(place), "data": {"test": str(place)}})
    images = open_images(task, about, Splits(), said, outputs)
    notes.extend(images.notes)
    ready = Preprocessing(pixels.mean, pixels.std, torch.device("cpu"), torch.float32)
    return ImageSource(images.load("test", pixels), ready)
