"""What a method takes, declared beside it: estimates of memory, disk and time read this and nothing else of it.

M is one model's merged weights in float32 and K the number of tasks; a pair ``(a, b)`` means ``a + b K``. A merge that
streams tensor after tensor declares nothing. ``Footprint(vectors=True, teacher=True)`` is one that holds all task
vectors while it adapts to the experts' predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.core.errors import MergingError

#: What may be gathered of samples before merging: a Gram matrix of each layer's inputs and the product with the
#: outputs; a covariance of the inputs; squared gradients of each weight.
STATISTICS = ("grams", "inputs", "gradients")
#: Fields that say how many, by a number or the name of the keyword that says it.
COUNTS = ("steps", "batch", "batches", "examples")
Pair = tuple[float, float]


@dataclass(frozen=True)
class Footprint:
    """What one run of a method reads, computes, holds and keeps, without a method it stands on, which is added.

    Work:
        local: each tensor of the merge follows from that tensor of the base and the experts alone, so that a model of
            any size can be merged a few tensors at a time; a threshold over the whole model is not local.
        passes: how often every expert is read; a first pass for lengths or thresholds is in the default.
        steps, batch, batches, examples: the keyword, or the number itself, of updates on data, of samples of a task in
            one batch, of batches of a task in one update, and of samples of a task drawn beside that. A method has the
            default keywords or none.
        statistics: one of ``STATISTICS``, of ``examples`` samples of each task.
        teacher: the experts' predictions on the samples are computed once and cached.
        frozen: its updates train parts on top of the encoder, whose features are cached as well: no pass goes
            backward through the encoder.
        merges: with ``vectors``, how often one update makes the merge and its gradient.
        decompositions: of every matrix, or as much work: an SVD of one matrix [a, b] is 10 a b min(a, b) operations.
        products: of every matrix [a, b] with one [b, b], once; ``step_products``: the same in every step.

    Held on the device:
        tensor: copies of one tensor at once while it merges tensor by tensor, beside the result.
        holds: whole models at once while merging, in M; 0 where it streams.
        adapting: models while it adapts, in M: weights and gradients, without the vectors, spectra and activations.
        vectors: the base and all task vectors while it adapts; ``--vectors`` says in which type.
        spectra: the base and the triplets U, S, V of all task vectors instead, in float32.
        workspace: further GiB while it adapts, whatever the model's size.
        factors: low-rank factors of all tasks, together of full rank, beside what is merged.
        serves: models while the model of one task runs, in M.

    Kept on disk:
        keeps: models, in M; 0 where the base or the experts serve as they are.
        masks: a bit for each weight and task.

    Raises:
        MergingError: a value of another kind.
    """

    local: bool = False
    passes: int = 2
    steps: str | int = "steps"
    batch: str | int = "batch_size"
    batches: str | int = "batches_per_task"
    examples: str | int = "examples"
    statistics: str | None = None
    teacher: bool = False
    frozen: bool = False
    merges: Pair = (1, 0)
    decompositions: Pair = (0, 0)
    products: Pair = (0, 0)
    step_products: Pair = (0, 0)
    tensor: Pair = (3, 1)
    holds: Pair = (0, 0)
    adapting: Pair = (2, 0)
    vectors: bool = False
    spectra: bool = False
    workspace: float = 0.0
    factors: bool = False
    serves: Pair = (1, 0)
    keeps: Pair = (1, 0)
    masks: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if wrong := _wrong(field.name, value, field.default):
                raise MergingError(f"{field.name} of the footprint is {value!r}; expected {wrong}")

    def missing(self, parameters: Mapping[str, Any]) -> list[str]:
        """Keywords that it names and a method with these does not have; the default ones may be absent."""
        default = Footprint()
        named = [getattr(self, each) for each in COUNTS if getattr(self, each) != getattr(default, each)]
        return [name for name in named if isinstance(name, str) and name not in parameters]

    def count(self, what: str, parameters: Mapping[str, Any]) -> int | None:
        """One of ``COUNTS`` with these keywords; None where the method has no such keyword."""
        said = getattr(self, what)
        if isinstance(said, int):
            return said
        return int(parameters[said] or 0) if said in parameters else None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _wrong(name: str, value: Any, default: Any) -> str | None:
    """What was expected of a field of this default, or None."""
    if name == "statistics":
        return None if value is None or value in STATISTICS else f"one of {', '.join(STATISTICS)}, or None"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if name in COUNTS and isinstance(value, str):
        return None
    if isinstance(default, tuple):
        fine = isinstance(value, tuple) and len(value) == 2 and all(map(_number, value))
        return None if fine else "a pair of numbers (a, b), which means a + b K"
    whole = name in COUNTS or isinstance(default, int)
    if _number(value) and (isinstance(value, int) or not whole):
        return None
    return ("a keyword's name or " if name in COUNTS else "") + ("a whole number" if whole else "a number")
