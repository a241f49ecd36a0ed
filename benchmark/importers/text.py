"""RoBERTa experts on GLUE made into a family: encoder and head apart, safetensors, every difference reported.

Layouts (PATH holds them): `<task>/roberta-base_lr1e-05/` as in vanillaOVO/roberta_base_glue_ckpts and
lu-vae/roberta-glue, or `<task>/` (family `local`); `task` is GLUE's configuration (`cola`, `sst2`, ...) or our name.
Each holds `model.safetensors` or `pytorch_model.bin`, `config.json` and the tokenizer; the base lies in `roberta-base/`
or `base/`. Nothing is run to read them.

- `roberta.*` becomes `model.*`; `classifier.*` the head; the pooler, which these classifiers do not have and the base
  may, `position_ids` buffers and the base's `lm_head.*` are left out. What else is there is named.
- A vocabulary or tokenizer that is not the base's is an error: ids would mean other words.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.checkpoints.families import FamilyError, describe_files, save_json, save_state, sha256
from benchmark.common.cache import locked
from benchmark.common.errors import UserError, unknown
from benchmark.domains.text.family import BASE, read_manifest
from benchmark.domains.text.glue import TASKS
from benchmark.importers.towers import read_file

FAMILIES = {
    "ovo": "https://huggingface.co/vanillaOVO/roberta_base_glue_ckpts (EMR-Merging, DARE)",
    "lu": "https://huggingface.co/lu-vae/roberta-glue (Twin-Merging)",
    "local": "your own fine-tunings",
}
SUBFOLDER = "roberta-base_lr1e-05"
BASES = ("roberta-base", "base", "pretrained", "FacebookAI/roberta-base")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
#: What a configuration says that the shapes of tensors do not show.
ARCHITECTURE = (
    "hidden_act", "num_attention_heads", "layer_norm_eps", "position_embedding_type", "pad_token_id",
)  # fmt: skip
EMBEDDING = "model.embeddings.word_embeddings.weight"


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
    origin = next((path / name for name in BASES if _weights(path / name)), None)
    if origin is None:
        raise UserError(f"no base in {path}", f"Put roberta-base's files into {path / BASES[0]} (one of {WEIGHTS})")
    base, _, left = split(_read(origin))
    _report(say, "base", left)
    if EMBEDDING not in base:
        raise UserError(f"{origin} has no {EMBEDDING.removeprefix('model.')}: its tensors are {', '.join([*base][:3])}",
                        "Fetch roberta-base: a RobertaModel, with or without its language-model head.")
    if lacking := [name for name in ("config.json", "tokenizer.json") if not (origin / name).is_file()]:
        raise UserError(f"{origin} lacks {' and '.join(lacking)}", "Fetch all files of roberta-base.")
    places = {task: _place(path, task, family) for task in tasks}
    for task, place in places.items():  # all of them before anything is written
        encoder, head, left = split(_read(place))
        _report(say, task, left)
        _check(task, place, base, encoder, head, origin)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock"):
        files = _present(family, out, base)
        save_state(out / BASE, base)
        for name in ("config.json", *TOKENIZER):
            if (origin / name).is_file():
                shutil.copyfile(origin / name, out / name)
        for task, place in places.items():
            encoder, head, _ = split(_read(place))
            save_state(out / f"{task}.safetensors", encoder)
            save_state(out / f"heads/{task}.safetensors", head)
            files += [f"{task}.safetensors", f"heads/{task}.safetensors"]
        return _manifest(family, out, list(dict.fromkeys([BASE, *files])))


def _present(family: str, out: Path, base: Mapping[str, Tensor]) -> list[str]:
    """The files of tasks that were imported before. Raises :class:`UserError` where these are of another base."""
    if not (out / "manifest.json").is_file():
        return []
    mend = f"Give another --out, or delete {out} to begin again."
    before = read_manifest(out, mend)
    if before.get("name") != family:
        raise UserError(f"{out} holds the family {before.get('name')!r}, not {family!r}", mend)
    if (out / BASE).is_file():
        kept = _tensors(out / BASE)
        if kept.keys() != base.keys() or any(not torch.equal(kept[n], t) for n, t in base.items()):
            raise UserError(f"{out} holds experts of another base", mend)
    return [name for name in before["files"] if name != BASE and (out / name).is_file()]


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """A RoBERTa state dict as encoder (`model.*`), head (`dense.*`, `out_proj.*`), and names that were left out."""
    encoder, head, left = {}, {}, []
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


def _check(task: str, place: Path, base: dict[str, Tensor], encoder: dict[str, Tensor], head: dict[str, Tensor],
           origin: Path) -> None:
    mine = encoder.get(EMBEDDING)
    if mine is not None and mine.shape != base[EMBEDDING].shape:
        raise UserError(
            f"{task}: a vocabulary of {mine.shape[0]} words of width {mine.shape[1]}, the base has "
            f"{tuple(base[EMBEDDING].shape)}", f"Is {place} fine-tuned from {origin.name}?"
        )
    missing, extra = sorted(base.keys() - encoder.keys()), sorted(encoder.keys() - base.keys())
    if missing or extra:
        raise UserError(f"{task}: missing {missing[:3] or 'nothing'}, extra {extra[:3] or 'nothing'} beside the base's "
                        f"{len(base)} tensors", f"Is {place} a RobertaForSequenceClassification?")
    wrong = [n for n, t in encoder.items() if t.shape != base[n].shape]
    if wrong:
        raise UserError(f"{task}: {wrong[0]} is {tuple(encoder[wrong[0]].shape)}, the base has "
                        f"{tuple(base[wrong[0]].shape)}", f"Is {place} of another size of RoBERTa?")
    wanted = {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
    if set(head) != wanted:
        raise UserError(f"{task}: the head has {sorted(head) or 'no tensors'}; expected {sorted(wanted)}",
                        f"{place} must be a RobertaForSequenceClassification")
    if len(head["out_proj.weight"]) != TASKS[task].outputs:
        raise UserError(f"{task}: the head has {len(head['out_proj.weight'])} labels, the task {TASKS[task].outputs}",
                        f"Is {place} the expert of another task?")
    mine_said, said = _configuration(place), _configuration(origin)
    for key in ARCHITECTURE:
        if key in mine_said and key in said and mine_said[key] != said[key]:
            raise UserError(f"{task}: {place}/config.json says {key} {mine_said[key]!r}, the base's {said[key]!r}",
                            "The same weights would compute something else; use the base it was fine-tuned from.")
    own = place / "tokenizer.json"
    if own.is_file() and _vocabulary(own) != _vocabulary(origin / "tokenizer.json"):
        raise UserError(f"{task}: {own} has another vocabulary than the base's tokenizer",
                        "Ids would mean other words; use the base that this expert was fine-tuned from.")


def _configuration(place: Path) -> dict[str, Any]:
    """What the model's `config.json` says; nothing where there is none."""
    path = place / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no configuration: {error}", "Fetch it again.") from None
    return found if isinstance(found, dict) else {}


