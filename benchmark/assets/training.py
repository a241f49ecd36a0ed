"""One small training loop: seeded by step, checkpointed, and the same whether or not it was interrupted.

Nothing random survives from one step to the next: a step's generator is made from (seed, name, step). So a checkpoint
is weights, optimiser moments and the step, and a run that was killed continues to bit-identical weights (same machine,
same number of threads).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

from benchmark.checkpoints.families import save_state
from benchmark.common.bars import pause
from benchmark.common.seeds import training_seed


@dataclass(frozen=True)
class Schedule:
    """AdamW with linear warm-up and cosine decay to zero; ``lr`` is the peak. Weight decay spares vectors."""

    steps: int
    lr: float
    warmup: int
    batch: int
    weight_decay: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of step ``step`` (from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by :func:`training_seed`."""
    return torch.Generator().manual_seed(training_seed(*parts))


def epoch_indices(n: int, batch: int, step: int, *seed: object) -> torch.Tensor:
    """Which of ``n`` samples make the batch of this step: consecutive pieces of one seeded shuffle per epoch."""
    picked, position, end = [], step * batch, (step + 1) * batch
    while position < end:
        epoch, start = divmod(position, n)
        order = torch.randperm(n, generator=generator(*seed, "epoch", epoch))
        picked.append(order[start : start + end - position])
        position += len(picked[-1])
    return torch.cat(picked)


def shift(images: torch.Tensor, pixels: int, random: torch.Generator) -> torch.Tensor:
    """Each uint8 image ``[B, H, W(, 3)]`` moved by up to ``pixels`` in both directions, its border repeated."""
    n, height, width = images.shape[:3]
    moves = torch.randint(-pixels, pixels + 1, (2, n, 1), generator=random)
    rows = (torch.arange(height) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp(0, width - 1)
    return images[torch.arange(n).view(-1, 1, 1), rows[:, :, None], columns[:, None, :]]


def train(
    model: nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    schedule: Schedule,
    *,
    title: str = "training",
    checkpoint: Path | None = None,
    every: int = 100,
    identity: Mapping[str, Any] | None = None,
    stop_at: int | None = None,
) -> list[float]:
    """Minimise ``loss_at(step)`` over the trainable parameters of ``model``; returns the loss of every step run here.

    Args:
        loss_at: the loss of one step; all its randomness comes from the step's number.
        checkpoint: where weights, moments and step are kept every ``every`` steps, and read back from if present.
        identity: what the run is (data, seeds); a checkpoint of another run or schedule is refused with ``ValueError``.
        stop_at: leave after this step with the checkpoint written, as a killed run would.
    """
    named = {k: p for k, p in model.named_parameters() if p.requires_grad}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in named.values() if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in named.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    order = [k for g in groups for p in g["params"] for k in named if named[k] is p]
    what = json.dumps({"schedule": asdict(schedule), **(identity or {})}, sort_keys=True)
    running = dict(model.named_buffers())
    first = _restore(checkpoint, what, named, order, optimiser, running) if checkpoint and checkpoint.exists() else 0
    losses = []
    model.train()
    last = schedule.steps if stop_at is None else min(stop_at, schedule.steps)
    shown: Any = {"desc": title, "unit": "step", "dynamic_ncols": True, "mininterval": pause()}
    with tqdm(total=schedule.steps, initial=first, **shown) as bar:
        for step in range(first, last):
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            loss = loss_at(step)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{title}: the loss is {loss.item()} at step {step}; lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
            done = step + 1
            if checkpoint and (done % every == 0 or done == last):
                _keep(checkpoint, what, done, named, order, optimiser, running)
    model.eval()
    return losses


def _keep(
    path: Path,
    what: str,
    step: int,
    named: Mapping[str, nn.Parameter],
    order: list[str],
    optimiser: torch.optim.Optimizer,
    running: Mapping[str, torch.Tensor],
) -> None:
    tensors = {f"weight.{k}": p.detach() for k, p in named.items()} | {f"buffer.{k}": b for k, b in running.items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"moment.{order[index]}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_state(path, tensors, metadata={"run": what, "step": str(step)})


def _restore(
    path: Path,
    what: str,
    named: Mapping[str, nn.Parameter],
    order: list[str],
    optimiser: torch.optim.Optimizer,
    running: Mapping[str, torch.Tensor],
) -> int:
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        if about.get("run") != what:
            raise ValueError(
                f"{path} is the checkpoint of another run.\n  found    {about.get('run')}\n"
                f"  expected {what}\ndelete it, or give another --out"
            )
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[f"weight.{name}"])
        for name, buffer in running.items():
            if f"buffer.{name}" in tensors:
                buffer.copy_(tensors[f"buffer.{name}"])
    state = optimiser.state_dict()
    for index, name in enumerate(order):
        prefix = f"moment.{name}."
        # The fused optimiser reads moments in the memory order of their weight.
        state["state"][index] = {
            k.removeprefix(prefix): torch.empty_like(named[name].detach()).copy_(v)
            if v.shape == named[name].shape
            else v
            for k, v in tensors.items()
            if k.startswith(prefix) and "." not in k.removeprefix(prefix)
        }
    optimiser.load_state_dict(state)
    return int(about["step"])
