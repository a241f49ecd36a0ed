"""What a merged model's folder says of itself: README.md for people, merge.json for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def write_card(out: Path, about: dict[str, Any], base_config: dict[str, Any]) -> None:
    """Write README.md and merge.json into the folder of a merge."""
    (out / RECORD).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / CARD).write_text("\n".join(_card(out, about, base_config)) + "\n", encoding="utf-8")


def _card(out: Path, about: dict[str, Any], config: dict[str, Any]) -> list[str]:
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
        *_loading(out, config),
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


def _loading(out: Path, config: dict[str, Any]) -> list[str]:
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
    architecture = (config.get("architectures") or [""])[0]
    lines = ["As the base:", "", "```python"]
    if config and architecture:
        lines += [f"from transformers import {architecture}", f"model = {architecture}.from_pretrained(FOLDER)"]
    elif weights and weights[0].endswith(".safetensors"):
        lines += [
            "from safetensors.torch import load_file",
            f'model.load_state_dict(load_file("FOLDER/{weights[0]}"))',
        ]
    elif weights:
        lines += [f'model.load_state_dict(torch.load("FOLDER/{weights[0]}", weights_only=True))']
    lines += ["```"]
    if heads:
        lines += [
            "",
            f"The head of a task ({', '.join(map(inline, heads))}) lies beside it, under the expert's own names; put "
            "it on a model of that number of classes:",
            "",
            "```python",
            f'model.load_state_dict(load_file("FOLDER/{HEADS}/{heads[0]}.safetensors"), strict=False)',
            "```",
        ]
    return lines