def _vocabulary(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no tokenizer: {error}", "Fetch it again.") from None


def _weights(place: Path) -> Path | None:
    return next((place / name for name in WEIGHTS if (place / name).is_file()), None)


def _place(path: Path, task: str, family: str) -> Path:
    names = (TASKS[task].config, task)
    tried = [path / name / sub for name in names for sub in (SUBFOLDER, ".")]
    found = next((place for place in tried if _weights(place)), None)
    if found is None:
        raise UserError(
            f"no expert of {task} under {path}: looked for {WEIGHTS[0]} or {WEIGHTS[1]} in "
            f"{', '.join(str(place.relative_to(path)) for place in tried)}", f"The files: {FAMILIES[family]}"
        )
    return found


def _read(place: Path) -> dict[str, Tensor]:
    path = _weights(place)
    assert path is not None
    return _tensors(path)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(read_file(path).tensors)
    except FamilyError as error:
        raise UserError(str(error)) from None


def _report(say: Callable[[str], None], name: str, left: Sequence[str]) -> None:
    say(f"{name}: read" + (f"; left out {', '.join(left)}" if left else ""))


def _manifest(family: str, out: Path, files: Sequence[str]) -> dict[str, Any]:
    from safetensors import safe_open

    described = describe_files(out, files)
    for name in files:
        with safe_open(out / name, "pt") as file:
            described[name]["shapes"] = {k: list(file.get_slice(k).get_shape()) for k in sorted(file.keys())}
    manifest = {"name": family, "backbone": "RoBERTa-base", "source": FAMILIES[family], "files": described,
                "tokenizer": sha256(out / "tokenizer.json")}
    save_json(out / "manifest.json", manifest)
    return manifest
