"""Hugging Face's CLIP, tensor by tensor, as open_clip names and joins it.

``q_proj``, ``k_proj``, ``v_proj`` become the rows of one ``in_proj``; the two projections are stored transposed. A
``CLIPVisionModel`` has no projection: FusionBench uses the base's, so it is given here. Both implementations give the
same outputs (``tests/importers/test_huggingface.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.checkpoints.families import FamilyError
from benchmark.importers.towers import EPSILON, Tower, read_file

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PROJECTION = "visual_projection.weight"

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
    made: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, value in state.items():
        block = _NAME.fullmatch(name)
        if name in table:
            made[table[name]] = value
        elif block and block[2] in _BLOCK:
            made[f"transformer.resblocks.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"] = value
        elif block and (part := re.fullmatch(r"self_attn\.([qkv])_proj", block[2])):
            joined.setdefault(f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}", {})[part[1]] = value
        elif name not in _IGNORED:
            unknown.append(name)
    unknown += [f"{name} of {'/'.join(parts)} only" for name, parts in joined.items() if len(parts) != 3]
    if unknown:
        raise FamilyError(f"no tensors of a CLIP {what} tower: {', '.join(unknown[:4])}; expected transformers' names")
    return made | {name: torch.cat([parts[p] for p in "qkv"]) for name, parts in joined.items()}


def vision_tower(state: Mapping[str, Tensor], projection: Tensor | None) -> dict[str, Tensor]:
    """The image tower ``visual.*`` of a ``CLIPModel`` or ``CLIPVisionModel``.

    Args:
        state: its state dict; ``vision_model.`` may be missing from the names, as transformers 5 leaves it out.
        projection: ``visual_projection.weight`` ``[D, width]`` where the state has none.
    """
    inside = {n.removeprefix("vision_model."): v for n, v in state.items() if n.startswith("vision_model.")}
    if not inside:
        inside = {n: v for n, v in state.items() if n != PROJECTION and not n.startswith("text_model.")}
    projection = state.get(PROJECTION, projection)
    if projection is None:
        raise FamilyError("neither this model nor the base has visual_projection.weight; give the base as a CLIPModel")
    tower = {**rename(inside, _VISION, "vision"), "proj": projection.T.contiguous()}
    return {f"visual.{name}": value for name, value in tower.items()}


def text_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text side of a ``CLIPModel`` as open_clip's CLIP names it: ``transformer.*``, ..., ``logit_scale``."""
    inside = {n.removeprefix("text_model."): v for n, v in state.items() if n.startswith("text_model.")}
    tower = rename(inside, _TEXT, "text")
    return {**tower, "text_projection": state["text_projection.weight"].T.contiguous(),
            "logit_scale": state["logit_scale"].reshape(())}  # fmt: skip


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """``(state dict, configuration, file)`` of a model's folder. Raises :class:`FamilyError` where one is missing."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    config = folder / "config.json"
    if path is None or not config.is_file():
        raise FamilyError(f"{folder} holds no {' or '.join(WEIGHTS)} with a config.json; expected a model of the hub")
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FamilyError(f"{config} is not JSON ({error}); fetch it again") from None
    return read_file(path).tensors, found, path


def read_tower(folder: Path, projection: Tensor | None = None) -> tuple[Tower, dict[str, Tensor]]:
    """The image tower of a model's folder, with what its configuration says, and the state dict it came from."""
    state, config, path = read_folder(folder)
    vision = config.get("vision_config", config)
    tower = Tower(
        vision_tower(state, projection),
        # transformers' own defaults, for what a configuration leaves out
        quick_gelu=vision.get("hidden_act", "quick_gelu") == "quick_gelu",
        heads=vision.get("num_attention_heads", 12),
        eps=vision.get("layer_norm_eps", EPSILON),
        stored=f"{path.name}, {(config.get('architectures') or [config.get('model_type')])[0]}",
    )
    if vision.get("hidden_act", "quick_gelu") not in ("quick_gelu", "gelu"):
        raise FamilyError(f"{folder}/config.json says hidden_act {vision['hidden_act']!r}; known: quick_gelu, gelu")
    return tower, state
