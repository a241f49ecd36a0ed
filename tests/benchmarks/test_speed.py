"""Timings against a plain reference written here: ``./run_all.sh --bench``. docs/performance.md quotes one run.

Each group holds the plain form and ours, for ``ViT-mini`` and a random ``ViT-B-32`` visual tower, K = 8. No test fails
for being slow.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import methods
from benchmark.evaluate import evaluate
from benchmark.measure import Measure
from benchmark.models.backbones import create_encoder, get_backbone
from benchmark.models.heads import ClassificationHead
from benchmark.suites.vision import Accuracy
from methods.api import Experts, Stream
from methods.coefficients import LayerwiseMerge
from methods.symerge import self_label_loss

ROOT = Path(__file__).parents[2]
K, CLASSES = 8, 10
BACKBONES = ["ViT-mini", "ViT-B-32"]
ROUNDS = {"ViT-mini": 20, "ViT-B-32": 3}


@pytest.fixture(scope="module", params=BACKBONES)
def setup(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Random experts, written to safetensors files and mapped, as in a real run."""
    name, shape = request.param, get_backbone(request.param)
    torch.manual_seed(0)
    encoder = create_encoder(name).eval()
    with tempfile.TemporaryDirectory() as folder:
        base = {n: t.detach().clone() for n, t in encoder.state_dict().items()}
        save_file(base, f"{folder}/base.safetensors")
        paths = {}
        for k in range(K):
            tuned = {n: t + 0.01 * torch.randn_like(t) for n, t in base.items()}
            paths[f"t{k}"] = f"{folder}/t{k}.safetensors"
            save_file(tuned, paths[f"t{k}"])
        heads = {t: ClassificationHead(torch.randn(CLASSES, shape.embed_dim), torch.zeros(CLASSES)) for t in paths}
        experts = Experts.from_state_dicts(f"{folder}/base.safetensors", paths, heads=heads, encoder=encoder)
        images = torch.randn(32, 3, shape.image_size, shape.image_size)
        yield {"name": name, "experts": experts, "encoder": encoder, "images": images, "rounds": ROUNDS[name]}
    gc.collect()


def timed(benchmark: Any, setup: dict[str, Any], group: str, function: Any) -> Any:
    benchmark.group = f"{group} {setup['name']}"
    return benchmark.pedantic(function, rounds=setup["rounds"], warmup_rounds=1)


def read_all(merge: LayerwiseMerge) -> None:
    """The plain reduction over the bytes that a merge must read."""
    group = merge._group
    for value in [*merge.base.values(), *merge.vectors.values(), *([group.base, group.vectors] if group else [])]:
        value.sum()


@pytest.mark.parametrize("what", ["read", "forward", "gradient"])
def test_merge(benchmark: Any, setup: dict[str, Any], what: str) -> None:
    merge = LayerwiseMerge(setup["experts"])
    made = list(merge().values())
    grads = [torch.randn_like(t) for t in made]

    def forward() -> None:
        with torch.no_grad():
            merge()

    def gradient() -> None:
        torch.autograd.grad(made, merge.raw, grads, retain_graph=True)

    timed(benchmark, setup, "merge", {"read": lambda: read_all(merge), "forward": forward, "gradient": gradient}[what])


@pytest.mark.parametrize("what", ["bare", "symerge"])
def test_adaptation_step(benchmark: Any, setup: dict[str, Any], what: str) -> None:
    experts, encoder, images = setup["experts"], setup["encoder"], setup["images"]
    head = experts.copy_head("t0")
    encoder.requires_grad_(True)

    def bare() -> None:
        encoder.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(head(encoder(images)), torch.zeros(len(images), dtype=torch.int64)).backward()

    merge = LayerwiseMerge(experts)
    optimiser = torch.optim.Adam([merge.raw, *head.parameters()], lr=1e-2)
    expert = torch.randn(len(images), CLASSES)

    def update() -> None:
        optimiser.zero_grad(set_to_none=True)
        outputs = head(experts.forward(merge(), "t0", images))
        self_label_loss(outputs, expert, None, kind="classification", labels="hard", select="agreement").backward()
        optimiser.step()

    timed(benchmark, setup, "adaptation step, batch 32", {"bare": bare, "symerge": update}[what])
    encoder.zero_grad(set_to_none=True)


