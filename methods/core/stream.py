"""Data at the declared access. The stream alone owns order and shuffling."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.core.access import LABELLED, UNLABELLED, Access
from methods.core.errors import MergingError, nearest


class TimeLimit(MergingError):
    """The run's time limit passed while the method was still working."""


class Source(Protocol):
    """One split of one task: ``source[index]`` with ``index`` int64 ``[n]`` gives ``(inputs, labels or None)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> tuple[Any, Tensor | None]: ...


@dataclass(frozen=True)
class Batch:
    """``inputs`` as the encoder takes them, ``index`` int64 ``[n]`` in the split, ``labels`` ``[n]`` or ``None``."""

    inputs: Any
    index: Tensor
    labels: Tensor | None


class _Order:
    """An endless seeded shuffle of ``range(size)``; a task's order depends on nothing but its own seed and draws."""

    def __init__(self, size: int, seed: int, shuffle: bool) -> None:
        self.size, self.shuffle = size, shuffle
        self.generator = torch.Generator().manual_seed(seed)
        self.pending = torch.empty(0, dtype=torch.int64)

    def _fresh(self) -> Tensor:
        return torch.randperm(self.size, generator=self.generator) if self.shuffle else torch.arange(self.size)

    def draw(self, n: int, replace: bool) -> Tensor:
        """The next ``n`` indices; with ``replace`` the first ``n`` of a fresh shuffle."""
        if n < 1:
            raise MergingError(f"batches of {n} samples were asked for; expected at least 1, such as batch_size=32")
        if replace:
            return self._fresh()[:n]
        while len(self.pending) < n:
            self.pending = torch.cat([self.pending, self._fresh()])
        first, self.pending = self.pending[:n], self.pending[n:]
        return first

    def copy(self) -> _Order:
        """The same order from here on, drawn from independently."""
        order = _Order.__new__(_Order)
        order.size, order.shuffle, order.pending = self.size, self.shuffle, self.pending
        order.generator = torch.Generator()
        order.generator.set_state(self.generator.get_state())
        return order


