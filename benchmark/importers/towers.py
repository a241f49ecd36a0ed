"""An image tower out of an open_clip state, whatever prefix and company it was stored with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.kinds import MERGED
from benchmark.checkpoints.pickles import State
from benchmark.domains.vision.backbones import Backbone, create_encoder

EPSILON = 1e-5


@dataclass
class Tower:
    """What one file holds: the image tower ``visual.*``, all other tensors, and what the file says of itself.

    ``quick_gelu``, ``heads``, ``eps`` and ``text_quick_gelu`` (of the text tower) are None where it does not say (a
    state dict does not). ``rest`` has the file's own names, which begin with ``prefix`` where a CLIP's would begin.
    ``adapters``: of an expert that is an adapter its factors, under the names of ``visual``, which then is the base's
    with their change.
    """

    visual: dict[str, Tensor]
    rest: dict[str, Tensor] = field(default_factory=dict)
    quick_gelu: bool | None = None
    heads: int | None = None
    eps: float | None = None
    text_quick_gelu: bool | None = None
    stored: str = ""
    prefix: str = ""
    adapters: Adapters | None = None

    def beside(self) -> dict[str, Tensor]:
        """``rest`` under the names that a CLIP has for it, however the file's model was wrapped."""
        return {name.removeprefix(self.prefix): value for name, value in self.rest.items()}


def from_open_clip(state: State, path: Path) -> Tower:
    """The tower in a state whose image tower may stand under ``visual.``, ``model.visual.`` or any other prefix.

    open_clip 2.0.2 and 2.24 name the tower's tensors alike; the prefix and the text side beside them differ with what
    was saved (an ``ImageEncoder``, a ``CLIP``, a tower). Raises :class:`FamilyError` where there is no one tower.
    """
    marks = [name for name in state.tensors if name.endswith("conv1.weight") and "layer" not in name]
    prefixes = [name.removesuffix("conv1.weight") for name in marks]
    if any(".lora_" in name for name in state.tensors):
        raise FamilyError(f"{path} is an adapter, not a model; {MERGED}")
    if len(prefixes) != 1 or (prefixes[0] and not prefixes[0].endswith("visual.")):
        raise FamilyError(
            f"{path} holds {len(prefixes)} tensors named ...visual.conv1.weight, expected one: not one vision "
            f"transformer of open_clip; it holds {', '.join(list(state.tensors)[:4])}, ..."
        )
    prefix = prefixes[0]
    inside = {n: v for n, v in state.tensors.items() if n.startswith(prefix)} if prefix else state.tensors
    visual = {f"visual.{name.removeprefix(prefix)}": value for name, value in inside.items()}
    rest = {name: value for name, value in state.tensors.items() if name not in inside}
    kinds = {kind for part, kind in state.classes.items() if part.startswith(prefix) and part.endswith(".mlp.gelu")}
    quick = {kind.rpartition(".")[2] == "QuickGELU" for kind in kinds}
    said = {end: {v for n, v in state.attributes.items() if n.startswith(prefix) and n.endswith(end)}
            for end in (".attn.num_heads", ".ln_1.eps")}  # fmt: skip
    if len(quick) > 1 or any(len(values) > 1 for values in said.values()):
        raise FamilyError(f"{path}: its blocks differ: {', '.join(sorted(kinds))}; {said}")
    return Tower(
        visual,
        rest,
        quick_gelu=next(iter(quick), None),
        heads=next((int(n) for n in said[".attn.num_heads"]), None),
        eps=next(iter(said[".ln_1.eps"]), None),
        stored=", ".join(filter(None, (state.layout, state.classes.get("")))),
        prefix=prefix.removesuffix("visual."),
    )


def check_tower(tower: Tower, backbone: Backbone, quick_gelu: bool, path: Path) -> None:
    """Raises :class:`FamilyError` unless names, shapes, activation, attention heads and values are the backbone's."""
    expected = {n: tuple(v.shape) for n, v in create_encoder(backbone, device="meta").state_dict().items()}
    shapes = {n: tuple(v.shape) for n, v in tower.visual.items()}
    if missing := sorted(expected.keys() - shapes.keys()) + sorted(shapes.keys() - expected.keys()):
        raise FamilyError(
            f"{path}: {len(expected.keys() - shapes.keys())} tensors missing, {len(shapes.keys() - expected.keys())} "
            f"unknown to {backbone.name}, e.g. {', '.join(missing[:4])}. Is it of another --backbone?"
        )
    if wrong := [n for n in expected if expected[n] != shapes[n]]:
        raise FamilyError(
            f"{path}: {wrong[0]} is {list(shapes[wrong[0]])}, {backbone.name} has {list(expected[wrong[0]])}. "
            "Is it of another --backbone?"
        )
    if tower.quick_gelu not in (None, quick_gelu):
        names = {True: "QuickGELU", False: "GELU"}
        raise FamilyError(
            f"{path} was saved with {names[bool(tower.quick_gelu)]}, this family is defined with {names[quick_gelu]}; "
            "the other activation would cost accuracy without a word. Is it of another family?"
        )
    for what, value, wanted in (("attention heads", tower.heads, backbone.heads), ("eps", tower.eps, EPSILON)):
        if value not in (None, wanted):
            raise FamilyError(f"{path} says {value} {what}, {backbone.name} has {wanted}. Is it of another --backbone?")
    bad = [n for n, v in tower.visual.items() if not v.is_floating_point() or not torch.isfinite(v).all()]
    if bad:
        raise FamilyError(f"{path}: integers, NaN or Inf in {', '.join(bad[:3])}; fetch it again")


def moved(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor of ``tuned`` that is not the base's; Inf where that lacks or shapes it.

    Of tensors in two precisions, values that differ by no more than the coarser one rounds are the same.
    """
    distances = {}
    for name, b in tuned.items():
        a = base.get(name)
        if a is None or a.shape != b.shape:
            distances[name] = float("inf")
        elif not _same(a, b):
            distances[name] = float((a.double() - b.double()).abs().max())
    return distances


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype == b.dtype:
        return torch.equal(a, b)
    x, y = a.double(), b.double()
    if not (a.is_floating_point() and b.is_floating_point()):
        return torch.equal(x, y)
    coarse = max((torch.finfo(a.dtype), torch.finfo(b.dtype)), key=lambda about: about.eps)
    allowed = coarse.eps * torch.maximum(x.abs(), y.abs()) + coarse.eps * coarse.smallest_normal
    return bool(((x - y).abs() <= allowed).all())


def distance(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> float:
    """``||tuned - base|| / ||base||`` over all tensors, in float64: squares of large values leave float32's range."""
    apart = sum(float((tuned[n].double() - v.double()).square().sum()) for n, v in base.items())
    return (apart / sum(float(v.double().square().sum()) for v in base.values())) ** 0.5
