"""Hugging Face's CLIP, tensor by tensor, as open_clip names and joins it.

``q_proj``, ``k_proj``, ``v_proj`` become the rows of one ``in_proj``; the two projections are stored transposed. A
``CLIPVisionModel`` has no projection: FusionBench uses the base's, so it is given here. Both implementations give the
same outputs (``tests/importers/test_huggingface.py``). The factors of a LoRA adapter follow the weights that they
change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import Weights, read_json, weights
from benchmark.checkpoints.peft import applied, read_adapter
from benchmark.importers.towers import EPSILON, Tower

PROJECTION, TEXT_PROJECTION, SCALE = "visual_projection.weight", "text_projection.weight", "logit_scale"
_OF_VISION = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")

_VISION = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    **{f"pre_layrnorm.{end}": f"ln_pre.{end}" for end in ("weight", "bias")},
    **{f"post_layernorm.{end}": f"ln_post.{end}" for end in ("weight", "bias")},
}
_TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    **{f"final_layer_norm.{end}": f"ln_final.{end}" for end in ("weight", "bias")},
}
_BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_NAME = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
# Counters that older versions stored with the weights.
_IGNORED = ("embeddings.position_ids",)


def rename(state: Mapping[str, Tensor], table: Mapping[str, str], what: str) -> dict[str, Tensor]:
    """One tower's tensors under open_clip's names. Raises :class:`FamilyError` for a name that has none."""
    tensors: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, value in state.items():
        block = _NAME.fullmatch(name)
        if name in table:
            tensors[table[name]] = value
        elif block and block[2] in _BLOCK:
            tensors[f"transformer.resblocks.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"] = value
        elif block and (part := re.fullmatch(r"self_attn\.([qkv])_proj", block[2])):
            joined.setdefault(f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}", {})[part[1]] = value
        elif name not in _IGNORED:
            unknown.append(name)
    unknown += [f"{name} of {'/'.join(parts)} only" for name, parts in joined.items() if len(parts) != 3]
    if unknown:
        raise FamilyError(f"no tensors of a CLIP {what} tower: {', '.join(unknown[:4])}; expected transformers' names")
    return tensors | {name: torch.cat([parts[p] for p in "qkv"]) for name, parts in joined.items()}


def _vision(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``state`` is the image tower's, without ``vision_model.``, which transformers 5 leaves out."""
    inside = {n.removeprefix("vision_model."): v for n, v in state.items() if n.startswith("vision_model.")}
    return inside or {n: v for n, v in state.items() if n.startswith(_OF_VISION)}


def vision_tower(state: Mapping[str, Tensor], projection: Tensor | None) -> dict[str, Tensor]:
    """The image tower ``visual.*`` of a ``CLIPModel`` or ``CLIPVisionModel``.

    Args:
        state: its state dict; ``vision_model.`` may be missing from the names, as transformers 5 leaves it out.
        projection: ``visual_projection.weight`` ``[D, width]`` where the state has none.
    """
    projection = state.get(PROJECTION, projection)
    if projection is None:
        raise FamilyError("neither this model nor the base has visual_projection.weight; give the base as a CLIPModel")
    tower = {**rename(_vision(state), _VISION, "vision"), "proj": projection.T.contiguous()}
    return {f"visual.{name}": value for name, value in tower.items()}


