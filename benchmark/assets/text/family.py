"""Makes the family of `glue-mini`: an expert per task from MiniLM, each saved as it is finished, and the scores.

A second call makes only what is missing or was made from something else.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from benchmark.assets.text.training import Recipe, predict, train
from benchmark.checkpoints.adapters import load_adapters, save_adapters
from benchmark.checkpoints.families import describe_files, save_json, save_state
from benchmark.domains.text import embedded as glue_mini
from benchmark.domains.text.embedded import outputs_of, tokens_of
from benchmark.domains.text.encoder import (
    TextEncoder,
    base_hashes,
    in_blocks,
    load_encoder,
    load_tokenizer,
    minilm_folder,
)
from benchmark.domains.text.family import FOLDER
from benchmark.domains.text.heads import LinearHead
from benchmark.domains.text.meters import meter
from benchmark.domains.text.tokens import Tokens
from methods.core.states import LowRankState

SEED = 0
RIDGE = (1.0, 10.0, 100.0)


def scorer(task: str) -> Callable[[Tensor, Tensor], float]:
    """The task's metric as `(outputs, labels) -> number`."""

    def score(outputs: Tensor, labels: Tensor) -> float:
        gathered = meter(glue_mini.info(task)["metric"], task, outputs_of(task))
        gathered.update(outputs, labels)
        return gathered.result().value

    return score


def make_family(
    tasks: list[str], out: Path = FOLDER, *, recipe: Recipe | None = None, threads: int = 1, scores: bool = True
) -> dict[str, Any]:
    """Train, or go on training, the experts of `tasks` in `out`; returns the manifest."""
    recipe = recipe or Recipe()
    torch.set_num_threads(threads)
    tokenizer, base = load_tokenizer(minilm_folder()), base_hashes()
    encoder = load_encoder(minilm_folder(), "mean")
    for number, task in enumerate(tasks, 1):
        path = out / f"{task}.safetensors"
        splits = glue_mini.info(task)["splits"]
        run = {
            "task": task,
            "recipe": asdict(recipe),
            "seed": SEED,
            "base": base["model.safetensors"],
            "data": [splits[s]["sha256"] for s in ("train", "val")],
        }
        if _made_from(path, run):
            continue
        print(f"expert {number} of {len(tasks)}: {task}", file=sys.stderr, flush=True)
        began = time.process_time()
        data = {split: tokens_of(task, split, tokenizer) for split in ("train", "val")}
        adapters, head, log = train(
            encoder,
            data,
            outputs_of(task),
            scorer(task),
            recipe=recipe,
            seed=SEED,
            say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        )
        log["cpu_seconds"] = round(time.process_time() - began, 1)
        save_state(out / f"heads/{task}.safetensors", head.state_dict())
        save_adapters(path, adapters, {"run": json.dumps(run, sort_keys=True)})
        save_json(out / "logs" / f"{task}.json", log)
    if scores:
        write_manifest(out, score_family(out, encoder, tokenizer), base, threads)
    return read(out)


def read(folder: Path) -> dict[str, Any]:
    """The folder's manifest, or an empty one."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def present(folder: Path) -> list[str]:
    """The tasks whose experts lie in the folder."""
    return [t for t in glue_mini.ORDER if (folder / f"{t}.safetensors").is_file()]


def score_family(folder: Path, encoder: TextEncoder, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Validation scores `{row: {task: score}}`: majority (or mean), a linear probe of the frozen base, the base under
    the expert's head, the expert, and the average of the experts."""
    tasks = present(folder)
    base = {n: t.clone() for n, t in encoder.state_dict().items()}
    states = {t: LowRankState(base, load_adapters(folder / f"{t}.safetensors")) for t in tasks}
    scores: dict[str, dict[str, float]] = {}
    for task in tasks:
        score, val = scorer(task), tokens_of(task, "val", tokenizer)
        head = LinearHead.of(load_file(folder / f"heads/{task}.safetensors"))
        rows = {
            "majority": score(_constant(tokens_of(task, "train", tokenizer), len(val)), val.labels),
            "probe": probe(encoder, tokens_of(task, "train", tokenizer), val, score),
        }
        rows["pretrained"] = score(*predict(encoder, head, val))
        encoder.load_state_dict(dict(states[task]))
        rows["individual"] = score(*predict(encoder, head, val))
        encoder.load_state_dict(
            {n: sum(s[n] for s in states.values()) / len(states) if in_blocks(n) else t for n, t in base.items()}
        )
        rows["average"] = score(*predict(encoder, head, val))
        encoder.load_state_dict(base)
        for row, value in rows.items():
            scores.setdefault(row, {})[task] = round(value, 2)
        print(f"{task}: " + ", ".join(f"{r} {v:.1f}" for r, v in rows.items()), file=sys.stderr, flush=True)
    return scores


