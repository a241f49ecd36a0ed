"""Adapters as PEFT writes them (``adapter_config.json``, ``adapter_model.safetensors``), read without PEFT.

``base_model.model.MODULE.lora_A.weight`` ``[r, in]`` and ``lora_B.weight`` ``[out, r]`` stand for the change
``scale * B @ A`` of ``MODULE.weight``, with scale ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` where
``use_rslora``; ``alpha_pattern`` and ``rank_pattern`` say otherwise for single modules. Modules that were trained whole
(``modules_to_save``, such as a classifier) stand beside under their own names. An adapter that is more than this change
(biases, DoRA's magnitudes, an initialisation that altered the base) is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import Weights, read_json
from benchmark.checkpoints.kinds import MERGED

PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.weight)?")
#: Settings under which the factors alone are not the change of the weights, and the values that mean they are.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",), "use_dora": (False,), "lora_bias": (False,), "fan_in_fan_out": (False,),
    "layer_replication": (), "trainable_token_indices": (), "target_parameters": ([],), "use_qalora": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """An adapter: its factors ``{weight of the base: (A [r, in], B [out, r], scale)}``, the tensors that were trained
    whole, by name, the base that it says it belongs to, and the modules that it says were trained whole."""

    factors: Adapters
    whole: dict[str, Tensor]
    base: str
    saved: tuple[str, ...] = ()


def read_adapter(weights: Weights, bases: Sequence[str] | None, biases: bool = False) -> Adapter:
    """The adapter of a folder.

    Args:
        bases: what the base may be called, by its last part (``owner/NAME``, ``folder/NAME``). Factors fit every base
            of their size, so the name is all that tells another one. ``None`` for a base that the user chose.
        biases: whether biases that were trained beside the factors are read, among the whole tensors.

    Raises:
        FamilyError: damage, what is no plain LoRA, or an adapter that says it is of another base.
    """
    assert weights.about is not None
    config, path = read_json(weights.about), weights.files[0]
    base = str(config.get("base_model_name_or_path") or "")
    if base and bases is not None and _last(base) not in {_last(name) for name in bases}:
        raise FamilyError(
            f"{weights.about} says that it adapts {base!r}; the base here is {bases[0]!r}. Import it with its own "
            "base. If these are the same weights, write this name under base_model_name_or_path"
        )
    if config.get("peft_type") != "LORA":
        raise FamilyError(f"{weights.about} is of the type {config.get('peft_type')}, read is LORA; {MERGED}")
    for key, plain in _PLAIN.items():
        value = config.get(key)
        if key == "bias" and biases and value in ("all", "lora_only"):
            continue
        if value is not None and not any(value == p and type(value) is type(p) for p in plain):
            what = " (DoRA)" if key == "use_dora" else ""
            raise FamilyError(f"{weights.about} says {key} {value!r}{what}, so its factors are not all of it; {MERGED}")
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, value in weights.read().tensors.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise FamilyError(f"{path}: integers, NaN or Inf in {name}; fetch it again")
        plain_name = name.removeprefix(PREFIX)
        if match := _FACTOR.fullmatch(plain_name):
            parts.setdefault(match[1], {})[match[2]] = value
        elif "lora_" in plain_name:
            raise FamilyError(f"{path} holds {name}, so its factors are not all of it; {MERGED}")
        else:
            whole[plain_name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = value
    if not parts:
        raise FamilyError(f"{path} holds no lora_A and lora_B; {MERGED}")
    factors = {}
    for module, pair in parts.items():
        a, b = _pair(module, pair, path)
        factors[f"{module}.weight"] = (a, b, _scale(config, module, len(a), weights.about))
    saved = config.get("modules_to_save")
    return Adapter(factors, whole, base, tuple(map(str, saved)) if isinstance(saved, list) else ())


def _last(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


def _pair(module: str, factors: Mapping[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """``A [r, in]`` and ``B [out, r]``; of a convolution flattened, of an embedding ``[words, width]`` turned."""
    if set(factors) == {"lora_A", "lora_B"}:
        a, b = factors["lora_A"].flatten(1), factors["lora_B"].flatten(1)
    elif set(factors) == {"lora_embedding_A", "lora_embedding_B"}:
        a, b = factors["lora_embedding_B"].T.contiguous(), factors["lora_embedding_A"].T.contiguous()
    else:
        raise FamilyError(f"{path}: {module} has {', '.join(factors)} only; fetch it again")
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise FamilyError(f"{path}: the factors {list(a.shape)} and {list(b.shape)} of {module} do not multiply")
    return a, b


def _scale(config: Mapping[str, Any], module: str, rank: int, path: Path) -> float:
    def said(pattern: str, default: str) -> Any:
        # As PEFT looks them up: the first pattern that the end of the module's path matches.
        for key, value in (config.get(pattern) or {}).items():
            if re.fullmatch(rf"(?:.*\.)?(?:{key})", module):
                return value
        return config.get(default)

    try:
        alpha, wanted = said("alpha_pattern", "lora_alpha"), said("rank_pattern", "r")
    except (re.error, AttributeError, TypeError) as error:
        raise FamilyError(f"{path}: a pattern of ranks or alphas cannot be read ({error}); fetch it again") from None
    if type(wanted) is not int or wanted != rank:
        raise FamilyError(f"{path} says rank {wanted!r} of {module}, its factors have {rank}: not of one adapter")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise FamilyError(f"{path} says lora_alpha {alpha!r} of {module}, which is no number; fetch it again")
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def applied(base: Mapping[str, Tensor], factors: Adapters, path: Path) -> dict[str, Tensor]:
    """The base's state dict with the change of every adapted weight, in float32.

    Raises :class:`FamilyError` for a weight that the base lacks or has in another shape.
    """
    state = dict(base)
    for name, (a, b, scale) in factors.items():
        weight = base.get(name)
        if weight is None or (len(b), a.shape[1]) != (len(weight), weight[0].numel()):
            shape = "none" if weight is None else str(list(weight.shape))
            raise FamilyError(
                f"{path}: factors {list(a.shape)} and {list(b.shape)} of {name}, of which the base has {shape}. "
                "Is it an adapter of another base?"
            )
        state[name] = weight.float() + scale * (b.float() @ a.float()).reshape(weight.shape)
    return state
