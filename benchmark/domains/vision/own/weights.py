"""The checkpoints of a user's suite: base and experts under the names of the base's encoder, and their heads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import Weights, read_file, weights
from benchmark.checkpoints.matching import of_adapter
from benchmark.checkpoints.models import LazyState, open_model
from benchmark.checkpoints.peft import applied, read_adapter
from benchmark.common.errors import UserError, shown, some
from benchmark.common.files import read_object
from benchmark.domains.vision.encoders import Encoder
from benchmark.domains.vision.encoders.names import aligned
from benchmark.domains.vision.heads import ClassificationHead, LinearHead
from benchmark.suites.own import Head
from methods.core.states import shapes_of

#: What classifiers are called, where the library does not say it.
USUAL = ("classifier", "head", "fc", "heads.head", "heads", "classification_head", "linear")
HEADS = tuple(f"{name}.{end}" for name in USUAL for end in ("weight", "bias"))
#: The key of a head's file under which the names of its classes may stand, a list as JSON.
CLASSES = "classes"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as it lies: its tensors, read when they are asked for, and its sha256.

    ``factors``: of an adapter, by the base's names, where nothing else of the base was trained.
    """

    place: Path
    tensors: Mapping[str, Tensor]
    sha256: str
    factors: Adapters | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, without reading one where that can be."""
        return shapes_of(self.tensors)

    def state(self, names: Mapping[str, str]) -> Mapping[str, Tensor]:
        """The tensors ``{name here: name there}`` under their names here."""
        if isinstance(self.tensors, LazyState):
            return self.tensors.named(dict(names))
        return {ours: self.tensors[there] for ours, there in names.items()}


def open_checkpoint(
    place: Path, what: str, base: Checkpoint | None = None, names: Mapping[str, str] | None = None
) -> Checkpoint:
    """A file, a model's folder or its shards, or an adapter over the ``base``.

    ``names``: of the base's tensors, by the library's own, which an adapter may have.

    Raises :class:`UserError` where there is none or it cannot be read; ``what`` it is, for the message.
    """
    if not place.exists():
        raise UserError(
            f"{what}: there is no {shown(place)}",
            "Write its path, from the YAML's folder on. Nothing is fetched: download a model, and give its folder.",
        )
    try:
        if place.is_dir() and (files := weights(place)).adapter:
            return _adapter(files, place, what, base, names or {})
        model = open_model(place)
    except FamilyError as error:
        raise UserError(f"{what}: {error}", "Give a file of weights, or a model's folder.") from None
    return Checkpoint(place, model.state, model.sha256)


def _adapter(found: Weights, place: Path, what: str, base: Checkpoint | None, names: Mapping[str, str]) -> Checkpoint:
    """A LoRA adapter applied to the base, with what was trained whole beside it."""
    if base is None:
        raise UserError(f"{what}: {shown(place)} is an adapter", "Give the whole model that it adapts.")
    adapter = read_adapter(found, None, biases=True)
    tensors = dict(base.tensors)
    ours = of_adapter(adapter, base.shapes, lambda: names)
    factors = {ours.get(name, name): value for name, value in adapter.factors.items()}
    whole = {ours.get(name, name): value for name, value in adapter.whole.items()}
    plain = None if any(name in tensors and not name.endswith(HEADS) for name in whole) else factors
    return Checkpoint(place, {**applied(tensors, factors, found.files[0]), **whole}, found.sha256(), plain)


@dataclass(frozen=True)
class Found:
    """A head, its classes where something beside it says them, and what decides it, by hash."""

    head: nn.Module
    classes: list[str] | None
    sha256: str


def read_head(task: str, said: Head, expert: Checkpoint, encoder: Encoder) -> Found:
    """The head of a task, of its expert's own tensors or of a file.

    Raises :class:`UserError` where there is none, or several, or it is of another width than the encoder's features.
    """
    if said.file is not None:
        place, tensors, classes = said.file, *_head_file(task, said.file)
        weight, bias = _pair(task, tensors, "", shown(place))
    else:
        prefix = said.tensors or prefix_of(task, expert, encoder)
        name = ending_of(expert.shapes, prefix)
        if name is None:
            listed = some(_matrices(expert.shapes, encoder))
            raise UserError(
                f"{task}: {shown(expert.place)} has no {prefix}.weight; it has {listed}",
                "Write head: NAME, what stands before .weight of the classifier, or head: FILE.safetensors",
            )
        weight, bias = _pair(task, expert.tensors, f"{name}.", shown(expert.place))
        classes = labels_of(expert.place)
    kind = ClassificationHead if said.normalise else LinearHead
    return Found(kind(weight, bias), classes, _sha256(weight, bias, bool(said.normalise)))


def prefix_of(task: str, expert: Checkpoint, encoder: Encoder) -> str:
    """What the classifier in an expert is called, as its library or many call it."""
    shapes = expert.shapes
    if encoder.head is not None and ending_of(shapes, encoder.head):
        return encoder.head
    usual = [name for name in USUAL if f"{name}.weight" in shapes and len(shapes[f"{name}.weight"]) == 2]
    if len(usual) == 1:
        return usual[0]
    raise UserError(
        f"{task}: {'several' if usual else 'no'} tensors of {shown(expert.place)} are called as a classifier is"
        + (
            f": {', '.join(usual)}"
            if usual
            else f" ({', '.join(USUAL[:4])}); it has {some(_matrices(shapes, encoder)) or 'nothing beside its encoder'}"
        ),
        "Write head: NAME, what stands before .weight; head: FILE.safetensors; or head: {text: CLIP}",
    )


def ending_of(shapes: Mapping[str, Any], prefix: str) -> str | None:
    """The name under which the tensors of this prefix stand, whatever stands before it; None where they do not."""
    wanted = f"{prefix}.weight"
    names = [n for n in shapes if n == wanted] or [n for n in shapes if n.endswith(f".{wanted}")]
    return names[0].removesuffix(".weight") if len(names) == 1 else None


def _matrices(shapes: Mapping[str, tuple[int, ...]], encoder: Encoder) -> list[str]:
    """Matrices that the encoder does not use, of which a classifier may be one."""
    used = set(aligned(encoder.module.state_dict(), shapes).values())
    return [name for name, shape in shapes.items() if len(shape) == 2 and name not in used]


def _head_file(task: str, place: Path) -> tuple[Mapping[str, Tensor], list[str] | None]:
    if not place.is_file():
        raise UserError(f"{task}: there is no head {shown(place)}", "Write its path, from the YAML's folder on.")
    try:
        tensors = read_file(place).tensors
    except FamilyError as error:
        raise UserError(f"{task}: {error}", "Write weight [classes, features] and bias with safetensors.") from None
    classes = None
    if place.suffix == ".safetensors":
        with safe_open(place, "pt") as opened:
            text = (opened.metadata() or {}).get(CLASSES)
        if text is not None:
            try:
                classes = [str(name) for name in json.loads(text)]
            except (ValueError, TypeError):
                raise UserError(f"{task}: {shown(place)}: its classes are no list as JSON", "Save them so.") from None
    return tensors, classes


def _pair(task: str, tensors: Mapping[str, Tensor], prefix: str, where: str) -> tuple[Tensor, Tensor | None]:
    weight = tensors.get(f"{prefix}weight")
    if weight is None or weight.ndim != 2:
        shape = "none" if weight is None else str(list(weight.shape))
        raise UserError(
            f"{task}: {where} has {prefix}weight of shape {shape}; expected [classes, features]",
            "Write head: NAME or head: FILE.safetensors, of a linear layer.",
        )
    bias = tensors.get(f"{prefix}bias")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise UserError(f"{task}: {where}: {prefix}bias is {list(bias.shape)}; expected [{len(weight)}]", "Mend it.")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and not bool(torch.isfinite(value).all()):
            raise UserError(f"{task}: {where} has NaN or Inf in {prefix}{name}", "Save it again, or fetch it.")
    return weight.float(), None if bias is None else bias.float()


def labels_of(place: Path) -> list[str] | None:
    """The names of a classifier's outputs in ``config.json`` beside it, in order; None without, or of ``LABEL_0``."""
    try:
        table = read_object(place / "config.json").get("id2label")
    except (OSError, ValueError):
        return None
    if not isinstance(table, dict) or not all(str(key).isdecimal() for key in table):
        return None
    names = [str(table[key]) for key in sorted(table, key=int)]
    plain = all(name.upper() == f"LABEL_{number}" for number, name in enumerate(names))
    return None if plain or [int(key) for key in sorted(table, key=int)] != list(range(len(names))) else names


def _sha256(weight: Tensor, bias: Tensor | None, normalise: bool) -> str:
    digest = hashlib.sha256(f"{list(weight.shape)} {bias is not None} {normalise}".encode())
    for value in (weight, bias):
        if value is not None:
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_width(task: str, head: nn.Module, features: int, encoder: Encoder) -> None:
    """Raise :class:`UserError` where a head takes other features than the encoder gives."""
    weight: Any = head.get_parameter("weight")
    if weight.shape[1] != features:
        raise UserError(
            f"{task}: the head takes {weight.shape[1]} features, {encoder.name} gives {features}",
            "Write features: pooled, cls, mean or projected, or another head.",
        )
