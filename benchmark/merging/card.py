"""What a merged model's folder says of itself: README.md for people, merge.json for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmark.checkpoints.alignment import Aligned
from benchmark.common.escapes import code, inline
from benchmark.common.tables import markdown
from benchmark.merging.merge import HEADS, LOADER, MERGED, Plan

RECORD, CARD = "merge.json", "README.md"


def describe(plan: Plan, command: str, notes: Sequence[str]) -> dict[str, Any]:
    """All that decides the merge, as ``merge.json`` holds it."""
    aligned = plan.aligned
    return {
        "method": plan.method,
        "title": plan.about.title,
        "paper": plan.about.paper,
        "parameters": plan.parameters,
        "base": {"name": aligned.base.path.name, "sha256": aligned.base.sha256},
        "experts": {
            task: {"name": expert.path.name, "sha256": expert.sha256, "factor": plan.factors.get(task, 0.0)}
            for task, expert in aligned.experts.items()
        },
        "tasks": plan.tasks,
        "names": aligned.names,
        "notes": list(notes),
        "command": command,
    }


def write_card(out: Path, about: dict[str, Any], aligned: Aligned) -> None:
    """Write README.md and merge.json into the folder of a merge."""
    (out / RECORD).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / CARD).write_text("\n".join(_card(out, about, aligned)) + "\n", encoding="utf-8")


def _card(out: Path, about: dict[str, Any], aligned: Aligned) -> list[str]:
    with_heads = {task: name for task, each in aligned.experts.items() if (name := architecture(each.config))}
    experts = about["experts"]
    keywords = ", ".join(f"{key}={value}" for key, value in about["parameters"].items()) or "none"
    rows = [[task, e["name"], code(e["sha256"][:16]), f"{e['factor']:g}"] for task, e in experts.items()]
    lines = [
        f"# {inline(about['base']['name'])}, {len(about['tasks'])} experts merged by {inline(about['title'])}",
        "",
        f"Method: {code(about['method'])} ({inline(about['paper'])}). Keywords: {inline(keywords)}.",
        f"Base: {inline(about['base']['name'])}, sha256 {code(about['base']['sha256'][:16])}.",
        "",
        *markdown(["expert", "checkpoint", "sha256", "factor of its task vector"], rows, "<<<>"),
        "",
        "## How to load it",
        *_loading(out, aligned.base.config, with_heads),
        "",
        "## How it was made",
        *(f"- {inline(note)}" for note in about["notes"]),
        "",
        "```",
        about["command"],
        "```",
        "`merge.json` has the whole hashes and every keyword. Made with symerge-bench.",
    ]
    return lines


def _loading(out: Path, config: dict[str, Any], experts_heads: Mapping[str, str]) -> list[str]:
    """How to load it. ``experts_heads``: the class in transformers of the experts that have a head."""
    weights = [path.name for path in sorted(out.iterdir()) if path.suffix in (".safetensors", ".pt", ".pth", ".bin")]
    heads = sorted(path.stem for path in (out / HEADS).glob("*.safetensors")) if (out / HEADS).is_dir() else []
    if (out / MERGED).is_file():
        return [
            "Each task has a model of its own, put together from the base's weights here and `merged.safetensors`:",
            "",
            "```",
            f"python {LOADER} TASK NEW_FOLDER",
            "```",
        ]
    lines = ["As the base:", "", "```python"]
    if name := architecture(config):
        lines += [f"from transformers import {name}", f'model = {name}.from_pretrained("FOLDER")']
    elif weights and weights[0].endswith(".safetensors"):
        lines += [
            "from safetensors.torch import load_file",
            f'model.load_state_dict(load_file("FOLDER/{weights[0]}"))',
        ]
    elif weights:
        lines += [f'model.load_state_dict(torch.load("FOLDER/{weights[0]}", weights_only=True))']
    lines += ["```"]
    if heads:
        lines += ["", *_putting_on(out, heads[0], experts_heads)]
        if len(heads) > 1:
            lines += ["", f"The same for {', '.join(map(inline, heads[1:]))}."]
    return lines


def _putting_on(out: Path, task: str, classes: Mapping[str, str]) -> list[str]:
    """How a task's head is put on the merged model, as code that runs."""
    file = f"FOLDER/{HEADS}/{task}.safetensors"
    lines = [
        f"The head of a task lies beside it, under the expert's own names. That of {inline(task)}:",
        "",
        "```python",
    ]
    shapes = _shapes(out / HEADS / f"{task}.safetensors")
    outputs = [shape[0] for name, shape in shapes.items() if len(shape) == 2 and name.endswith("weight")]
    lines += ["from safetensors.torch import load_file"]
    if task in classes and outputs:
        name = classes[task]
        lines += [
            f"from transformers import {name}",
            f'model = {name}.from_pretrained("FOLDER", num_labels={min(outputs)}, ignore_mismatched_sizes=True)',
            f'said = model.load_state_dict(load_file("{file}"), strict=False)',
            "assert not said.unexpected_keys, said.unexpected_keys",
        ]
    else:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        lines += [
            f"# on a model that has {listed}",
            f'said = model.load_state_dict(load_file("{file}"), strict=False)',
            "assert not said.unexpected_keys, said.unexpected_keys",
        ]
    return [*lines, "```"]


def architecture(config: Mapping[str, Any]) -> str:
    """The class in transformers that a configuration names; empty where it names none, or no name."""
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    return name if name.isidentifier() else ""


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
