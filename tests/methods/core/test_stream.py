"""What a stream deals: every sample in turn, by its seed alone, and nothing beyond its access or its time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.api import Access, MergingError, Stream, TimeLimit


class Numbers:
    """A source whose inputs are the indices."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return index.float(), index


def numbers(level: str = "unlabelled", **keywords: object) -> Stream:
    sources = {"test": {"a": Numbers(10), "b": Numbers(7)}, "train": {"a": Numbers(3), "b": Numbers(3)}}
    return Stream(sources, Access(test=level), **keywords)


def test_a_stream_deals_every_sample_once_before_it_starts_over() -> None:
    stream = numbers()
    first = torch.cat([stream.draw("a", 4).index for _ in range(5)])
    assert sorted(first[:10].tolist()) == list(range(10)) == sorted(first[10:].tolist())
    assert first[:10].tolist() != first[10:].tolist()


def test_draws_depend_on_seed_and_task_and_nothing_else() -> None:
    one, two, other = numbers(seed=3), numbers(seed=3), numbers(seed=4)
    two.draw("b", 5)
    assert torch.equal(one.draw("a", 6).index, two.draw("a", 6).index)
    assert not torch.equal(numbers(seed=3).draw("a", 6).index, other.draw("a", 6).index)


def test_upcoming_foretells_the_draws_without_drawing() -> None:
    for replace in (False, True):
        stream = numbers()
        told = stream.upcoming("a", 3, 2, replace)
        drawn = torch.cat([stream.draw("a", 2, replace).index for _ in range(3)])
        assert told.tolist() == sorted(set(drawn.tolist()))


def test_labels_of_an_unlabelled_split_and_other_splits_are_out_of_reach() -> None:
    assert numbers().draw("a", 2).labels is None
    assert numbers("labelled").draw("a", 2).labels is not None
    with pytest.raises(MergingError, match="its access is unlabelled test"):
        numbers().draw("a", 2, split="train")
    with pytest.raises(MergingError, match="unknown task 'c'"):
        numbers().draw("c", 2)


def test_a_stream_stops_at_the_deadline() -> None:
    with pytest.raises(TimeLimit, match="--time-limit"):
        next(numbers(deadline=0.0).rounds(3))


def test_replayed_batches_come_in_their_order_whatever_is_asked() -> None:
    batches = {"a": torch.arange(12.0).view(3, 4), "b": torch.arange(6.0).view(3, 2)}
    stream = Stream.from_batches(batches, labels={t: b.long() for t, b in batches.items()})
    for k in [0, 1, 2, 0]:
        batch = stream.draw("a", 99)
        assert torch.equal(batch.inputs, batches["a"][k]) and torch.equal(batch.labels, batches["a"][k].long())
        assert batch.index.tolist() == list(range(4 * k, 4 * k + 4))
    assert [r for r in stream.rounds(2)] == [["a", "b"]] * 2
