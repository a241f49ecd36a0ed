"""`merge` on a random language model in bfloat16 shards, in turns with mergekit, and with float32 on the same values.

    SYMERGE_BENCH_PARAMETERS=1.5e9 ./run_all.sh --bench -k own_models -s

Whole processes, start and writing included. mergekit runs where it can be imported; give its folder by PYTHONPATH. It
is told to compute in float32 and write bfloat16, as `merge` does.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import peers

from benchmark.checkpoints.models import open_model
from benchmark.common.project import ROOT

PARAMETERS = float(os.environ.get("SYMERGE_BENCH_PARAMETERS", "3e7"))
TASKS, SCALE, TURNS = 3, 0.4, int(os.environ.get("SYMERGE_BENCH_TURNS", "1"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and its experts in folders, written shard by shard; removed afterwards."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models")
    width = 2048 if PARAMETERS > 5e8 else 512
    layers = max(2, round((PARAMETERS - 2 * 8000 * width) / (12 * width * width)))
    config = LlamaConfig(
        hidden_size=width, intermediate_size=int(2.6667 * width), num_hidden_layers=layers, num_attention_heads=16,
        vocab_size=8000, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in LlamaForCausalLM(config).state_dict().items()}
    for number, name in enumerate(["base", *(f"expert{i}" for i in range(TASKS))]):
        place = folder / name
        config.save_pretrained(place)
        (place / "config.json").write_text(
            json.dumps({**json.loads((place / "config.json").read_text()), "architectures": ["LlamaForCausalLM"]})
        )
        names = list(shapes)
        cuts = [names[i::4] for i in range(4)]
        table = {}
        for part, cut in enumerate(cuts):
            file = f"model-{part + 1:05d}-of-00004.safetensors"
            state = {}
            for each in cut:
                generator = torch.Generator().manual_seed(names.index(each))
                base = 0.02 * torch.randn(shapes[each], generator=generator)
                if number:
                    generator.manual_seed(10_000 * number + names.index(each))
                    base += 0.002 * torch.randn(shapes[each], generator=generator)
                state[each] = base.to(torch.bfloat16)
            save_file(state, place / file, metadata={"format": "pt"})
            table |= {each: file for each in cut}
        index = {"metadata": {"total_size": 0}, "weight_map": table}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
    yield folder
    shutil.rmtree(folder)


def measured(words: Sequence[str], out: Path) -> dict[str, float]:
    """Wall and CPU seconds of a process and its peak of anonymous memory in GiB."""
    shutil.rmtree(out, ignore_errors=True)
    run = peers.measured(words, os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), math.inf)
    assert not run.error, run.error
    return {"wall": run.wall, "cpu": run.cpu, "GiB": run.anonymous}


def merge(folder: Path, method: str, out: Path) -> list[str]:
    """This project's command for a merge."""
    keywords = {"ties": f":keep=0.2,scale={SCALE}", "task_arithmetic": f":scale={SCALE}"}.get(method, "")
    experts = [f"e{i}={folder / f'expert{i}'}" for i in range(TASKS)]
    return [
        sys.executable, "-P", "-m", "benchmark", "merge", f"{method}{keywords}", "--base", str(folder / "base"),
        "--experts", *experts, "--out", str(out),
    ]  # fmt: skip


def mergekit(folder: Path, method: str, out: Path) -> list[str]:
    """mergekit's command for the same merge."""
    parameters: dict[str, Any] = {"weight": SCALE, **({"density": 0.2} if method == "ties" else {})}
    about = {
        "merge_method": "linear" if method == "weight_average" else method,
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / f"expert{i}"), "parameters": parameters} for i in range(TASKS)],
        "parameters": {"normalize": method == "weight_average"},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    if method == "weight_average":
        del about["base_model"]
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump(about))
    code = "import sys; from mergekit.scripts.run_yaml import main; main()"
    return [sys.executable, "-c", code, str(path), str(out), "--no-copy-tokenizer", "--lazy-unpickle", "--quiet"]


@pytest.mark.parametrize("method", ["task_arithmetic", "weight_average", "ties"])
def test_own_models_are_merged_beside_mergekit(benchmark: Any, models: Path, method: str) -> None:
    ours = merge(models, method, models / "ours")
    has_peer = subprocess.run([sys.executable, "-c", "import mergekit"], capture_output=True).returncode == 0
    rows: dict[str, list[dict[str, float]]] = {"symerge-bench": [], "mergekit": []}
    for _ in range(TURNS):
        rows["symerge-bench"].append(measured(ours, models / "ours"))
        if has_peer:
            rows["mergekit"].append(measured(mergekit(models, method, models / "theirs"), models / "theirs"))
    benchmark.pedantic(lambda: None, rounds=1)
    places = open_model(models / "base").state.places.values()
    count, size = sum(place.numel for place in places), sum(place.bytes for place in places)
    print(f"\n{method}, {count / 1e9:.2f} billion parameters, a model in bfloat16 {size / 2**30:.2f} GiB")
    for name, runs in rows.items():
        for run in runs:
            print(f"  {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in run.items()))
            benchmark.extra_info.setdefault(name, []).append(run)
    if has_peer and method != "ties":  # whose threshold is a tensor's own there
        one, other = open_model(models / "ours").state, open_model(models / "theirs").state
        apart = max(float((one[n].float() - other[n].float()).abs().max()) for n in one)
        print(f"  largest difference of the results {apart:.2g}")


@pytest.fixture(scope="module")
def wide(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models in float32."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("wide")
    for file in sorted(models.glob("*/*")):
        place = folder / file.relative_to(models)
        place.parent.mkdir(exist_ok=True)
        if file.suffix == ".safetensors":
            save_file({n: t.float() for n, t in load_file(file).items()}, place, metadata={"format": "pt"})
        elif file.name == "config.json":
            place.write_text(file.read_text().replace("bfloat16", "float32"))
        else:
            shutil.copy(file, place)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("method", ["task_arithmetic", "weight_average", "ties"])
def test_bfloat16_beside_float32(benchmark: Any, models: Path, wide: Path, method: str) -> None:
    rows: dict[str, list[dict[str, float]]] = {"bfloat16": [], "float32": []}
    for _ in range(TURNS):
        for name, folder in (("bfloat16", models), ("float32", wide)):
            rows[name].append(measured(merge(folder, method, folder / "out"), folder / "out"))
            shutil.rmtree(folder / "out")
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(rows)
    ratio = {
        key: min(r[key] for r in rows["bfloat16"]) / min(r[key] for r in rows["float32"]) for key in rows["float32"][0]
    }
    print(f"\n{method}: bfloat16 over float32: " + ", ".join(f"{key} {value:.2f}" for key, value in ratio.items()))
