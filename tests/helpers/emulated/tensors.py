"""Tensors of an emulated device, and what CUDA refuses to do with them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CPU = torch.device("cpu")
#: Operations that take tensors of several devices.
CROSSING = {aten.copy_, aten._to_copy, aten._foreach_copy_, aten.index, aten.index_put, aten.index_put_,
            aten._index_put_impl_, aten._unsafe_index, aten.is_same_size}  # fmt: skip
#: Products that CUDA's kernels have for floating numbers alone.
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot, aten.vdot}
#: Operations whose results change from run to run on CUDA (torch.use_deterministic_algorithms names them).
UNSTEADY = {
    aten._adaptive_avg_pool2d_backward, aten.adaptive_max_pool2d_backward, aten.avg_pool3d_backward,
    aten.upsample_bilinear2d_backward, aten.upsample_bicubic2d_backward, aten._upsample_bicubic2d_aa_backward,
    aten._upsample_bilinear2d_aa_backward, aten.upsample_linear1d_backward, aten.upsample_trilinear3d_backward,
    aten.reflection_pad2d_backward, aten.replication_pad2d_backward, aten.nll_loss2d_forward,
    aten.nll_loss2d_backward, aten.grid_sampler_2d_backward, aten.histc, aten.put_, aten._embedding_bag_dense_backward,
}  # fmt: skip
#: Operations whose result's size hangs on numbers: the device must be waited for.
SIZED = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_consecutive, aten.unique_dim, aten.bincount}

#: Called when the host waits for the device, with what it does; and with a device, bytes, and whether they are new.
Note = Callable[[str], None]


class EmulatedTensor(Tensor):
    """A tensor on ``cuda:N`` whose numbers are in ``inner``, an ordinary tensor on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device, dispatch: Dispatch) -> EmulatedTensor:
        # A view of an ordinary tensor is one also in inference mode.
        with torch.inference_mode(inner.is_inference()):
            made: EmulatedTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=device,
            )
        return made

    def __init__(self, inner: Tensor, device: torch.device, dispatch: Dispatch) -> None:
        self.inner, self._dispatch = inner, dispatch
        self._block = dispatch.machine.hold(device, inner)

    def __del__(self) -> None:
        if hasattr(self, "_block"):
            self._dispatch.machine.drop(self._block)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        each = next(t for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, EmulatedTensor))
        return each._dispatch.run(func, args, kwargs or {})

    def __repr__(self, **keywords: Any) -> str:
        return f"{self.inner!r} on {self.device}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone()
            if isinstance(self, nn.Parameter):
                copied = nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]  # type: ignore[no-any-return]

    def record_stream(self, stream: Any) -> None:
        self._dispatch.machine.record_stream(self._block, stream)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.numpy()


