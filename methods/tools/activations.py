"""What experts' layers see: their inputs, collected through the stream, and the merge that fits them best.

Inputs of linear layers (as Gram matrices, or as they are) and normalised inputs of layer norms; always one expert at a
time, on its own task's samples without labels, under its own weights.

Open_clip's attention is an ``nn.MultiheadAttention``: its ``in_proj_weight`` has no module of its own (its input is
the query, where query, key and value are one tensor) and ``out_proj.forward`` is never called, so that a hook on it
sees nothing. Its input is the attention's result with the output projection replaced by the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.errors import MergingError
from methods.core.experts import Experts
from methods.core.stream import Batch, Stream

Record = Callable[[str, Tensor], None]
CHUNK = 32


def samples(stream: Stream, task: str, examples: int, chunk: int = CHUNK) -> Iterator[Batch]:
    """Batches of the next ``examples`` samples of a task (at most one pass over its split)."""
    wanted, seen = min(int(examples), stream.size(task)), 0
    if wanted < 1:
        raise MergingError(f"{examples} samples of {task!r} asked for, of {stream.size(task)}; expected at least 1")
    while seen < wanted:
        batch = stream.draw(task, min(chunk, wanted - seen))
        seen += len(batch.index)
        yield batch


def layers(experts: Experts, kind: str) -> tuple[str, ...]:
    """Names of the weights whose layer inputs can be observed.

    Args:
        kind: ``"linear"``: weights of ``nn.Linear`` modules; ``"projection"``: the packed in-projections of
            ``nn.MultiheadAttention``; ``"norm"``: weights of ``nn.LayerNorm``.
    """
    if experts.encoder is None:
        raise MergingError("this method runs the encoder and none was given; make the Experts with encoder=module")
    names = set(experts.names)
    weights = []
    for path, module in experts.encoder.named_modules():
        prefix = f"{path}." if path else ""
        weight = {"linear": nn.Linear, "projection": nn.MultiheadAttention, "norm": nn.LayerNorm}[kind]
        name = prefix + ("in_proj_weight" if kind == "projection" else "weight")
        if isinstance(module, weight) and name in names:
            weights.append(name)
    return tuple(weights)


def observe(experts: Experts, task: str, batches: Iterable[Batch], wanted: Collection[str], record: Record) -> None:
    """Run an expert and hand ``record(name, rows)`` what each wanted layer is given, batch by batch.

    Args:
        wanted: tensor names out of :func:`layers`. ``rows`` is ``[rows, in]`` for a linear weight, and for a norm's
            weight the normalised input ``[rows, features]`` that it scales. Of texts (inputs with an
            ``attention_mask``) the rows of padding are left out.
    """
    state = experts.state(task)
    real: Tensor | None = None

    def without_padding(name: str, rows: Tensor) -> None:
        record(name, rows if real is None or len(rows) != len(real) else rows[real])

    with torch.no_grad(), watch(experts, set(wanted), without_padding):
        for batch in batches:
            masked = isinstance(batch.inputs, Mapping) and "attention_mask" in batch.inputs
            real = batch.inputs["attention_mask"].reshape(-1).bool() if masked else None
            experts.forward(state, task, batch.inputs)


@contextmanager
def watch(experts: Experts, wanted: set[str], record: Record) -> Iterator[None]:
    assert experts.encoder is not None
    with ExitStack() as stack:
        for path, module in experts.encoder.named_modules():
            names = {
                part: name
                for part in ("weight", "in_proj_weight", "out_proj.weight")
                if (name := f"{path}.{part}" if path else part) in wanted
            }
            if not names:
                continue
            hook = _hook_of(module, names, record)
            if hook is not None:
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _hook_of(module: nn.Module, names: Mapping[str, str], record: Record) -> Callable[..., None] | None:
    """The pre-forward hook of one module; ``names``: its weights, within the module, that are wanted."""
    if isinstance(module, nn.MultiheadAttention):

        def attention(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            query, key, value = ([*args, *(kwargs[n] for n in ("query", "key", "value") if n in kwargs)])[:3]
            if "in_proj_weight" in names and query is key and key is value:
                record(names["in_proj_weight"], _rows(query))
            if "out_proj.weight" in names:
                record(names["out_proj.weight"], _rows(_unprojected(module, args, kwargs)))

        return attention
    if isinstance(module, nn.LayerNorm):

        def norm(module: nn.LayerNorm, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows = (args or tuple(kwargs.values()))[0].detach().float()
            normal = F.layer_norm(rows, module.normalized_shape, None, None, module.eps)
            record(names["weight"], normal.reshape(-1, module.normalized_shape[-1]))

        return norm if len(module.normalized_shape) == 1 else None
    if isinstance(module, nn.Linear):
        return lambda module, args, kwargs: record(names["weight"], _rows((args or tuple(kwargs.values()))[0]))
    return None


def _rows(inputs: Tensor) -> Tensor:
    return inputs.detach().float().reshape(-1, inputs.shape[-1])


def _unprojected(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The attention's result before its output projection."""
    projection = module.out_proj
    weight = projection.weight
    identity = nn.Linear(projection.in_features, projection.in_features, device=weight.device, dtype=weight.dtype)
    nn.init.eye_(identity.weight)
    nn.init.zeros_(identity.bias)
    module._modules["out_proj"] = identity
    try:
        result: Tensor = type(module).forward(module, *args, **kwargs)[0]
    finally:
        module._modules["out_proj"] = projection
    return result


