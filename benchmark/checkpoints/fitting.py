"""Whether an expert is a fine-tuning of its base: of its type, its vocabulary, its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.matching import matching
from benchmark.checkpoints.models import Model

#: Words in the names of tensors whose first dimension is a vocabulary, not classes.
WORDS = re.compile(r"embed|wte|wpe|lm_head|shared\.weight|word|token|position", re.IGNORECASE)
_SIZES = re.compile(r"hidden|layers|heads|width|depth|dim|d_model|d_ff|intermediate|patch|image_size")


def check_kind(base: Model, model: Model, task: str) -> None:
    """Raises :class:`FamilyError` for a model of another type that has not the base's weights."""
    ours, theirs = (str(each.config.get("model_type") or "") for each in (base, model))
    if not (ours and theirs) or re.split("[_-]", ours)[0] == re.split("[_-]", theirs)[0]:
        return
    names, _ = matching(base.state, base.state.shapes, model.state.shapes)
    alike = {new for old, new in names.items() if model.state.shapes[old] == base.state.shapes[new]}
    if any(len(base.state.shapes[n]) > 1 and n not in alike for n in base.state.floating):
        raise FamilyError(
            f"expert {task!r} ({model.path}) is of type {theirs}, the base of type {ours} (config.json). "
            "Expected fine-tunings of one base"
        )


def check_vocabulary(base: Model, model: Model, task: str) -> None:
    ours, theirs = base.config.get("vocab_size"), model.config.get("vocab_size")
    if ours is not None and theirs is not None and ours != theirs:
        raise FamilyError(
            f"expert {task!r} ({model.path}) has a vocabulary of {theirs} words, the base one of {ours}: their "
            "embeddings do not match row by row. Expected experts that kept the base's tokenizer; take added words out "
            "(model.resize_token_embeddings) and save it again"
        )


def check_shapes(base: Model, model: Model, matched: Mapping[str, str], task: str) -> None:
    """Raises :class:`FamilyError` for a tensor of another shape that is no head of another number of classes."""
    for name, old in matched.items():
        ours, theirs = base.state.shapes[name], model.state.shapes[old]
        if ours == theirs or name not in base.state.floating:
            continue
        classes = 0 < len(ours) == len(theirs) <= 2 and ours[1:] == theirs[1:]
        if classes and not WORDS.search(name):
            continue
        what = "another vocabulary, or number of positions" if WORDS.search(name) else "another architecture or size"
        if sizes := _other_sizes(base, model):
            what = f"another size ({sizes}, config.json says)"
        raise FamilyError(
            f"expert {task!r} ({model.path}): {name} is {list(theirs)}, the base's {list(ours)}: {what}. "
            "Expected equal shapes in all but a head's number of classes"
        )


def _other_sizes(base: Model, model: Model) -> str:
    """Sizes that two configurations say otherwise, but for those of vocabularies."""
    sizes = [
        f"{key} {model.config[key]}, the base's {value}"
        for key, value in base.config.items()
        if _SIZES.search(key)
        and isinstance(value, int)
        and isinstance(model.config.get(key), int)
        and model.config[key] != value
    ]
    return "; ".join(sizes[:2])