class Dispatch(TorchDispatchMode):
    """While this is on, whatever is made on a CUDA device is an :class:`EmulatedTensor`."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self.machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _asked(kwargs) is not None or any(isinstance(t, EmulatedTensor) for t in _tensors(args, kwargs)):
            return self.run(func, args, kwargs)
        packet = getattr(func, "overloadpacket", None)
        if packet in (aten.pin_memory, aten._pin_memory):
            return self.machine.pin(args[0].clone())
        if packet is aten.is_pinned:
            return self.machine.is_pinned(args[0])
        if kwargs.get("pin_memory"):
            return self.machine.pin(func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation with a tensor of the device in it or coming out of it."""
        packet = func.overloadpacket
        if func._schema.name == "aten::_fused_sdp_choice":
            return 0
        if packet is aten.is_pinned:
            return False
        if _is_composite(func):
            # Inference leaves what consists of other operations to whoever is below autograd.
            with self:
                return func.decompose(*args, **kwargs)
        tensors = list(_tensors(args, kwargs))
        own = [t for t in tensors if isinstance(t, EmulatedTensor)]
        device = _asked(kwargs)
        if device is None:
            device = own[0].device if own else CPU
            if packet in CROSSING and isinstance(args[0], Tensor):
                device = args[0].device
            if kwargs.get("device") is not None:
                device = torch.device(kwargs["device"])
        elif device.index is None:
            device = torch.device("cuda", self.machine.current)
        self._refuse(func, args, kwargs, tensors, device)
        self._waits(func, args, kwargs, device)
        self.machine.operate(device, {t._block for t in own}, writes=func._schema.is_mutable)
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        if inner_kwargs.get("pin_memory"):
            inner_kwargs["pin_memory"] = False
        result = _computed(func, inner_args, inner_kwargs)
        # What is written to in place comes back as the same tensor.
        same = {id(t.inner): t for t in own}
        if torch.Tag.inplace_view in func.tags:
            with no_dispatch():
                func(*args, **kwargs)
        elif func._schema.is_mutable and any(t.shape != t.inner.shape for t in own):
            raise NotImplementedError(f"{func} changes the shape of a tensor in place, which is not emulated")

        def outer(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, EmulatedTensor):
                return value
            if id(value) in same:
                return same[id(value)]
            return value if device.type != "cuda" else EmulatedTensor(value, device, self)

        return tree_map(outer, result)

    def _refuse(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], device: torch.device) -> None:
        """Raise what CUDA raises."""
        packet, name = func.overloadpacket, func._schema.name.removeprefix("aten::")
        places = {t.device for t in tensors if t.ndim or t.device.type == "cuda"}
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index):
            allowed = {CPU, args[0].device}
            if any(i.device not in allowed for i in args[1] if i is not None):
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed tensor ({args[0].device})"
                )
            value = args[2] if packet not in (aten.index, aten._unsafe_index) else None
            if value is not None and value.device != args[0].device and value.ndim:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but got values on {value.device}, "
                    f"different from other tensors on {args[0].device} ({name})"
                )
        elif len(places) > 1 and packet not in CROSSING:
            about = ", ".join(f"{t.device}{list(t.shape)}" for t in tensors)
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(map(str, places)))}! ({name}: {about})"
            )
        for generator in tree_flatten((args, kwargs))[0]:
            if isinstance(generator, torch.Generator) and generator.device.type != device.type:
                raise RuntimeError(
                    f"Expected a '{device.type}' device type for generator but found '{generator.device.type}'"
                )
        if device.type == "cuda" and packet in PRODUCTS:
            if not tensors[0].dtype.is_floating_point:
                raise NotImplementedError(f'"{name}_cuda" not implemented for {str(tensors[0].dtype)!r}')
            if torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
                _unsteady("cuBLAS without CUBLAS_WORKSPACE_CONFIG")
        if device.type == "cuda" and packet in UNSTEADY and torch.are_deterministic_algorithms_enabled():
            _unsteady(name)

    def _waits(self, func: Any, args: Any, kwargs: Any, device: torch.device) -> None:
        """Note where the host waits for the device, as torch.cuda.set_sync_debug_mode does."""
        packet = func.overloadpacket
        if packet in (aten._to_copy, aten.copy_):
            other = args[0].device if packet is aten._to_copy else args[1].device
            free = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
            if other.type != device.type and not free and args[0].numel():
                self.machine.wait(f"a copy from {other} to {device}")
        elif packet is aten._local_scalar_dense or packet in SIZED or packet is aten.equal:
            self.machine.wait(func._schema.name)
        elif packet is aten.index and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.machine.wait("an index of bools")


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on the CPU, in single precision and rounded where the CPU has none in half."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is") from None
        if "not implemented for 'Half'" not in str(error) or func._schema.is_mutable:
            raise

    def changed(one: torch.dtype, other: torch.dtype) -> Callable[[Any], Any]:
        return lambda t: t.to(other) if isinstance(t, Tensor) and t.dtype == one else other if t is one else t

    wide = tree_map(changed(torch.float16, torch.float32), (args, kwargs))
    return tree_map(changed(torch.float32, torch.float16), func(*wide[0], **wide[1]))


def _unsteady(what: str) -> None:
    said = f"{what} does not have a deterministic implementation"
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(f"{said}, but you set 'torch.use_deterministic_algorithms(True)'")
    warnings.warn(f"{said}, but you set 'torch.use_deterministic_algorithms(True, warn_only=True)'", stacklevel=2)


def _tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    return (t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor))


def _asked(kwargs: dict[str, Any]) -> torch.device | None:
    """The CUDA device that a result is asked for on."""
    device = kwargs.get("device")
    device = None if device is None else torch.device(device)
    return device if device is not None and device.type == "cuda" else None


def _inner(value: Any) -> Any:
    if isinstance(value, EmulatedTensor):
        return value.inner
    return CPU if isinstance(value, torch.device) and value.type == "cuda" else value


def _is_composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))
