"""Streams of an emulated device: what each has seen of the others, so that memory used out of order is found.

Nothing runs beside anything here. A stream counts its operations and knows how far each other one was when it waited
for it; what a stream wrote last must be known to the one that uses it next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


class Event:
    """A place in a stream."""

    def __init__(self, *ignored: Any, **also: Any) -> None:
        self.known: dict[Stream, int] = {}

    def record(self, stream: Stream) -> None:
        self.known = {**stream.known, stream: stream.done}

    def wait(self, stream: Stream) -> None:
        stream.wait_event(self)


class Stream:
    """Operations in order.

    Attributes:
        done: how many there were.
        known: of other streams, how many of theirs come before the next one.
    """

    def __init__(self, device: int) -> None:
        self.device_index, self.done = device, 0
        self.known: dict[Stream, int] = {}

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.device_index)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        for stream, done in event.known.items():
            self.known[stream] = max(done, self.known.get(stream, 0))

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())


@dataclass
class Use:
    """Which streams a piece of memory belongs to, was written by and is used on."""

    made: Stream
    written: tuple[Stream, int]
    streams: set[Stream] = field(default_factory=set)
    recorded: set[Stream] = field(default_factory=set)

    def by(self, stream: Stream, *, writes: bool) -> None:
        """An operation of this stream uses it. Raises RuntimeError where it may not have been written yet."""
        writer, number = self.written
        if writer is not stream and stream.known.get(writer, 0) < number:
            raise RuntimeError("a stream uses what another one writes, and has not waited for it")
        self.streams.add(stream)
        if writes:
            self.written = stream, stream.done

    @property
    def loose(self) -> bool:
        """Whether a stream that its memory does not know of may still use it."""
        return bool(self.streams - self.recorded - {self.made})


class Streams:
    """The streams of all devices."""

    def __init__(self, count: int) -> None:
        self.default = [Stream(index) for index in range(count)]
        self.current = list(self.default)

    @contextlib.contextmanager
    def within(self, stream: Stream | None) -> Iterator[None]:
        """As ``torch.cuda.stream``."""
        if stream is None:
            yield
            return
        index = stream.device_index
        before, self.current[index] = self.current[index], stream
        try:
            yield
        finally:
            self.current[index] = before
