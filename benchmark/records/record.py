"""The record of one run, field by field, with the statistics from which its scores can be computed again."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmark.records.spec import RunSpec

RECORD_VERSION = 3

#: Where a number comes from, in falling order of trust.
SOURCES = ("measured here", "submitted, verified by re-run", "submitted", "reported in paper")
Source = Literal["measured here", "submitted, verified by re-run", "submitted", "reported in paper"]


def distrust(source: str) -> int:
    """Sorts sources, the most trusted first."""
    return SOURCES.index(source)


Status = Literal["planned", "running", "done", "failed", "incomplete"]

Finite = Annotated[float, Field(allow_inf_nan=False)]

_ARRAY_TYPES = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")

#: Bytes that a task's statistics may take as numbers in float64, which is how scores are computed from them.
LARGEST_STATISTICS = 1 << 28


def pack_bits(bits: Any) -> str:
    """Booleans `[n]` as base64 of eight to the byte, first one in the highest bit, the last byte filled with zeros."""
    return base64.b64encode(np.packbits(np.asarray(bits, dtype=bool)).tobytes()).decode("ascii")


def unpack_bits(text: str, n: int) -> np.ndarray:
    """The `n` booleans of `pack_bits`. Raises ValueError where the text does not hold exactly n bits."""
    data = _decode(text)
    if len(data) != (n + 7) // 8:
        raise ValueError(f"{len(data)} bytes of packed bits do not hold {n} bits")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if bits[n:].any():
        raise ValueError(f"bits after the {n}-th are set")
    return bits[:n].astype(bool)


def _check_size(shapes: Iterable[Sequence[int]]) -> None:
    """Raise ValueError where arrays of these shapes are more than is ever unpacked."""
    size = 8 * sum(math.prod(shape) for shape in shapes)
    if size > LARGEST_STATISTICS:
        raise ValueError(f"declares arrays of {size:,} bytes as numbers; at most {LARGEST_STATISTICS:,} are read")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Array(_Model):
    """A numeric array as text: base64 of zlib of its little-endian bytes in C order."""

    dtype: str = Field(description=f"one of {', '.join(_ARRAY_TYPES)}")
    shape: list[Annotated[int, Field(ge=0)]] = Field(description="its dimensions")
    data: str = Field(description="base64 of the zlib-compressed little-endian bytes in C order")

    @field_validator("dtype")
    @classmethod
    def _is_array_type(cls, value: str) -> str:
        if value not in _ARRAY_TYPES:
            raise ValueError(f"dtype {value!r}, allowed are {', '.join(_ARRAY_TYPES)}")
        return value

    @classmethod
    def of(cls, values: Any) -> Array:
        """From anything numpy makes an array of."""
        array = np.asarray(values)
        packed = zlib.compress(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes(), 6)
        return cls(dtype=array.dtype.name, shape=list(array.shape), data=base64.b64encode(packed).decode("ascii"))

    def numpy(self) -> np.ndarray:
        """The array. Raises ValueError where the data do not fit dtype and shape (and never unpacks more than that)."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        _check_size([self.shape])
        size = math.prod(self.shape) * dtype.itemsize
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(_decode(self.data), size + 1)
        except zlib.error as error:
            raise ValueError(f"not zlib: {error}") from None
        if len(data) != size or not unpacker.eof:
            raise ValueError(f"data do not hold {self.dtype} of shape {self.shape}")
        return np.frombuffer(data, dtype=dtype).reshape(self.shape)


class CorrectBits(_Model):
    """Classification: which samples were right, in the order of the split."""

    type: Literal["correct"] = "correct"
    n: int = Field(ge=0, description="number of samples")
    bits: str = Field(description="base64 of the packed bits, see pack_bits")

    @classmethod
    def of(cls, correct: Any) -> CorrectBits:
        """From booleans `[n]`."""
        correct = np.asarray(correct, dtype=bool).reshape(-1)
        return cls(n=len(correct), bits=pack_bits(correct))

    def numpy(self) -> np.ndarray:
        """Booleans `[n]`. Raises ValueError where the bits do not fit n."""
        return unpack_bits(self.bits, self.n)

    def count(self) -> int:
        """How many were right. Raises ValueError likewise."""
        return int(np.count_nonzero(self.numpy()))


