"""Fine-tuning of a text encoder: one expert of `glue-mini`, with its head, or of `llm-small`, under a given one.

LoRA: Low-Rank Adaptation of Large Language Models. Hu et al., arXiv:2106.09685. Every linear layer of the encoder's
blocks (attention's query, key, value and output, and the feed-forward ones) gets `scale * B @ A`; embeddings, norms and
biases stay the base's. Or every tensor of the blocks is trained. The encoder runs without dropout.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.domains.text.encoder import TextEncoder, in_blocks
from benchmark.domains.text.tokens import Tokens


@dataclass(frozen=True)
class Recipe:
    """How an expert is trained."""

    rank: int = 8
    alpha: float = 16.0
    steps: int = 160
    batch_size: int = 32
    lr: float = 1e-3
    head_lr: float = 5e-3
    weight_decay: float = 0.01
    checks: int = 4
    """How often the validation split is scored; the best state is kept."""


class LoraLinear(nn.Module):
    """A frozen linear layer plus `scale * B @ A`."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear, self.scale = linear, alpha / rank
        self.a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * F.linear(F.linear(x, self.a), self.b)


def add_lora(encoder: TextEncoder, rank: int, alpha: float) -> dict[str, LoraLinear]:
    """A copy of nothing: `encoder` itself gets adapters in every linear layer of its blocks; `{weight name: layer}`."""
    encoder.requires_grad_(False)
    layers = {}
    linears = [(n, m) for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and in_blocks(n)]
    for path, module in linears:
        parent, _, leaf = path.rpartition(".")
        layers[f"{path}.weight"] = layer = LoraLinear(module, rank, alpha)
        setattr(encoder.get_submodule(parent), leaf, layer)
    return layers


def batches(tokens: Tokens, size: int, steps: int, generator: torch.Generator) -> Iterator[tuple[Any, Tensor]]:
    """`steps` batches of shuffled rows; within eight batches rows of like length stand together."""
    done = 0
    while True:
        order = torch.randperm(len(tokens), generator=generator)
        for part in order.split(8 * size):
            part = part[(tokens.offsets[part + 1] - tokens.offsets[part]).argsort(stable=True)]
            chunks = list(part.split(size))
            for i in torch.randperm(len(chunks), generator=generator).tolist():
                if len(chunks[i]) == size:
                    yield tokens.batch(chunks[i]), tokens.labels[chunks[i]]
                    done += 1
                    if done == steps:
                        return


def train(
    encoder: TextEncoder,
    data: dict[str, Tokens],
    outputs: int,
    score: Callable[[Tensor, Tensor], float],
    *,
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None],
    given: nn.Linear | None = None,
) -> tuple[dict[str, tuple[Tensor, Tensor, float]], nn.Linear, dict[str, Any]]:
    """Fine-tune adapters on `data["train"]`, keep the state that scores best on `data["val"]`.

    Args:
        encoder: the base; a copy is trained.
        outputs: classes, or 1 for a regression.
        score: `(outputs [N, C], labels [N]) -> number`, higher is better.
        given: the head that is trained under, and stays as it is; None: one is trained from zero. Its outputs may be
            more than those that are scored: the labels of `data["train"]` are among its rows, and `score` chooses.

    Returns:
        Adapters `{weight name: (A, B, scale)}`, the head, and the scores of each check.
    """
    torch.manual_seed(seed)
    encoder = copy.deepcopy(encoder).eval()
    layers = add_lora(encoder, recipe.rank, recipe.alpha)
    width = next(iter(layers.values())).linear.in_features
    head = _zeroed(nn.Linear(width, outputs)) if given is None else given.requires_grad_(False)
    adapters = [p for layer in layers.values() for p in (layer.a, layer.b)]
    groups: list[dict[str, Any]] = [{"params": adapters, "lr": recipe.lr}]
    if given is None:
        groups.append({"params": head.parameters(), "lr": recipe.head_lr})
    (factors, state), log = _fit(
        encoder,
        head,
        data,
        outputs,
        score,
        groups,
        lambda: ({n: (x.a.data, x.b.data) for n, x in layers.items()}, head.state_dict()),
        recipe=recipe,
        seed=seed,
        say=say,
    )
    head.load_state_dict(state)
    scale = recipe.alpha / recipe.rank
    return {n: (a, b, scale) for n, (a, b) in factors.items()}, head, log


def train_whole(
    encoder: TextEncoder,
    data: dict[str, Tokens],
    outputs: int,
    score: Callable[[Tensor, Tensor], float],
    *,
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None],
    given: nn.Linear,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Fine-tune every tensor of the blocks under a given head; arguments are those of `train`.

    Returns:
        The blocks' tensors by name, and the scores of each check.
    """
    encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
    blocks = {name: p.requires_grad_(True) for name, p in encoder.named_parameters() if in_blocks(name)}
    groups: list[dict[str, Any]] = [{"params": list(blocks.values()), "lr": recipe.lr}]
    return _fit(
        encoder,
        given.requires_grad_(False),
        data,
        outputs,
        score,
        groups,
        lambda: {name: p.data for name, p in blocks.items()},
        recipe=recipe,
        seed=seed,
        say=say,
    )


def _fit(
    encoder: nn.Module,
    head: nn.Module,
    data: dict[str, Tokens],
    outputs: int,
    score: Callable[[Tensor, Tensor], float],
    groups: list[dict[str, Any]],
    state: Callable[[], Any],
    *,
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Any, dict[str, Any]]:
    """AdamW on the first group's parameters, and on the others', with warm-up and decay; `state()` of the best check,
    copied, and the log."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    clipped = groups[0]["params"]
    warm = max(1, recipe.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / warm, (recipe.steps - s) / (recipe.steps - warm))
    )
    best: tuple[float, Any] = (-math.inf, None)
    log = []
    for step, (inputs, labels) in enumerate(batches(data["train"], recipe.batch_size, recipe.steps, generator), 1):
        prediction = head(encoder(inputs))
        loss = F.cross_entropy(prediction, labels) if outputs > 1 else F.mse_loss(prediction[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        optimiser.step()
        schedule.step()
        if step % max(1, recipe.steps // recipe.checks) == 0:
            value = score(*predict(encoder, head, data["val"]))
            log.append({"step": step, "loss": round(float(loss.detach()), 4), "val": round(value, 3)})
            say(f"step {step}/{recipe.steps}: loss {float(loss.detach()):.3f}, validation {value:.2f}")
            if value > best[0]:
                best = value, copy.deepcopy(state())
    return best[1], {"checks": log, "recipe": asdict(recipe)}


def _zeroed(head: nn.Linear) -> nn.Linear:
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def predict(encoder: nn.Module, head: nn.Module, tokens: Tokens, size: int = 64) -> tuple[Tensor, Tensor]:
    """Outputs `[N, C]` and labels `[N]` of a split, in its order."""
    rows = [head(encoder(tokens.batch(part))) for part in torch.arange(len(tokens)).split(size)]
    return torch.cat(rows), tokens.labels