def probe(encoder: TextEncoder, train_data: Tokens, val: Tokens, score: Callable[[Tensor, Tensor], float]) -> float:
    """Best validation score of a ridge regression on the frozen base's features."""
    parts = []
    for data in (train_data, val):
        features = predict(encoder, torch.nn.Identity(), data)[0].double()
        parts.append(torch.cat([features, torch.ones(len(features), 1)], 1))
    labels = train_data.labels
    target = labels[:, None].double() if labels.is_floating_point() else torch.nn.functional.one_hot(labels).double()
    gram = parts[0].T @ parts[0]
    fits = [torch.linalg.solve(gram + r * torch.eye(len(gram)), parts[0].T @ target) for r in RIDGE]
    return max(score((parts[1] @ fit).float(), val.labels) for fit in fits)


def _constant(train_data: Tokens, rows: int) -> Tensor:
    """Outputs that always say the most frequent class, or the mean."""
    labels = train_data.labels
    if labels.is_floating_point():
        return labels.mean().expand(rows, 1)
    return labels.bincount().float().expand(rows, -1)


def write_manifest(out: Path, scores: dict[str, dict[str, float]], base: dict[str, str], threads: int) -> None:
    """The family's description: files with hashes and shapes, how each expert was made, validation scores."""
    names = [n for t in present(out) for n in (f"{t}.safetensors", f"heads/{t}.safetensors")]
    files = describe_files(out, names)
    runs = {}
    for name in names:
        with safe_open(out / name, "pt") as file:
            files[name]["shapes"] = {k: list(file.get_slice(k).get_shape()) for k in sorted(file.keys())}
            if file.metadata():
                runs[name] = json.loads(file.metadata()["run"])
                log = out / "logs" / f"{name.removesuffix('.safetensors')}.json"
                runs[name]["log"] = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else None
    import transformers

    save_json(
        out / "manifest.json",
        {
            "name": "mini",
            "backbone": "MiniLM-L6",
            "base": base,
            "files": files,
            "made": runs,
            "validation": scores,
            "command": f"symerge-bench assets experts glue-mini --retrain --threads {threads}",
            "machine": platform.machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        },
    )


def _made_from(path: Path, run: dict[str, Any]) -> bool:
    if not path.is_file() or not (path.parent / "heads" / path.name).is_file():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("run") == json.dumps(run, sort_keys=True)


def table(manifest: dict[str, Any], committed: dict[str, Any] | None, tasks: list[str]) -> str:
    """Validation scores as text; beside `committed` ones, whether each file is the same."""
    rows = manifest.get("validation", {})
    lines = [f"{'task':20}{'majority':>10}{'probe':>8}{'base':>8}{'expert':>8}{'average':>9}"]
    for task in tasks:
        values = [
            rows.get(row, {}).get(task, float("nan"))
            for row in ("majority", "probe", "pretrained", "individual", "average")
        ]
        same = ""
        if committed:
            name = f"{task}.safetensors"
            hashes = {m.get("files", {}).get(name, {}).get("sha256") for m in (manifest, committed)}
            same = "  bit-identical" if len(hashes) == 1 else "  differs"
        lines.append(
            f"{task:20}{values[0]:10.2f}{values[1]:8.2f}{values[2]:8.2f}{values[3]:8.2f}{values[4]:9.2f}{same}"
        )
    return "\n".join(lines)