class Values(_Model):
    """Arrays with one row per sample, e.g. predictions and targets, or confusion counts per image."""

    type: Literal["values"] = "values"
    arrays: dict[str, Array] = Field(description="each array by name, samples along its first dimension")

    @model_validator(mode="after")
    def _can_be_unpacked(self) -> Values:
        _check_size(array.shape for array in self.arrays.values())
        return self


class Sums(_Model):
    """Totals over the split, where rows per sample would be too large."""

    type: Literal["sums"] = "sums"
    sums: dict[str, Finite | list[Finite]] = Field(description="each total by name")


Statistics = Annotated[CorrectBits | Values | Sums, Field(discriminator="type")]


class TaskResult(_Model):
    """What one run scored on one task."""

    metric: str = Field(description="name of the metric, e.g. accuracy")
    value: Finite = Field(description="the score, in percent for accuracies")
    higher_is_better: bool = Field(default=True, description="direction of the metric")
    n: int = Field(ge=0, description="number of test samples")
    kind: str = Field(default="classification", description="kind of task, as Experts.kind gives it")
    others: dict[str, Finite] = Field(default_factory=dict, description="further metrics by name, not in the mean")
    statistics: Statistics = Field(description="sufficient statistics that give the value again")


class BystanderResult(TaskResult):
    """What one run scored on one of its suite's bystanders."""

    kind: str = Field(default="bystander", description="it is no task")
    data: str = Field(description="sha256 of the data it was measured on")
    models: int = Field(default=1, ge=1, description="models of the merge, each measured on all of the data")


class Error(_Model):
    """Why a run has no scores."""

    type: str = Field(description="name of the exception, or timeout, out of memory, interrupted")
    message: str = Field(description="its message")
    where: str = Field(default="", description="innermost line of the method's own file, where it raised")
    traceback: str = Field(default="", description="end of the traceback, with paths relative to the project")

    def line(self, longest: int | None = None) -> str:
        """`TYPE: MESSAGE (WHERE)` in one line; a message that makes it longer than `longest` is cut, not where."""
        where = f" ({self.where})" if self.where else ""
        text = " ".join(f"{self.type}: {self.message}".split())
        if longest is not None and len(text) + len(where) > longest:
            text = text[: max(0, longest - len(where) - 1)] + "…"
        return text + where


class Cost(_Model):
    """What the run took, measured where it ran. None where it was not measured."""

    merge_seconds: float | None = Field(default=None, description="wall seconds of the method without adaptation")
    adapt_seconds: float | None = Field(default=None, description="wall seconds of its steps on data; 0 without any")
    evaluate_seconds: float | None = Field(default=None, description="wall seconds of evaluation, all tasks")
    peak_anonymous_mb: float | None = Field(default=None, description="peak anonymous memory beyond the start, MiB")
    peak_cuda_mb: float | None = Field(default=None, description="peak memory allocated on the CUDA device, MiB")
    trainable_parameters: int | None = Field(default=None, description="parameters that the method trains")
    model_bytes: int | None = Field(default=None, description="bytes of one model (the base), heads left out")
    storage_bytes: int | None = Field(default=None, description="bytes that must be kept beyond one model")
    images_drawn: int | None = Field(default=None, description="samples drawn from streams, repeats counted")


