"""RoBERTa experts on GLUE made into a family: encoder and head apart, safetensors, every difference reported.

Layouts (PATH holds them, or has a folder `roberta/` that does): `<task>/roberta-base_lr1e-05/` as in
vanillaOVO/roberta_base_glue_ckpts and lu-vae/roberta-glue, or `<task>/` (family `local`); `task` is GLUE's
configuration (`cola`, `sst2`, ...) or our name. Each holds `model.safetensors` or `pytorch_model.bin`, whole or in
shards with their index, `config.json` and the tokenizer (lu-vae's also `classifier_head.pt`, the head as a pickled
module); or `adapter_model.safetensors` with `adapter_config.json`, a LoRA adapter of PEFT. The base lies in
`PATH/roberta-base/` or `PATH/base/`. Nothing is run to read them.

- `roberta.*` becomes `model.*`; `classifier.*` the head; the pooler, which these classifiers do not have and the base
  may, `position_ids` buffers and the base's `lm_head.*` are left out. What else is there is named.
- A vocabulary or tokenizer that is not the base's is an error: ids would mean other words.
- The head's outputs are brought into the order of the data's classes, by the names that `config.json` gives them. Where
  it gives none, or numbers (`LABEL_0`), the data's order is assumed; the manifest and the boards say so.
- NaN and Inf are errors, and so is an expert whose encoder is the base's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmark.checkpoints.adapters import Adapters, adapter_tensors
from benchmark.checkpoints.families import FamilyError, describe_files, save_json, save_state, sha256
from benchmark.checkpoints.files import WEIGHTS, Weights, has_weights, read_file, weights
from benchmark.checkpoints.kinds import MERGED
from benchmark.checkpoints.peft import applied, read_adapter
from benchmark.common.cache import locked
from benchmark.common.errors import UserError, unknown
from benchmark.common.files import read_object
from benchmark.domains.text.family import BASE, read_manifest
from benchmark.domains.text.glue import TASKS
from benchmark.importers.labels import Order, order_of
from benchmark.importers.towers import distance, moved

FAMILIES = {
    "ovo": "https://huggingface.co/vanillaOVO/roberta_base_glue_ckpts (EMR-Merging, DARE)",
    "lu": "https://huggingface.co/lu-vae/roberta-glue (Twin-Merging)",
    "local": "your own fine-tunings",
}
SUBFOLDER = "roberta-base_lr1e-05"
BASES = ("roberta-base", "base", "pretrained", "FacebookAI/roberta-base")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
#: What a configuration says that the shapes of tensors do not show.
ARCHITECTURE = (
    "hidden_act", "num_attention_heads", "layer_norm_eps", "position_embedding_type", "pad_token_id",
)  # fmt: skip
EMBEDDING = "model.embeddings.word_embeddings.weight"
#: Where the head stands by itself, beside the whole model.
HEAD = "classifier_head.pt"
OUTPUTS = ("out_proj.weight", "out_proj.bias")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Expert:
    """One expert as it is stored: the encoder's tensors or an adapter's factors, and the head in the data's order."""

    encoder: dict[str, Tensor]
    head: dict[str, Tensor]
    left: list[str]
    adapters: Adapters | None
    order: Order | None
    stored: str

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds."""
        return self.encoder if self.adapters is None else adapter_tensors(self.adapters)


def import_family(
    family: str,
    path: Path,
    out: Path,
    tasks: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Convert a family's files under `path` into the folder `out`; returns its manifest.

    Args:
        tasks: GLUE's tasks (`CoLA`, ...); default all eight.
        say: called with a line for each file, and for everything that is left out of it.

    Raises:
        UserError: an unknown family or task; a folder or file that is not there; weights, label counts, vocabularies or
            tokenizers that do not fit.
    """
    if family not in FAMILIES:
        raise unknown("text family", family, FAMILIES)
    tasks = list(tasks or TASKS)
    if wrong := [task for task in tasks if task not in TASKS]:
        raise unknown("task of glue", wrong[0], TASKS)
    origin = next((path / name for name in BASES if has_weights(path / name)), None)
    if origin is None:
        raise UserError(f"no base in {path}", f"Put roberta-base's files into {path / BASES[0]} (one of {WEIGHTS})")
    base = _read_base(origin, say)
    places = {task: _place(path, task, family) for task in tasks}
    labels: dict[str, dict[str, Any]] = {}
    for task, place in places.items():  # all of them before anything is written
        expert = _read_expert(task, place, base, origin)
        _report(say, task, expert.left, f"{distance(base, expert.encoder):.2%} away from the base; {expert.stored}")
        if expert.adapters is None and {t.dtype for t in expert.encoder.values()} != {t.dtype for t in base.values()}:
            say(f"{task}: stored in another precision than the base, whose rounding is in its task vector")
        if expert.order is not None:
            labels[task] = _labels(task, expert.order, say)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock"):
        before = _present(family, out, base)
        save_state(out / BASE, base)
        for name in ("config.json", *TOKENIZER):
            if (origin / name).is_file():
                shutil.copyfile(origin / name, out / name)
        files = [name for name in before.get("files", ()) if name != BASE and (out / name).is_file()]
        for task, place in places.items():
            expert = _read_expert(task, place, base, origin)
            save_state(out / f"{task}.safetensors", expert.tensors())
            save_state(out / f"heads/{task}.safetensors", expert.head)
            files += [f"{task}.safetensors", f"heads/{task}.safetensors"]
        others = {task: said for task, said in before.get("labels", {}).items() if task not in places}
        return _manifest(family, out, list(dict.fromkeys([BASE, *files])), {**others, **labels})