def beside(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of a model that is no image tower: its text side as open_clip's CLIP names it, else under its own name."""
    inside = {n.removeprefix("text_model."): v for n, v in state.items() if n.startswith("text_model.")}
    tensors = rename(inside, _TEXT, "text")
    towers = {PROJECTION, *(n for n in state if n.startswith(("vision_model.", "text_model.")))}
    towers |= set() if any(n.startswith("vision_model.") for n in state) else set(_vision(state))
    for name in state.keys() - towers:
        value = state[name]
        if name == TEXT_PROJECTION:
            tensors["text_projection"] = value.T.contiguous()
        else:
            tensors[name] = value.reshape(()) if name == SCALE else value
    return tensors


def text_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text side of a ``CLIPModel`` as open_clip's CLIP names it: ``transformer.*``, ..., ``logit_scale``.

    Raises :class:`FamilyError` where it has none.
    """
    if absent := [name for name in (TEXT_PROJECTION, SCALE) if name not in state]:
        raise FamilyError(f"no text side of a CLIPModel: it has no {' and no '.join(absent)}")
    inside = {n: v for n, v in state.items() if n.startswith("text_model.") or n in (TEXT_PROJECTION, SCALE)}
    return beside(inside)


def vision_factors(factors: Adapters) -> Adapters:
    """The factors of an adapter that change the image tower, under open_clip's names ``visual.*``.

    Those of ``q_proj``, ``k_proj`` and ``v_proj`` become one pair for ``in_proj``: ``A`` one above the other, ``B`` in
    the rows of its own third.
    """
    by_name: Adapters = {}
    joined: dict[str, dict[str, tuple[Tensor, Tensor, float]]] = {}
    for name, (a, b, scale) in _vision(factors).items():
        block = _NAME.fullmatch(name)
        if name in _VISION:
            by_name[_VISION[name]] = (a, b, scale)
        elif block and block[2] in _BLOCK:
            by_name[f"transformer.resblocks.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"] = (a, b, scale)
        elif block and (part := re.fullmatch(r"self_attn\.([qkv])_proj", block[2])):
            joined.setdefault(f"transformer.resblocks.{block[1]}.attn.in_proj_weight", {})[part[1]] = (a, b, scale)
        else:
            raise FamilyError(f"an adapter of {name}, which is no weight of a CLIP vision tower")
    for name, parts in joined.items():
        scales = {scale for _, _, scale in parts.values()}
        scale = scales.pop() if len(scales) == 1 else 1.0  # of unlike ones each goes into its B
        placed = []
        for which, (_, b, own) in parts.items():
            rows = b if own == scale else b.float() * own
            placed.append(torch.cat([rows if which == third else torch.zeros_like(rows) for third in "qkv"]))
        by_name[name] = (torch.cat([a for a, _, _ in parts.values()]), torch.cat(placed, dim=1), scale)
    if PROJECTION in factors:
        a, b, scale = factors[PROJECTION]
        by_name["proj"] = (b.T.contiguous(), a.T.contiguous(), scale)
    return {f"visual.{name}": value for name, value in by_name.items()}


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], Weights]:
    """``(state dict, configuration, where it lies)`` of a model's folder. Raises :class:`FamilyError`."""
    files = weights(folder)
    if files.adapter:
        raise FamilyError(f"{folder} holds an adapter; expected a whole model")
    config = folder / "config.json"
    if not config.is_file():
        raise FamilyError(f"{folder} holds {files.name.name} without a config.json; expected a model of the hub")
    return files.read().tensors, read_json(config), files


def read_tower(
    folder: Path,
    projection: Tensor | None = None,
    base: Mapping[str, Tensor] | None = None,
    bases: Sequence[str] = (),
) -> tuple[Tower, dict[str, Tensor]]:
    """The image tower of a model's folder, with what its configuration says, and the state dict it came from.

    Args:
        projection: ``visual_projection.weight`` for a model that has none.
        base: the base's state dict, for an adapter of it, and ``bases`` the names that it may call it by.
    """
    files = weights(folder)
    if files.adapter:
        return _read_adapter(files, base, bases, projection)
    state, config, _ = read_folder(folder)
    vision, text = config.get("vision_config", config), config.get("text_config") or {}
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise FamilyError(f"{folder}/config.json says a vision_config or text_config that is none; fetch it again")
    act = {kind: about.get("hidden_act", "quick_gelu") for kind, about in (("vision", vision), ("text", text))}
    for name in act.values():
        if name not in ("quick_gelu", "gelu"):
            raise FamilyError(f"{folder}/config.json says hidden_act {name!r}; known: quick_gelu, gelu")
    tower = Tower(
        vision_tower(state, projection),
        beside(state),
        # transformers' own defaults, for what a configuration leaves out
        quick_gelu=act["vision"] == "quick_gelu",
        heads=vision.get("num_attention_heads", 12),
        eps=vision.get("layer_norm_eps", EPSILON),
        text_quick_gelu=act["text"] == "quick_gelu",
        stored=f"{files.name.name}, {_kind(config)}",
    )
    return tower, state


def _kind(config: Mapping[str, Any]) -> Any:
    """What a configuration calls its model."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named else config.get("model_type")


def _read_adapter(
    files: Weights, base: Mapping[str, Tensor] | None, bases: Sequence[str], projection: Tensor | None
) -> tuple[Tower, dict[str, Tensor]]:
    if base is None:
        raise FamilyError(f"{files.name} is an adapter; expected a whole model")
    adapter = read_adapter(files, bases)
    # The base's names, whichever version of transformers left out vision_model. there or here.
    named = {n.removeprefix("vision_model."): n for n in base}

    def ours(values: Mapping[str, Any]) -> dict[str, Any]:
        return {named.get(n.removeprefix("vision_model."), n): value for n, value in values.items()}

    factors, whole = ours(adapter.factors), ours(adapter.whole)
    state = {**applied(base, factors, files.name), **whole}
    tower = Tower(vision_tower(state, projection), beside(state))
    if not _vision(whole) and PROJECTION not in whole:
        tower.adapters = vision_factors(factors)
    tower.stored = f"{files.name.name}, LoRA of {adapter.base or 'a base it does not name'}"
    return tower, state