@pytest.mark.parametrize("what", ["bare passes", "adamerging"])
def test_adamerging_step(benchmark: Any, setup: dict[str, Any], what: str) -> None:
    """One AdaMerging step is 2 K passes of 16; bare: those passes of one encoder."""
    experts, encoder, images = setup["experts"], setup["encoder"], setup["images"][:16]
    heads = {t: experts.copy_head(t) for t in experts.tasks}
    encoder.requires_grad_(True)

    def bare() -> None:
        encoder.zero_grad(set_to_none=True)
        for task in experts.tasks:
            for _ in range(2):
                logits = heads[task](encoder(images))
                (-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()).backward()

    batches = {t: images[None].expand(2, *images.shape) for t in experts.tasks}
    if what == "adamerging":
        merge = methods.get("adamerging")
        seen: list[float] = []

        def step() -> None:
            merged = merge(experts, Stream.from_batches(batches), steps=1)
            seen.append(merged.trace["adapt_seconds"])

        benchmark.extra_info["adapt_seconds"] = seen
        timed(benchmark, setup, "adamerging step", step)
    else:
        timed(benchmark, setup, "adamerging step", bare)
    encoder.zero_grad(set_to_none=True)


class Split:
    """Images in memory as a source."""

    def __init__(self, images: Tensor, repeats: int) -> None:
        self.images, self.size = images, len(images) * repeats

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index % len(self.images)], index % CLASSES


@pytest.mark.parametrize("what", ["bare forward", "evaluator"])
def test_evaluation(benchmark: Any, setup: dict[str, Any], what: str) -> None:
    model = methods.get("task_arithmetic")(setup["experts"]).model("t0")
    images, repeats = setup["images"], 4

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(repeats):
                model(images)

    def whole() -> None:
        split, meter = Split(images, repeats), Accuracy("t0", CLASSES)
        evaluate(model, split, meter, device=torch.device("cpu"), batch_size=len(images))

    timed(benchmark, setup, "evaluation", {"bare forward": bare, "evaluator": whole}[what])


def plain_ties(base: dict[str, Tensor], tuned: list[dict[str, Tensor]], keep: float, scale: float) -> Tensor:
    """The form of the authors' code: every task vector flat in one K x P matrix, trimmed, elected and merged whole."""
    order = sorted(base)
    flat = torch.stack([torch.cat([(state[n] - base[n]).reshape(-1) for n in order]) for state in tuned])
    size = flat.shape[1]
    limits = flat.abs().kthvalue(size - int(size * keep), dim=1, keepdim=True).values
    trimmed = flat * (flat.abs() >= limits)
    sign = torch.sign(trimmed.sum(0))
    sign[sign == 0] = torch.sign(sign.sum())
    rows = torch.where(sign.unsqueeze(0) > 0, trimmed > 0, trimmed < 0)
    return torch.cat([base[n].reshape(-1) for n in order]) + scale * (trimmed * rows).sum(0)


@pytest.mark.parametrize("what", ["plain", "streamed"])
def test_ties(benchmark: Any, setup: dict[str, Any], what: str) -> None:
    experts = setup["experts"]

    def plain() -> None:
        base = {n: experts.base[n] for n in experts.names}
        plain_ties(base, [{n: experts.expert(t)[n] for n in base} for t in experts.tasks], 0.2, 0.3)

    def streamed() -> None:
        methods.get("ties")(experts)

    function = {"plain": plain, "streamed": streamed}[what]
    benchmark.group = f"ties {setup['name']}"
    with Measure(interval=0.002) as used:
        benchmark.pedantic(function, rounds=1)
    benchmark.extra_info["peak_anonymous_mb"] = used.peak_anonymous_mb
    benchmark.extra_info["in_units_of_K_P_4_bytes"] = (used.peak_anonymous_mb or 0) * 2**20 / (K * experts.nbytes())


@pytest.mark.parametrize("what", ["python alone", "help", "list"])
def test_start_up(benchmark: Any, what: str) -> None:
    words = {"python alone": ["-c", "pass"], "help": ["-m", "benchmark", "--help"], "list": ["-m", "benchmark", "list"]}
    benchmark.group = "start-up"
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, *words[what]], cwd=ROOT, check=True, capture_output=True),
        rounds=5,
        warmup_rounds=1,
    )