def _read_base(origin: Path, say: Callable[[str], None]) -> dict[str, Tensor]:
    """The base's encoder. Raises :class:`UserError` where it is no RoBERTa, not finite, or lacks files."""
    files = _weights(origin)
    if files.adapter:
        raise UserError(f"{files.name} is an adapter; a base is a whole model", "Fetch all files of roberta-base.")
    base, _, left = split(_told(lambda: files.read().tensors))
    _report(say, "base", left, files.name.name)
    if EMBEDDING not in base:
        raise UserError(
            f"{origin} has no {EMBEDDING.removeprefix('model.')}: its tensors are {', '.join([*base][:3])}",
            "Fetch roberta-base: a RobertaModel, with or without its language-model head.",
        )
    if lacking := [name for name in ("config.json", "tokenizer.json") if not (origin / name).is_file()]:
        raise UserError(f"{origin} lacks {' and '.join(lacking)}", "Fetch all files of roberta-base.")
    _check_finite("the base", base, files.name)
    return base


def _read_expert(task: str, place: Path, base: dict[str, Tensor], origin: Path) -> _Expert:
    """One task's expert, checked against the base. Raises :class:`UserError` for everything that does not fit."""
    files, factors = _weights(place), None
    if files.adapter:
        named = str(_configuration(origin).get("_name_or_path") or "")
        adapter = _told(lambda: read_adapter(files, [origin.name, *filter(None, [named])]))
        factors, of_head, skipped = split(adapter.factors)
        whole, head, left = split(adapter.whole)
        if of_head:
            raise UserError(f"{task}: {files.name} adapts the head: {', '.join(of_head)}", f"To read it, {MERGED}.")
        encoder = {**_told(lambda: applied(base, factors or {}, files.name)), **whole}
        factors, left = None if whole else factors, [*left, *skipped]
        stored = f"{files.name.name}, LoRA of {adapter.base or 'a base it does not name'}"
    else:
        encoder, head, left = split(_told(lambda: files.read().tensors))
        stored = files.name.name
        if (apart := _told(lambda: read_file(place / HEAD)).tensors if (place / HEAD).is_file() else {}) and not head:
            head, stored = dict(apart), f"{stored} and {HEAD}"
        elif apart and (apart.keys() != head.keys() or any(not torch.equal(apart[n], t) for n, t in head.items())):
            stored = f"{stored}, with its own head: {HEAD} holds another one, which is left out"
    _check(task, place, base, encoder, head, origin)
    _check_finite(task, {**encoder, **{f"classifier.{name}": value for name, value in head.items()}}, files.name)
    if not moved(base, encoder):
        raise UserError(
            f"{task}: {files.name} equals the base in every tensor of the encoder: no expert",
            "Give the fine-tuned model.",
        )
    order, classes = None, TASKS[task].classes
    if classes:
        order = order_of(_configuration(place), classes, place / "config.json")
        head = {n: value[list(order.rows)] if n in OUTPUTS else value for n, value in head.items()}
    return _Expert(encoder, head, left, factors, order, stored)


