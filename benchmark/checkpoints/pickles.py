"""PyTorch checkpoints, whole pickled modules included, read without running them.

While a file is unpickled no class of it exists: a module becomes an :class:`Inert` object that keeps its state, a
tensor a :class:`TensorRef` that says where its bytes lie. Only the rebuild functions of tensors are known, and these
are this file's own; every other global is refused, and said what it is (``kinds``). The three formats of ``torch.save``
and ``pickle.dump`` are read: zip (torch >= 1.6), legacy (before), and a plain pickle of a module, as the first
task-arithmetic files are.

What is read takes no more than the file's size allows: the pickle itself (``benchmark.common.untrusted``), the storages
that it names, which lie in the file, and the tensors, whose views may repeat a storage (:data:`PER_BYTE`).
"""

from __future__ import annotations

import collections
import contextlib
import io
import mmap
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.kinds import AGAIN, ALONE, TORCHSCRIPT, Unsuitable, of_bytes, of_global
from benchmark.checkpoints.modules import LONGEST_PATH, MOST_PARTS, State, described, walk
from benchmark.checkpoints.stand_ins import Function, Inert, Storage, StorageType, TensorRef, TensorType
from benchmark.common.files import NotRegular, open_regular
from benchmark.common.untrusted import Excess, Global, Refused, RestrictedUnpickler

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
#: Classes that a pickle may name.
MOST_CLASSES = 2_000
#: Bytes of tensors for each byte of the file, where they share storages or repeat values (expand); and some besides.
PER_BYTE, SLACK = 8, 64 << 20
ONLY = "tensors and the modules of PyTorch, open_clip, torchvision, RoBERTa and the merging repositories"

# Classes (and functions named as values) of these packages become inert; none of them is imported.
_INERT = re.compile(
    r"(torch\.nn|torchvision\.transforms|open_clip|clip|timm)(\..*)?$|(src(\..*)?|(models?\.)?modeling|__main__)$"
    r"|transformers\.models\.roberta\.modeling_roberta$"
)
_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    return TensorRef(storage, offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> TensorRef:
    """A tensor that has attributes (``state``, left out). Of a subclass, whose values may mean another, it is none."""
    if not (isinstance(kind, TensorType) or getattr(kind, "of", None) == "torch.nn.parameter.Parameter"):
        named = getattr(kind, "of", type(kind).__name__)
        raise Unsuitable(f"a tensor of the class {named}, whose values may mean another", ALONE)
    tensor = function(*arguments) if isinstance(function, Function) else None
    if not isinstance(tensor, TensorRef):
        raise pickle.UnpicklingError("refused a tensor that is rebuilt by something unknown")
    return tensor


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"refused to encode {type(text).__name__} as {encoding}")
    return text.encode("latin1")


def _load_from_bytes(blob: Any) -> Storage:
    """A storage inside a plain pickle: a legacy file of its own, in which there are no further ones."""
    if not isinstance(blob, bytes):
        raise pickle.UnpicklingError("refused a storage that is not bytes")
    legacy = _Legacy(io.BytesIO(blob), inner=True)
    storage = legacy.value
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError(f"expected a storage, found {type(storage).__name__}")
    return Storage(storage.dtype, storage.key, storage.numel, legacy.read(storage))


_STORED = ("torch.storage", "_load_from_bytes")
_ALLOWED: dict[Global, Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): Function(_latin1),
    ("torch", "Size"): Function(tuple),
    ("torch", "Tensor"): TensorType(),
    ("torch", "device"): Function(_first),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Function(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_first),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_rebuild_from_type),
    _STORED: Function(_load_from_bytes),
    **{("torch", f"{name}Storage"): StorageType(dtype) for name, dtype in _DTYPES.items()},
    **{("torch", str(dtype).removeprefix("torch.")): StorageType(dtype) for dtype in _DTYPES.values()},
}


