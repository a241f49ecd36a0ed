"""The machine with emulated devices: what ``torch.cuda`` answers, its memory, and how often the host waited for it."""

from __future__ import annotations

import contextlib
import importlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from helpers.emulated.backward import run_backward, set_materialize_grads
from helpers.emulated.streams import Event, Stream, Streams, Use
from helpers.emulated.tensors import Dispatch, EmulatedTensor

Block = tuple[int, int]


class Machine:
    """Emulated devices.

    Attributes:
        count: how many there are.
        memory: bytes of each.
        waits: how often the host waited for a device, by what it did.
        contexts: devices that this process has asked for something, and so has a context on.
        loose: how often memory was given back while a stream that it does not know of may still have used it.
    """

    def __init__(self, count: int = 1, memory: int = 16 << 30) -> None:
        self.count, self.memory, self.current = count, memory, 0
        self.waits: Counter[str] = Counter()
        self.contexts: set[int] = set()
        self.held, self.peak = [0] * count, [0] * count
        self._blocks: dict[Block, tuple[int, int]] = {}
        self._pinned: weakref.WeakSet[Any] = weakref.WeakSet()
        self.streams, self.loose = Streams(count), 0
        self._uses: dict[Block, Use] = {}

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self.waits[what] += 1

    def hold(self, device: torch.device, inner: Tensor) -> Block:
        """A tensor takes its storage's bytes of the device, once for all views. Raises ``OutOfMemoryError``."""
        index = self.index(device)
        storage = inner.untyped_storage()
        block = (index, storage.data_ptr())
        users, size = self._blocks.get(block, (0, storage.nbytes()))
        if not users:
            if self.held[index] + size > self.memory:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes. GPU {index} ...")
            self.held[index] += size
            self.peak[index] = max(self.peak[index], self.held[index])
            stream = self.streams.current[index]
            self._uses[block] = Use(stream, (stream, stream.done))
        self._blocks[block] = users + 1, size
        return block

    def drop(self, block: Block) -> None:
        users, size = self._blocks.pop(block)
        if users > 1:
            self._blocks[block] = users - 1, size
        else:
            self.held[block[0]] -= size
            self.loose += self._uses.pop(block).loose

    def operate(self, device: torch.device, blocks: Iterable[Block], *, writes: bool) -> None:
        """The next operation of the current stream uses these. Raises RuntimeError where they may not be there yet.

        What an earlier machine of this process held, such as constants, is there.
        """
        indices = {index for index, _ in blocks} | ({self.index(device)} if device.type == "cuda" else set())
        for index in indices:
            self.streams.current[index].done += 1
        for block in blocks:
            if block in self._uses:
                self._uses[block].by(self.streams.current[block[0]], writes=writes)

    def record_stream(self, block: Block, stream: Stream) -> None:
        self._uses[block].recorded.add(stream)

    def pin(self, tensor: Tensor) -> Tensor:
        self._pinned.add(tensor)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor is each for each in self._pinned)

    def index(self, device: Any = None) -> int:
        """The index of a device as ``torch.cuda`` takes it: none is the current one, ``"cuda"`` without one is not."""
        if device is None:
            device = self.current
        index = device if isinstance(device, int) else torch.device(device).index
        if index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
        if not 0 <= index < self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        self.contexts.add(index)
        return index

    def answers(self) -> dict[str, Callable[..., Any]]:
        """What ``torch.cuda`` answers, by the names of its functions."""

        def set_device(device: Any) -> None:
            self.current = self.index(device)

        def synchronize(device: Any = None) -> None:
            self.index(device)
            self.wait("torch.cuda.synchronize")

        def reset(device: Any = None) -> None:
            self.peak[self.index(device)] = self.held[self.index(device)]

        def properties(device: Any = None) -> SimpleNamespace:
            self.index(device)
            return SimpleNamespace(name="emulated", total_memory=self.memory, major=8, minor=0, multi_processor_count=1)

        machine = self

        class OfMachine(Stream):
            """Libraries name the class in annotations."""

            def __init__(self, device: Any = None, **more: Any) -> None:
                super().__init__(machine.index(device))

        return {
            "is_available": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": set_device,
            "synchronize": synchronize,
            "empty_cache": lambda: None,
            "memory_allocated": lambda device=None: self.held[self.index(device)],
            "max_memory_allocated": lambda device=None: self.peak[self.index(device)],
            "reset_peak_memory_stats": reset,
            "mem_get_info": lambda device=None: (self.memory - self.held[self.index(device)], self.memory),
            "get_device_name": lambda device=None: properties(device).name,
            "get_device_capability": lambda device=None: (8, 0),
            "get_device_properties": properties,
            "is_bf16_supported": lambda including_emulation=True: True,
            "is_current_stream_capturing": lambda: False,
            "_lazy_init": lambda: None,
            "Stream": OfMachine,
            "Event": Event,
            "stream": self.streams.within,
            "current_stream": lambda device=None: self.streams.current[self.index(device)],
            "default_stream": lambda device=None: self.streams.default[self.index(device)],
        }


@contextlib.contextmanager
def installed(count: int = 1, memory: int = 16 << 30) -> Iterator[Machine]:
    """Within this, in this thread, the machine has ``count`` emulated devices."""
    machine = Machine(count, memory)
    # Guards of a device that no driver knows do nothing then.
    torch._C._ensureCUDADeviceGuardSet()
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    lifting = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, answer in machine.answers().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        for module in (torch.autograd, torch.autograd.graph):
            stack.enter_context(mock.patch.object(module, "_engine_run_backward", run_backward))
        stack.enter_context(mock.patch.object(FunctionCtx, "set_materialize_grads", set_materialize_grads))
        # Optimisers take many tensors at once on CUDA.
        optimizer = importlib.import_module("torch.optim.optimizer")
        supported = [*optimizer._foreach_supported_types, EmulatedTensor]
        stack.enter_context(mock.patch.object(optimizer, "_foreach_supported_types", supported))
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifting)
        # cuDNN's own operations have no counterpart on the CPU.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        # A module moved to the device keeps its parameters' identity, as on CUDA.
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(Dispatch(machine))
        yield machine


_kept = contextlib.ExitStack()


def install(count: int = 2) -> Machine:
    """From now on, in this process, the machine has ``count`` emulated devices."""
    return _kept.enter_context(installed(count))