def _check_finite(task: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    bad = [n for n, value in tensors.items() if not value.is_floating_point() or not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"{task}: integers, NaN or Inf in {', '.join(bad[:3])} of {path}", "Fetch it again.")


def _labels(task: str, order: Order, say: Callable[[str], None]) -> dict[str, Any]:
    """What the manifest keeps of the order of a head's outputs; `say` is told where it was changed or assumed."""
    classes = ", ".join(TASKS[task].classes)
    named = ", ".join(order.named or ()) or "nothing"
    if order.assumed:
        say(f"{task}: config.json names its outputs {named}; assumed to be the data's order: {classes}")
    elif order.changed:
        say(f"{task}: outputs brought from the order {named} into the data's: {classes}")
    return {
        "classes": list(TASKS[task].classes),
        "named": order.named and list(order.named),
        "rows": list(order.rows),
        "assumed": order.assumed,
    }


def _present(family: str, out: Path, base: Mapping[str, Tensor]) -> dict[str, Any]:
    """The manifest of what was imported before. Raises :class:`UserError` where that is of another base."""
    if not (out / "manifest.json").is_file():
        return {}
    mend = f"Give another --out, or delete {out} to begin again."
    before = read_manifest(out, mend)
    if before.get("name") != family:
        raise UserError(f"{out} holds the family {before.get('name')!r}, not {family!r}", mend)
    if (out / BASE).is_file():
        stored = _told(lambda: read_file(out / BASE)).tensors
        if stored.keys() != base.keys() or any(not torch.equal(stored[n], t) for n, t in base.items()):
            raise UserError(f"{out} holds experts of another base", mend)
    return before


def split(state: Mapping[str, _Value]) -> tuple[dict[str, _Value], dict[str, _Value], list[str]]:
    """A RoBERTa state dict as encoder (`model.*`), head (`dense.*`, `out_proj.*`), and names that were left out."""
    encoder: dict[str, _Value] = {}
    head: dict[str, _Value] = {}
    left = []
    prefix = "roberta." if any(n.startswith("roberta.") for n in state) else ""
    for name, value in state.items():
        if name.startswith("classifier."):
            head[name.removeprefix("classifier.")] = value
        elif not name.startswith(prefix) or name.startswith("lm_head."):
            left.append(name)
        elif name.endswith(("position_ids", "token_type_ids")) or f"{prefix}pooler." in name:
            left.append(name)
        else:
            encoder[f"model.{name.removeprefix(prefix)}"] = value
    return encoder, head, left


def _check(
    task: str, place: Path, base: dict[str, Tensor], encoder: dict[str, Tensor], head: dict[str, Tensor], origin: Path
) -> None:
    mine = encoder.get(EMBEDDING)
    if mine is not None and mine.shape != base[EMBEDDING].shape:
        raise UserError(
            f"{task}: a vocabulary of {mine.shape[0]} words of width {mine.shape[1]}, the base has "
            f"{tuple(base[EMBEDDING].shape)}",
            f"Is {place} fine-tuned from {origin.name}?",
        )
    missing, extra = sorted(base.keys() - encoder.keys()), sorted(encoder.keys() - base.keys())
    if missing or extra:
        raise UserError(
            f"{task}: missing {missing[:3] or 'nothing'}, extra {extra[:3] or 'nothing'} beside the base's "
            f"{len(base)} tensors",
            f"Is {place} a RobertaForSequenceClassification?",
        )
    wrong = [n for n, t in encoder.items() if t.shape != base[n].shape]
    if wrong:
        raise UserError(
            f"{task}: {wrong[0]} is {tuple(encoder[wrong[0]].shape)}, the base has {tuple(base[wrong[0]].shape)}",
            f"Is {place} of another size of RoBERTa?",
        )
    wanted = {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
    if set(head) != wanted:
        raise UserError(
            f"{task}: the head has {sorted(head) or 'no tensors'}; expected {sorted(wanted)}",
            f"{place} must be a RobertaForSequenceClassification",
        )
    if len(head["out_proj.weight"]) != TASKS[task].outputs:
        raise UserError(
            f"{task}: the head has {len(head['out_proj.weight'])} labels, the task {TASKS[task].outputs}",
            f"Is {place} the expert of another task?",
        )
    mine_said, said = _configuration(place), _configuration(origin)
    for key in ARCHITECTURE:
        if key in mine_said and key in said and mine_said[key] != said[key]:
            raise UserError(
                f"{task}: {place}/config.json says {key} {mine_said[key]!r}, the base's {said[key]!r}",
                "The same weights would compute something else; use the base it was fine-tuned from.",
            )
    own = place / "tokenizer.json"
    if os.path.lexists(own) and _vocabulary(own) != _vocabulary(origin / "tokenizer.json"):
        raise UserError(
            f"{task}: {own} has another vocabulary than the base's tokenizer",
            "Ids would mean other words; use the base that this expert was fine-tuned from.",
        )


def _configuration(place: Path) -> dict[str, Any]:
    """What the model's `config.json` says; nothing where there is none."""
    path = place / "config.json"
    try:
        return read_object(path) if os.path.lexists(path) else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no configuration: {error}", "Fetch it again.") from None


def _vocabulary(path: Path) -> Any:
    try:
        return read_object(path)["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no tokenizer: {error}", "Fetch it again.") from None


def _place(path: Path, task: str, family: str) -> Path:
    names = (TASKS[task].config, task)
    tried = [root / name / sub for root in (path, path / "roberta") for name in names for sub in (SUBFOLDER, ".")]
    folder = next((place for place in tried if has_weights(place)), None)
    if folder is None:
        raise UserError(
            f"no expert of {task} under {path}: looked for {WEIGHTS[0]} or {WEIGHTS[1]} in "
            f"{', '.join(str(place.relative_to(path)) for place in tried)}",
            f"The files: {FAMILIES[family]}",
        )
    return folder


def _weights(place: Path) -> Weights:
    return _told(lambda: weights(place))


def _told(read: Callable[[], _Value]) -> _Value:
    try:
        return read()
    except FamilyError as error:
        raise UserError(str(error)) from None


def _report(say: Callable[[str], None], name: str, left: Sequence[str], what: str) -> None:
    say(f"{name}: {what}" + (f"; left out {', '.join(left)}" if left else ""))


def _manifest(family: str, out: Path, files: Sequence[str], labels: Mapping[str, Any]) -> dict[str, Any]:
    from safetensors import safe_open

    described = describe_files(out, files)
    for name in files:
        with safe_open(out / name, "pt") as file:
            described[name]["shapes"] = {k: list(file.get_slice(k).get_shape()) for k in sorted(file.keys())}
    manifest = {
        "name": family,
        "backbone": "RoBERTa-base",
        "source": FAMILIES[family],
        "files": described,
        "labels": dict(labels),
        "tokenizer": sha256(out / "tokenizer.json"),
    }
    save_json(out / "manifest.json", manifest)
    return manifest