class _Unpickler(RestrictedUnpickler):
    """Knows :data:`_ALLOWED`, makes classes of the known packages inert, and reads references to storages."""

    def __init__(self, file: Any, most: int | None = None, allowed: Mapping[Global, Any] = _ALLOWED) -> None:
        """``most``: bytes that its storages may have, by default as many as the file."""
        super().__init__(file, allowed, ONLY)
        self.most = self.size if most is None else most
        self.claimed = 0
        self.storages: dict[str, Storage] = {}
        self.classes: dict[Global, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or not _INERT.match(module):
            return super().find_class(module, name)
        if (module, name) not in self.classes:
            if len(self.classes) == MOST_CLASSES:
                raise Excess(f"more than {MOST_CLASSES:,} classes")
            self.classes[module, name] = type(name, (Inert,), {"__slots__": (), "of": f"{module}.{name}"})
        return self.classes[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":  # legacy files: (class, file, source)
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(v is not None for v in pid[5:]):
            raise pickle.UnpicklingError("refused a persistent id that is none of a storage")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not isinstance(kind, StorageType) or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError("refused a storage without a type, a name or a length")
        if key not in self.storages:
            self.claimed += numel * kind.dtype.itemsize
            if self.claimed > self.most:
                raise Excess(f"its storages are said to have more than the file's {self.most:,} bytes")
            self.storages[key] = Storage(kind.dtype, key, numel)
        return self.storages[key]


class Checkpoint:
    """An opened file: ``value`` holds dictionaries, lists, :class:`Inert` and :class:`TensorRef`."""

    value: Any
    layout: str
    size: int = 0
    """Of the file, in bytes."""

    def read(self, storage: Storage) -> bytes:
        """The bytes of one storage. Raises ``ValueError`` where they are not all there."""
        raise ValueError(f"storage {storage.key} is missing")

    def close(self) -> None:
        """Close the file; tensors cannot be read after it."""

    def check(self, refs: Mapping[str, TensorRef]) -> None:
        """Raises :class:`Excess` where tensors take far more than the file, since they share or repeat values."""
        total, most = sum(ref.bytes for ref in refs.values()), PER_BYTE * self.size + SLACK
        if total > most:
            raise Excess(
                f"its {len(refs):,} tensors would take {total:,} bytes, expected at most {most:,} of a file of "
                f"{self.size:,}: they repeat or share their values"
            )

    def tensors(self, refs: Mapping[str, TensorRef]) -> dict[str, Tensor]:
        """Tensors by name, each contiguous and on its own; every storage is read once. Raises :class:`Excess`."""
        self.check(refs)
        shared: dict[int, list[str]] = {}
        for name, ref in refs.items():
            shared.setdefault(id(ref.storage), []).append(name)
        made: dict[str, Tensor] = {}
        for names in shared.values():
            storage = refs[names[0]].storage
            data = self.read(storage) if storage.data is None else storage.data
            flat = (
                torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            )
            for name in names:
                ref = refs[name]
                view = flat.as_strided(ref.size, ref.stride, ref.offset)
                whole = len(names) == 1 and view.is_contiguous() and view.numel() == flat.numel()
                made[name] = view if whole else view.contiguous().clone()
        return {name: made[name] for name in refs}


class _Zip(Checkpoint):
    layout = "zip"

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size
        self.archive = zipfile.ZipFile(file)
        names = self.archive.namelist()
        roots = [n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")]
        if len(roots) != 1:
            held = ", ".join(names[:3]) or "nothing"
            raise Unsuitable(f"a zip archive of {held}{', ...' if len(names) > 3 else ''}", "give a file of torch.save")
        self.root = roots[0]
        if any(n == f"{self.root}constants.pkl" or n.startswith(f"{self.root}code/") for n in names):
            raise Unsuitable(TORCHSCRIPT, ALONE)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in self.archive.infolist()):
            raise ValueError("a compressed zip file; torch.save writes uncompressed ones")
        order = f"{self.root}byteorder"
        if order in names and self.archive.read(order) != b"little":
            raise ValueError("written on a big-endian machine")
        self.value = _Unpickler(io.BytesIO(self.archive.read(f"{self.root}data.pkl")), most=size).load()

    def close(self) -> None:
        self.archive.close()
        self.file.close()

    def read(self, storage: Storage) -> bytes:
        data = self.archive.read(f"{self.root}data/{storage.key}")
        if len(data) != storage.numel * storage.dtype.itemsize:
            raise ValueError(f"storage {storage.key} has {len(data)} bytes, expected {storage.numel} {storage.dtype}")
        return data


class _Legacy(Checkpoint):
    layout = "legacy"

    def __init__(self, file: Any, inner: bool = False) -> None:
        """``inner``: a storage of a plain pickle, which holds none of its kind."""
        self.file = file
        self.close = file.close  # type: ignore[method-assign]
        allowed = {key: value for key, value in _ALLOWED.items() if not (inner and key == _STORED)}
        head = [_Unpickler(file).load() for _ in range(3)]
        if (
            type(head[0]) is not int
            or head[0] != LEGACY_MAGIC
            or not isinstance(head[2], dict)
            or not head[2].get("little_endian", True)
        ):
            raise ValueError("not a file of torch.save, or written on a big-endian machine")
        unpickler = _Unpickler(file, allowed=allowed)
        self.value, self.size = unpickler.load(), unpickler.size
        keys = _Unpickler(file).load()
        self.places: dict[str, int] = {}
        for key in keys if isinstance(keys, (list, tuple)) else ():
            if not isinstance(key, str) or key not in unpickler.storages:
                raise ValueError(
                    f"storage {str(key)[:40] if isinstance(key, str) else 'without a name'} belongs to no tensor"
                )
            storage = unpickler.storages[key]
            (numel,) = struct.unpack("<q", file.read(8))
            if numel != storage.numel:
                raise ValueError(f"storage {key} has {numel} values, expected {storage.numel}")
            self.places[key] = file.tell()
            file.seek(numel * storage.dtype.itemsize, io.SEEK_CUR)

    def read(self, storage: Storage) -> bytes:
        if storage.key not in self.places:
            raise ValueError(f"storage {storage.key} is missing")
        self.file.seek(self.places[storage.key])
        size = storage.numel * storage.dtype.itemsize
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError(f"storage {storage.key} ends after {len(data)} of {size} bytes")
        return data


class _Plain(Checkpoint):
    layout = "plain pickle"

    def __init__(self, value: Any, size: int) -> None:
        self.value, self.size = value, size


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A file of ``torch.save`` or ``pickle.dump``, tensors still unread.

    Raises:
        FamilyError: the file is missing, no checkpoint, truncated, a git-lfs pointer, or holds anything but tensors and
            modules of the known packages; nothing of it was run.
    """
    path = Path(path)
    try:
        with contextlib.ExitStack() as left:
            file = left.enter_context(open_regular(path))
            start = file.read(64)
            if start.startswith(b"version https://git-lfs"):
                raise FamilyError(f"{path} is a git-lfs pointer, not the file. In its clone type: git lfs pull")
            if kind := of_bytes(start):
                raise Unsuitable(*kind)
            if not start:
                raise EOFError("an empty file")
            size = os.fstat(file.fileno()).st_size
            if zipfile.is_zipfile(file):
                archive = _Zip(file, size)
                left.pop_all()
                return archive
            opened = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            left.callback(opened.close)
            first = _Unpickler(opened).load()
            if type(first) is not int or first != LEGACY_MAGIC:
                return _Plain(first, size)
            opened.seek(0)
            legacy = _Legacy(opened)
            left.pop_all()
            file.close()
            return legacy
    except FamilyError:
        raise
    except FileNotFoundError:
        raise FamilyError(f"{path} does not exist") from None
    except NotRegular as error:
        raise FamilyError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _unreadable(path, error) from None


def read_state(path: str | Path) -> State:
    """The state dict in a checkpoint: a pickled module's own, or the dictionary itself (or under ``state_dict``).

    Non-persistent buffers are left out, as ``state_dict`` does, and so is all of a dictionary that is no tensor.

    Raises:
        FamilyError: see :func:`open_checkpoint`; or neither a module nor a dictionary of tensors.
    """
    opened = Opened(path)
    with contextlib.closing(opened.checkpoint):
        opened.state.tensors = opened.read()
        return opened.state


class Opened:
    """A checkpoint's state dict, its tensors still unread: ``refs`` by name, ``state`` with all else that it says.

    ``key`` is the name under which the dictionary lies in the file, ``""`` where it is the file's own.

    Raises:
        FamilyError: see :func:`open_checkpoint` and :func:`read_state`; also while tensors are read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.checkpoint = Path(path), open_checkpoint(path)
        self.key, self.refs = "", dict[str, TensorRef]()
        value, self.state = self.checkpoint.value, State({}, layout=self.checkpoint.layout)
        with self._told():
            if isinstance(value, Inert):
                walk(value, "", self.refs, self.state, [MOST_PARTS])
            elif isinstance(value, Mapping):
                self.key = next((k for k in ("state_dict", "model") if isinstance(value.get(k), Mapping)), "")
                inner = value[self.key] if self.key else value
                self.refs = {str(k): v for k, v in inner.items() if isinstance(v, TensorRef)}
            if not self.refs:
                raise FamilyError(
                    f"{self.path} holds no module and no dictionary of tensors but: {described(value)}; {ALONE}"
                )
            self.checkpoint.check(self.refs)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Of a storage that is missing, damaged or shorter, or of what is no state dict, in this file's words."""
        try:
            yield
        except BaseException as error:
            self.checkpoint.close()
            if isinstance(error, FamilyError) or not isinstance(error, Exception):
                raise
            raise _unreadable(self.path, error) from None

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The tensors of these names, by default all."""
        with self._told():
            return self.checkpoint.tensors({name: self.refs[name] for name in (self.refs if names is None else names)})


def _unreadable(path: Path, error: BaseException) -> FamilyError:
    reason, mend = str(error) or type(error).__name__, AGAIN
    if isinstance(error, (EOFError, struct.error)):
        reason = f"truncated ({reason})"
    elif isinstance(error, Refused):
        kind = of_global(error.module, error.name)
        reason, mend = f"{reason}. It holds {kind.what}", kind.mend
    elif isinstance(error, Unsuitable):
        reason, mend = f"it is {reason}", error.mend
    elif isinstance(error, Excess):
        reason, mend = f"{reason}, which no honest file needs", ALONE
    reason = "".join(char if char.isprintable() else " " for char in reason)[:LONGEST_PATH]
    return FamilyError(f"cannot read {path} as a PyTorch checkpoint: {reason}. Nothing of it was run; {mend}")