class Stream:
    """Batches of the splits a method has access to.

    Args:
        sources: ``{split: {task: Source}}``; splits beyond the access are never touched.
        access: what may be read. Labels of an unlabelled split are never passed on.
        seed: derives every order; the same seed gives the same draws to every method.
        shuffle: ``False`` replays the sources in their own order, and tasks in dictionary order.
        device: where batches are placed.
        deadline: ``time.monotonic()`` value after which :class:`TimeLimit` is raised.
        progress: wraps an iterator of rounds, ``progress(iterator, total, text)``.
    """

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, Source]],
        access: Access,
        *,
        seed: int = 0,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
        deadline: float | None = None,
        progress: Callable[[Iterator[Any], int, str], Iterator[Any]] | None = None,
    ) -> None:
        self.access, self.seed, self.shuffle = access, seed, shuffle
        self.device, self.deadline, self.progress = torch.device(device), deadline, progress
        granted = [split for split, _ in access.items()]
        if not granted:
            raise MergingError("a stream needs access to at least one split; this method declares none")
        lacking = [s for s in granted if s not in sources]
        if lacking:
            raise MergingError(
                f"the method needs the split {lacking[0]!r}; this suite offers: {', '.join(sources) or 'none'}"
            )
        for split in granted:
            for task, source in sources[split].items():
                if not len(source):
                    raise MergingError(f"the {split} split of {task!r} has no sample; expected at least one")
        self._sources = {split: dict(sources[split]) for split in granted}
        self.tasks: tuple[str, ...] = tuple(self._sources[granted[0]])
        self._orders = {
            (split, task): _Order(len(source), derive(seed, split, task), shuffle)
            for split, by_task in self._sources.items()
            for task, source in by_task.items()
        }
        self._rounds = torch.Generator().manual_seed(derive(seed, "rounds"))
        self.drawn = 0

    @classmethod
    def from_batches(
        cls,
        batches: Mapping[str, Any],
        *,
        labels: Mapping[str, Any] | None = None,
        split: str | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> Stream:
        """Replay given batches ``{task: Tensor[n, B, ...]}``: each draw takes the task's next one, whatever is asked.

        Tasks come in dictionary order (``shuffle=True`` shuffles tasks and batches). ``labels``: ``{task: Tensor[n,
        B]}``
        makes the access labelled. ``split``: the split it stands for; by default any that is asked for.
        """
        level = UNLABELLED if labels is None else LABELLED
        splits = (split,) if split else ("train", "val", "test")
        sources = {
            task: _Batches(tensors, None if labels is None else labels[task]) for task, tensors in batches.items()
        }
        return _Replay(
            {s: sources for s in splits},
            Access(**{s: level for s in splits}),
            seed=seed,
            shuffle=shuffle,
            device=device,
        )

    def _split(self, split: str | None) -> str:
        granted = [s for s, _ in self.access.items()]
        if split is None:
            return granted[-1]
        if split not in granted:
            raise MergingError(
                f"the method asked for the split {split!r}, its access is {self.access.describe()}; "
                "declare it: @method(access=Access(...))"
            )
        return split

    def _source(self, split: str, task: str) -> Source:
        if task not in self._sources[split]:
            raise nearest("task", task, list(self._sources[split]))
        return self._sources[split][task]

    def size(self, task: str, split: str | None = None) -> int:
        """Number of samples of ``task`` in the split."""
        return len(self._source(self._split(split), task))

    def draw(self, task: str, n: int, replace: bool = False, split: str | None = None) -> Batch:
        """The next ``n`` samples of the task's seeded shuffle, starting over at its end.

        ``replace=True`` takes the first ``n`` of a fresh shuffle instead. ``split`` defaults to the only split of the
        access (the last of train, val, test where there are several).
        """
        self.check_time()
        split = self._split(split)
        self._source(split, task)
        return self._fetch(split, task, self._orders[split, task].draw(n, replace))

    def upcoming(self, task: str, draws: int, n: int, replace: bool = False, split: str | None = None) -> Tensor:
        """The distinct indices, sorted, that the next ``draws`` draws of ``n`` would give; nothing is drawn."""
        order = self._orders[self._split(split), task].copy()
        if not replace and not order.shuffle and draws * n >= order.size:
            return torch.arange(order.size)
        return torch.cat([order.draw(n, replace) for _ in range(draws)]).unique()

    def fetch(self, task: str, index: Tensor, split: str | None = None) -> Batch:
        """The samples at ``index`` int64 ``[n]``; does not move the stream and is not counted as drawn."""
        split = self._split(split)
        self._source(split, task)
        before = self.drawn
        batch = self._fetch(split, task, index)
        self.drawn = before
        return batch

    def _fetch(self, split: str, task: str, index: Tensor) -> Batch:
        inputs, labels = self._sources[split][task][index]
        allowed = getattr(self.access, split) == LABELLED
        self.drawn += len(index)
        return Batch(
            place(inputs, self.device), index, labels.to(self.device) if allowed and labels is not None else None
        )

    def rounds(self, steps: int, text: str = "adapting") -> Iterator[list[str]]:
        """``steps`` times the list of tasks in this round's order, with progress and the run's time limit."""

        def each() -> Iterator[list[str]]:
            for _ in range(steps):
                self.check_time()
                if self.shuffle:
                    yield [self.tasks[i] for i in torch.randperm(len(self.tasks), generator=self._rounds).tolist()]
                else:
                    yield list(self.tasks)

        return iter(self.progress(each(), steps, text)) if self.progress else each()

    def check_time(self) -> None:
        """Raises :class:`TimeLimit` once the deadline has passed; for methods with loops of their own."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeLimit("the run's time limit passed; raise it with --time-limit SECONDS or ask for fewer steps")


class _Batches:
    """Given batches as a source whose samples are numbered through."""

    def __init__(self, batches: Any, labels: Any | None) -> None:
        self.batches = list(batches)
        self.labels = None if labels is None else list(labels)
        sizes = [_length(batch) for batch in self.batches]
        self.start = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()])

    def __len__(self) -> int:
        return int(self.start[-1])

    def span(self, number: int) -> Tensor:
        return torch.arange(int(self.start[number]), int(self.start[number + 1]))

    def __getitem__(self, index: Tensor) -> tuple[Any, Tensor | None]:
        number = int(torch.searchsorted(self.start, index[:1], right=True)) - 1
        if torch.equal(index, self.span(number)):
            return self.batches[number], None if self.labels is None else self.labels[number]
        return _joined(self.batches, index), None if self.labels is None else torch.cat(self.labels)[index]


class _Replay(Stream):
    """A stream that gives its own batches, one a draw."""

    def draw(self, task: str, n: int, replace: bool = False, split: str | None = None) -> Batch:
        self.check_time()
        split = self._split(split)
        source = self._source(split, task)
        assert isinstance(source, _Batches)
        number = int(self._batch_order(split, task).draw(1, replace=False))
        return self._fetch(split, task, source.span(number))

    def _batch_order(self, split: str, task: str) -> _Order:
        if not hasattr(self, "_numbers"):
            self._numbers: dict[tuple[str, str], _Order] = {}
        if (split, task) not in self._numbers:
            source = self._sources[split][task]
            assert isinstance(source, _Batches)
            self._numbers[split, task] = _Order(len(source.batches), derive(self.seed, split, task), self.shuffle)
        return self._numbers[split, task]

    def upcoming(self, task: str, draws: int, n: int, replace: bool = False, split: str | None = None) -> Tensor:
        split = self._split(split)
        source = self._source(split, task)
        assert isinstance(source, _Batches)
        order = self._batch_order(split, task).copy()
        numbers = torch.cat([order.draw(1, replace=False) for _ in range(draws)]).unique()
        return torch.cat([source.span(int(i)) for i in numbers])


def place(inputs: Any, device: torch.device) -> Any:
    """Tensors of a batch (alone, or in a dictionary or list) on the device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    if isinstance(inputs, Mapping):
        return {k: place(v, device) for k, v in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(place(v, device) for v in inputs)
    return inputs


def pick(inputs: Any, rows: Tensor | slice) -> Any:
    """Some samples of a batch's inputs: a tensor, or tensors in a dictionary or list."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    if isinstance(inputs, Mapping):
        return {name: pick(value, rows) for name, value in inputs.items()}
    return type(inputs)(pick(value, rows) for value in inputs)


def _joined(batches: list[Any], index: Tensor) -> Any:
    """The samples at ``index`` of all batches together; in a dictionary or list where the batches are."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches)[index]
    if isinstance(first, Mapping):
        return {name: _joined([batch[name] for batch in batches], index) for name in first}
    return type(first)(_joined(list(parts), index) for parts in zip(*batches, strict=True))


def _length(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return len(batch)
    return _length(next(iter(batch.values() if isinstance(batch, Mapping) else batch)))


def derive(seed: int, *parts: str) -> int:
    """A 63-bit seed from ``seed`` and names."""
    text = "\x1f".join([str(seed), *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