def grams(
    experts: Experts, stream: Stream, examples: int, wanted: Collection[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For each task ``{name: X^T X [in, in]}``, float64, over ``examples`` samples; one task at a time."""
    for task in experts.tasks:
        sums: dict[str, Tensor] = {}

        def record(name: str, rows: Tensor, sums: dict[str, Tensor] = sums) -> None:
            rows = rows.double()
            if name in sums:
                sums[name].addmm_(rows.T, rows)
            else:
                sums[name] = rows.T @ rows

        observe(experts, task, samples(stream, task, examples), wanted, record)
        yield task, sums


def by_name(experts: Experts, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics keyed by tensor or module name, under the tensor names. Unknown names are a :class:`MergingError`."""
    names, by_tensor = set(experts.names), {}
    for key, value in statistics.items():
        name = next((n for n in (key, f"{key}.weight", f"{key}.in_proj_weight") if n in names), None)
        if name is None:
            raise MergingError(
                f"statistics for {key!r}, which is no tensor or module of these experts; the first tensor is "
                f"{experts.names[0]!r}"
            )
        by_tensor[name] = value
    return by_tensor


def per_task(experts: Experts, items: Any) -> Iterator[tuple[str, Any]]:
    """``(task, item)`` pairs from ``{task: item}``, a list in the order of tasks, or an iterable of pairs."""
    if isinstance(items, Mapping):
        missing = [t for t in experts.tasks if t not in items]
        if missing or len(items) != len(experts):
            raise MergingError(f"statistics for {list(items)}; expected one entry for each of {list(experts.tasks)}")
        return iter([(t, items[t]) for t in experts.tasks])
    if isinstance(items, (list, tuple)):
        if len(items) != len(experts):
            raise MergingError(f"statistics of {len(items)} experts; expected {len(experts)}")
        return zip(experts.tasks, items, strict=True)
    return iter(items)


def least_squares(experts: Experts, statistics: Any, reduce: float = 1.0) -> dict[str, Tensor]:
    """The vector nearest to all in what the inputs see: ``T = (sum_k tau_k G_k) (sum_k G_k)^+``, ``[out, in]``.

    Args:
        statistics: Gram matrices of each task, as :func:`per_task` takes them; keys as in :func:`by_name`.
        reduce: factor of every Gram matrix's off-diagonal entries. With 1, eigenvalues within the rounding of the
            matrices' own precision count as 0, as in a pseudo-inverse in that precision.

    Returns:
        The merged vectors of the names that have a Gram matrix. Directions that no input has stay 0.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    noise: dict[str, float] = {}
    for task, matrices in per_task(experts, statistics):
        for name, gram in by_name(experts, matrices).items():
            vector = experts.task_vector(name, task)
            if vector.ndim != 2 or gram.shape != (vector.shape[1], vector.shape[1]):
                raise MergingError(
                    f"Gram matrix {tuple(gram.shape)} for {name} {tuple(vector.shape)}; expected "
                    "[in, in] for a weight [out, in]"
                )
            if reduce == 1 and gram.is_floating_point():
                noise[name] = max(noise.get(name, 0.0), len(gram) * torch.finfo(gram.dtype).eps)
            gram = gram.to(experts.device, torch.float64)
            gram = reduce * gram + torch.diag((1 - reduce) * gram.diagonal())
            part = vector.double() @ gram
            if name in sums:
                sums[name][0].add_(gram)
                sums[name][1].add_(part)
            else:
                sums[name] = gram, part
    solutions = {}
    for name in list(sums):
        solutions[name] = solve(*sums.pop(name), max(1e-10, noise.get(name, 0.0))).float()
    return solutions


def solve(gram: Tensor, right: Tensor, tolerance: float = 1e-10) -> Tensor:
    """``right @ pinv(gram)`` for a positive semi-definite float64 ``gram [n, n]`` and ``right [m, n]``.

    By Cholesky where the smallest eigenvalue is surely above ``tolerance`` of the largest; otherwise by eigenvectors,
    without those below.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        probe = torch.ones(len(gram), 1, dtype=gram.dtype, device=gram.device)
        probe[1::2] = -0.5
        for _ in range(4):
            probe = torch.cholesky_solve(probe / probe.norm(), factor)
        if float(probe.norm()) * float(gram.trace()) < 0.1 / tolerance:
            return torch.cholesky_solve(right.T, factor).T
    values, vectors = torch.linalg.eigh(gram)
    nonzero = values > tolerance * values[-1].clamp(min=torch.finfo(gram.dtype).tiny)
    return ((right @ vectors[:, nonzero]) / values[nonzero]) @ vectors[:, nonzero].T