class Provenance(_Model):
    """Where the numbers come from. None of it is identity."""

    commit: str | None = Field(default=None, description="git commit of the project")
    dirty: bool | None = Field(default=None, description="whether tracked files differed from that commit")
    versions: dict[str, str] = Field(default_factory=dict, description="versions of Python and the packages that count")
    platform: str = Field(default="", description="operating system and architecture")
    device: str = Field(default="cpu", description="device of the run, as torch names it")
    processor: str = Field(default="", description="name of the CPU")
    gpu: str | None = Field(default=None, description="name of the GPU, if one was used")
    threads: int | None = Field(default=None, description="threads of torch")
    batch_size: int | None = Field(default=None, description="batch size of the evaluation")
    argv: list[str] = Field(default_factory=list, description="the command, paths relative")
    notes: list[str] = Field(default_factory=list, description="what boards must say of the checkpoints")
    source: Source = Field(default="measured here", description="measured here, or how a submitted record was checked")


class MethodInfo(_Model):
    """What the board says of the method beside its name."""

    title: str = Field(default="", description="title of the method")
    paper: str = Field(default="", description="its reference, e.g. arXiv:2412.19098")


class Record(_Model):
    """One run and its per-task results; `record.json` in the run's folder."""

    version: Literal[3] = Field(default=3, description="version of this schema")
    run_id: str = Field(description="hash of spec, see RunSpec.run_id")
    spec: RunSpec = Field(description="what was run")
    variant: str = Field(description="label on the board: the method and the parameters that are not defaults")
    changed: dict[str, Any] = Field(default_factory=dict, description="parameters that are not the suite's defaults")
    status: Status = Field(default="planned", description="planned, running, done, failed, or incomplete (stopped)")
    error: Error | None = Field(default=None, description="why it failed, where it did")
    started: str | None = Field(default=None, description="start of the run, ISO 8601 in UTC")
    finished: str | None = Field(default=None, description="end of the run, ISO 8601 in UTC")
    method: MethodInfo = Field(default_factory=MethodInfo, description="title and paper of the method")
    access: list[str] = Field(default_factory=list, description='data the method saw, e.g. ["unlabelled test"]')
    needs_task_id: bool = Field(default=False, description="whether inference must be told the task beyond its head")
    cost: Cost = Field(default_factory=Cost, description="what it took")
    provenance: Provenance = Field(default_factory=Provenance, description="where the numbers come from")
    trace_summary: dict[str, Any] = Field(default_factory=dict, description="coefficients and curves, shortened")
    artifacts: dict[str, str] = Field(default_factory=dict, description="sha256 of each file kept beside the record")
    suite_tasks: list[str] = Field(description="all tasks of the suite, in its order")
    tasks: dict[str, TaskResult] = Field(default_factory=dict, description="results so far, by task")
    bystanders: dict[str, BystanderResult] = Field(
        default_factory=dict, description="what the suite measures beside its tasks, by name; in no mean and no rank"
    )
    sha256: str | None = Field(
        default=None, description="in the file only: hash of all other fields as JSON with sorted keys and no spaces"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.run_id != self.spec.run_id:
            raise ValueError(f"run_id {self.run_id} is not the hash of its spec, {self.spec.run_id}")
        if extra := [task for task in self.tasks if task not in self.suite_tasks]:
            raise ValueError(f"results of tasks that are not in the suite: {', '.join(extra)}")
        return self

    @property
    def trial(self) -> str:
        """What boards say of a trial on some of the samples, which is no result; empty for a run on all of them."""
        limit = self.spec.limit
        return "" if limit is None else f"a trial on at most {limit:,} samples a task (--limit {limit}): no result"

    @property
    def missing(self) -> list[str]:
        """Tasks of the suite without a result, in the suite's order."""
        return [task for task in self.suite_tasks if task not in self.tasks]


def commits_text(commits: Iterable[str]) -> str:
    """Eight digits of each commit, for a title; of more than three, how many more."""
    short = sorted({commit[:8] for commit in commits if commit})
    return ", ".join(short[:3]) + (f" and {len(short) - 3} more" if len(short) > 3 else "")
