"""Zero-shot heads of the full suites: each data set's prompts through CLIP's text tower.

The prompts are those of CLIP's own release (openai/CLIP data/prompts.md) in the numbers that the merging papers use;
``templates.yaml`` has them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor

from benchmark.checkpoints.families import FamilyError
from benchmark.common.errors import unknown
from benchmark.domains.vision.backbones import Backbone
from benchmark.domains.vision.heads import ClassificationHead, zero_shot_head
from benchmark.domains.vision.vocabulary import create_clip

TEMPLATES = Path(__file__).with_name("templates.yaml")


@functools.cache
def _templates() -> dict[str, list[str]]:
    return {task: list(prompts) for task, prompts in yaml.safe_load(TEMPLATES.read_text(encoding="utf-8")).items()}


def templates(task: str) -> list[str]:
    """The prompts of a data set, each with one ``{}`` for the class. Raises :class:`UserError` for an unknown one."""
    if task not in _templates():
        raise unknown("data set with prompts", task, _templates())
    return list(_templates()[task])


def text_names(backbone: Backbone) -> list[str]:
    """The tensors of a CLIP's text side, under open_clip's names."""
    with torch.device("meta"):
        state = create_clip(backbone, backbone.text_cfg["vocab_size"]).state_dict()
    return [name for name in state if not name.startswith("visual.")]


def create_text(backbone: Backbone, text: Mapping[str, Tensor], quick_gelu: bool) -> CLIP:
    """A CLIP whose text side has these weights (open_clip's names); its image tower is a stub and never run.

    ``quick_gelu`` is the activation of the CLIP that the weights are of.

    Raises :class:`FamilyError` for missing or unknown names and for other shapes.
    """
    stub = dataclasses.replace(backbone, vision_cfg={**backbone.vision_cfg, "layers": 1}, quick_gelu=quick_gelu)
    clip = create_clip(stub, backbone.text_cfg["vocab_size"])
    try:
        missing, extra = clip.load_state_dict({n: v.float() for n, v in text.items()}, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise FamilyError(f"the text tower does not fit {backbone.name}: {reason}") from None
    missing = [name for name in missing if not name.startswith("visual.")]
    if missing or extra:
        raise FamilyError(f"no text tower of {backbone.name}: missing {missing[:3]}, unknown {list(extra)[:3]}")
    return clip.eval()


@functools.cache
def _tokenizer(context_length: int) -> SimpleTokenizer:
    return SimpleTokenizer(context_length=context_length)


def head(clip: CLIP, task: str, classes: Sequence[str], context_length: int) -> ClassificationHead:
    """The zero-shot head of a data set, ``weight`` ``[C, D]`` in float32."""
    return zero_shot_head(clip, _tokenizer(context_length), classes, templates(task))
