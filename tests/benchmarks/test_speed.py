"""Timings and memory against plain forms, run by ``./run_all.sh --bench``; docs/performance.md quotes one run.

Every benchmark runs a plain form and ours in turns and keeps the ratio of their fastest rounds. No test fails for being
slow. ``SYMERGE_BENCH_THREADS`` is the number of torch's threads (default: one a core).
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.measure import Measure
from safetensors.torch import save_file
from torch import Tensor, nn
from turns import Rounds, Seconds, compare, fastest, least, trim

import methods
from benchmark.domains.vision.backbones import create_encoder, get_backbone
from benchmark.domains.vision.bench import Accuracy, ImageSource
from benchmark.domains.vision.embedded import ImageSplit
from benchmark.domains.vision.heads import ClassificationHead
from benchmark.harness.evaluate import evaluate
from methods.api import Experts, Stream
from methods.tools.coefficients import LayerwiseMerge

ROOT = Path(__file__).parents[2]
K, CLASSES = 8, 10
ROUNDS = {"ViT-mini": 20, "ViT-B-32": 3}
BATCH = {"ViT-mini": 128, "ViT-B-32": 32}
# Several rounds: the first makes the optimiser's state and takes the memory that later ones use again.
STEPS = {"ViT-mini": 5, "ViT-B-32": 3}
# Of AdaMerging, whose step is K times two passes.
ADAMERGING_STEPS, ADAMERGING_ROUNDS = {"ViT-mini": 5, "ViT-B-32": 1}, {"ViT-mini": 20, "ViT-B-32": 2}


@pytest.fixture(autouse=True)
def threads() -> None:
    torch.set_num_threads(int(os.environ.get("SYMERGE_BENCH_THREADS", 0)) or len(os.sched_getaffinity(0)))


class Setup:
    """K random experts of one backbone in safetensors files, mapped as in a real run, and images for them."""

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.shape = name, get_backbone(name)
        torch.manual_seed(0)
        self.encoder = create_encoder(name).eval()
        base = {n: t.detach().clone() for n, t in self.encoder.state_dict().items()}
        self.paths = write(base, folder)
        tasks = [t for t in self.paths if t != "base"]
        heads = {t: ClassificationHead(torch.randn(CLASSES, self.shape.embed_dim), torch.zeros(CLASSES)) for t in tasks}
        self.experts = Experts.from_state_dicts(
            self.paths["base"], {t: self.paths[t] for t in tasks}, heads=heads, encoder=self.encoder
        )
        self.images = torch.randn(32, 3, self.shape.image_size, self.shape.image_size)

    def bare(self, tasks: tuple[str, ...], size: int, passes: int = 1) -> None:
        """Forward and backward of one encoder with its own weights: what every update must do at least."""
        self.encoder.requires_grad_(True)
        self.encoder.zero_grad(set_to_none=True)
        for task in tasks:
            head = self.experts.heads[task]
            for _ in range(passes):
                logits = head(self.encoder(self.images[:size]))
                nn.functional.cross_entropy(logits, torch.zeros(size, dtype=torch.int64)).backward()

    def adapted(self, method: str, tasks: tuple[str, ...], size: int, passes: int = 1, steps: int = 1) -> Seconds:
        """``steps`` rounds of the method over ``tasks`` alone; what the fastest took."""
        self.encoder.zero_grad(set_to_none=True)
        stream = Stream.from_batches({t: self.images[None, :size].expand(passes, -1, -1, -1, -1) for t in tasks})
        stream.progress = rounds = Rounds()
        # The method itself: called as users do, it refuses a stream that lacks a task.
        function = methods.get(method).function
        assert function is not None
        function(self.experts, stream, steps=steps)
        return least(rounds.taken)


def write(base: dict[str, Tensor], folder: str) -> dict[str, str]:
    """The base and K random experts around it as files; their paths by name."""
    paths = {name: f"{folder}/{name}.safetensors" for name in ["base", *(f"t{k}" for k in range(K))]}
    for name, path in paths.items():
        save_file(base if name == "base" else {n: t + 0.01 * torch.randn_like(t) for n, t in base.items()}, path)
    return paths


@pytest.fixture(scope="module", params=["ViT-mini", "ViT-B-32"])
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    with tempfile.TemporaryDirectory() as folder:
        yield Setup(request.param, folder)
    gc.collect()


def read_by(merge: LayerwiseMerge) -> list[Tensor]:
    """Everything that a merge reads, once: the base and the task vectors."""
    return [t for _, part in merge._parts for kept in (part.base, part.vectors) for t in kept]  # type: ignore[attr-defined]


class HandOut(torch.autograd.Function):
    """Stands for the pass behind the merge: gives every merged tensor its gradient at once, from one number."""

    @staticmethod
    def forward(ctx: Any, grads: list[Tensor], *made: Tensor) -> Tensor:
        ctx.grads = grads
        return made[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None | Tensor, ...]:
        return None, *ctx.grads


@pytest.mark.parametrize("what", ["forward", "gradient"])
def test_merge_against_reading_its_inputs_once(benchmark: Any, setup: Setup, what: str) -> None:
    merge = LayerwiseMerge(setup.experts)
    inputs = read_by(merge)
    made = list(merge().values())
    handed = HandOut.apply([torch.randn_like(t) for t in made], *made)

    def read() -> None:
        for value in inputs:
            value.sum()

    def forward() -> None:
        with torch.no_grad():
            merge()

    def gradient() -> None:
        torch.autograd.grad(handed, merge.raw, retain_graph=True)

    ours = {"forward": forward, "gradient": gradient}[what]
    compare(benchmark, f"merge {setup.name}", read, ours, rounds=10 * ROUNDS[setup.name])


def test_a_symerge_update_against_one_bare_pass(benchmark: Any, setup: Setup) -> None:
    """Batch 32: the loop draws, merges, runs, differentiates and steps once."""
    tasks = ("t0",) if setup.name == "ViT-B-32" else setup.experts.tasks
    compare(
        benchmark,
        f"adaptation {setup.name}",
        lambda: fastest(lambda: [setup.bare((t,), 32) for t in tasks], STEPS[setup.name]),
        lambda: setup.adapted("symerge", tasks, 32, steps=STEPS[setup.name]),
        rounds=ROUNDS[setup.name],
        warm=setup.name == "ViT-mini",
    )


def test_what_a_symerge_update_cannot_do_without_against_one_bare_pass(benchmark: Any, setup: Setup) -> None:
    """The same pass, all inputs of the merge read twice (for the merge and for its gradient) and one step of Adam."""
    tasks = ("t0",) if setup.name == "ViT-B-32" else setup.experts.tasks
    merge = LayerwiseMerge(setup.experts)
    inputs = read_by(merge)
    trained = [merge.raw, *(p.detach().clone().requires_grad_() for p in setup.experts.heads["t0"].parameters())]
    descent = torch.optim.Adam(trained, lr=1e-2)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)

    def needed() -> None:
        for task in tasks:
            for value in inputs:
                value.sum()
            setup.bare((task,), 32)
            for value in inputs:
                value.sum()
            descent.step()

    compare(
        benchmark,
        f"adaptation {setup.name}",
        lambda: fastest(lambda: [setup.bare((t,), 32) for t in tasks], STEPS[setup.name]),
        lambda: fastest(needed, STEPS[setup.name]),
        rounds=ROUNDS[setup.name],
    )


def test_an_adamerging_step_against_its_bare_passes(benchmark: Any, setup: Setup) -> None:
    """Two batches of 16 of each of K tasks, then one step."""
    tasks, steps = setup.experts.tasks, ADAMERGING_STEPS[setup.name]
    compare(
        benchmark,
        f"adaptation {setup.name}",
        lambda: fastest(lambda: setup.bare(tasks, 16, 2), steps),
        lambda: setup.adapted("adamerging", tasks, 16, 2, steps=steps),
        rounds=ADAMERGING_ROUNDS[setup.name],
        warm=setup.name == "ViT-mini",
    )


def test_memory_of_adamerging_against_task_vectors_and_one_training_step(benchmark: Any, setup: Setup) -> None:
    """A training step holds the weights (the encoder has them already, hence added), their gradients, activations.

    Of a step over several batches, as AdaMerging's is, gradients stay while the next batch's activations are alive:
    its bare passes. A step of one batch holds less.
    """
    experts = setup.experts
    tasks = experts.tasks[:2]

    def peak(function: Any) -> float:
        setup.encoder.zero_grad(set_to_none=True)
        trim()
        with Measure(interval=0.002) as used:
            function()
        return used.peak_anonymous_mb or 0.0

    model = experts.nbytes() / 2**20
    step, one_batch = model + peak(lambda: setup.bare(tasks, 16, 2)), model + peak(lambda: setup.bare(tasks[:1], 16))
    benchmark.group = f"memory {setup.name}"
    used = peak(lambda: benchmark.pedantic(lambda: setup.adapted("adamerging", tasks, 16, 2), rounds=1))
    benchmark.extra_info.update(
        threads=torch.get_num_threads(),
        peak_mb=used,
        task_vectors_mb=K * model,
        training_step_mb=step,
        one_batch_mb=one_batch,
        ratio_memory=round(used / (K * model + step), 3),
        ratio_memory_one_batch=round(used / (K * model + one_batch), 3),
    )


def test_evaluation_against_the_bare_forward(benchmark: Any, setup: Setup, tmp_path: Path) -> None:
    """From a mapped file of bytes, normalised batch by batch, to a score; bare: one tensor through the model."""
    model = methods.get("task_arithmetic")(setup.experts).model("t0")
    size, batch = setup.shape.image_size, BATCH[setup.name]
    count = 4 * batch
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    split = ImageSplit(
        np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(count) % CLASSES, [str(c) for c in range(CLASSES)]
    )
    source = ImageSource(split, setup.shape.mean, setup.shape.std, torch.device("cpu"), torch.float32)

    images = torch.randn(batch, 3, size, size)

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(count // batch):
                model(images)

    def whole() -> None:
        evaluate(model, source, Accuracy("t0", CLASSES), device=torch.device("cpu"), batch_size=batch)

    compare(benchmark, f"evaluation {setup.name}", bare, whole, rounds=ROUNDS[setup.name])


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


def measured(benchmark: Any, name: str, experts: Experts, function: Any) -> None:
    """Run once and note the peak of anonymous memory in units of all task vectors, K x P x 4 bytes."""
    trim()
    with Measure(interval=0.002) as used:
        function()
    benchmark.extra_info[f"{name}_memory_in_task_vectors"] = round(
        (used.peak_anonymous_mb or 0.0) * 2**20 / (K * experts.nbytes()), 3
    )


@pytest.mark.parametrize("blocks", [4, 8])
def test_ties_against_the_whole_matrix(benchmark: Any, tmp_path: Path, blocks: int) -> None:
    """On the first blocks of ViT-B-32: the plain form needs about 6 times the task vectors, too much for the tower."""
    kept = tuple(f"resblocks.{i}." for i in range(blocks))
    state = create_encoder("ViT-B-32").state_dict()
    paths = write({n: t.clone() for n, t in state.items() if any(k in n for k in kept)}, str(tmp_path))
    experts = Experts.from_state_dicts(paths["base"], {t: p for t, p in paths.items() if t != "base"})

    found: dict[str, Tensor] = {}

    def plain() -> None:
        base = {n: experts.base[n] for n in experts.names}
        found["plain"] = plain_ties(base, [{n: experts.expert(t)[n] for n in base} for t in experts.tasks], 0.2, 0.3)

    def streamed() -> None:
        found["ours"] = torch.cat([t.reshape(-1) for _, t in sorted(methods.get("ties")(experts).state_dict().items())])

    measured(benchmark, "plain", experts, plain)
    found.clear()
    measured(benchmark, "ours", experts, lambda: methods.get("ties")(experts) and None)
    compare(benchmark, f"ties, {blocks} of 12 blocks of ViT-B-32", plain, streamed, rounds=3, warm=False)
    assert torch.equal(found["plain"], found["ours"])


def test_memory_of_ties(benchmark: Any, setup: Setup) -> None:
    benchmark.group = f"memory {setup.name}"
    measured(
        benchmark,
        "ours",
        setup.experts,
        lambda: benchmark.pedantic(lambda: methods.get("ties")(setup.experts) and None, rounds=1),
    )


@pytest.mark.parametrize("what", ["help", "list"])
def test_start_up_against_python_alone(benchmark: Any, what: str) -> None:
    words = {"help": ["-m", "benchmark", "--help"], "list": ["-m", "benchmark", "list"]}[what]

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    compare(benchmark, "start-up", lambda: run("-c", "pass"), lambda: run(*words), rounds=7)
