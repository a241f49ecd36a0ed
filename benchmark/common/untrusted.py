"""Reading foreign pickles without running them, at a cost that the file's own size bounds.

What is not on a reader's own list of globals is refused. The pickle machine is Python's own, in Python: the one in C
makes room for whatever number a memo index or a length says, and hashes whatever is nested however deep. Here

- an index of the memo is a key, and reads end where the file does, so that a number alone takes no memory;
- the number of instructions is bounded (:data:`MOST_STEPS`), and so is what calls may copy (:data:`PER_BYTE`): a list
  that stands once in a file and is named ten thousand times cannot be copied ten thousand times;
- keys of dictionaries and members of sets are plain values. Numbers and tuples, whose hashes a file can choose, are
  few (:data:`MOST_CHOSEN`), and nothing that is nested is ever hashed, compared or printed, so that depth is harmless.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

Global = tuple[str, str]

#: Instructions of one pickle; an honest one takes some forty a tensor. None makes more than about 250 bytes.
MOST_STEPS = 2_000_000
#: What calls may copy: bytes, and eight for an item of a list, for each byte of the file; and a little besides.
PER_BYTE, SLACK = 4, 1 << 20
#: Keys whose hashes a file can choose, so that all are the same.
MOST_CHOSEN = 2_000
LONGEST_KEY = 16
#: Distinct integers below this have distinct hashes (sys.hash_info.modulus).
_OWN_HASH = (1 << 61) - 1
_COPIED = (bytes, bytearray, str)
_HELD = (list, tuple, dict, set, frozenset, OrderedDict)


class Refused(pickle.UnpicklingError):
    """A pickle names something that is not on the reader's list: ``module`` and ``name``."""

    def __init__(self, module: str, name: str, only: str) -> None:
        super().__init__(f"refused to load {module[:80]}.{name[:80]}: only {only} may stand in this pickle")
        self.module, self.name = module, name


class Excess(pickle.UnpicklingError):
    """A pickle asks for more than a file of its size can stand for."""


_Machine: Any = pickle._Unpickler  # type: ignore[attr-defined]


class RestrictedUnpickler(_Machine):
    """An unpickler that knows only the globals of ``allowed``, ``{(module, name): object}``.

    Nothing is imported by the pickle's names. Persistent ids are refused unless a subclass reads them. ``load`` raises
    ``pickle.UnpicklingError`` or, of a damaged pickle, any other exception.
    """

    dispatch: dict[int, Callable[[Any], None]] = dict(_Machine.dispatch)

    def __init__(self, file: IO[bytes] | Any, allowed: Mapping[Global, Any], only: str) -> None:
        """``file`` reads no more than it has (``io.BytesIO``, ``mmap``): a real file makes room for what is asked."""
        super().__init__(file)
        self.allowed, self.only = allowed, only
        here = file.tell()
        file.seek(0, io.SEEK_END)
        self.size = file.tell()
        file.seek(here)
        self._room, self._chosen = PER_BYTE * self.size + SLACK, 0

    def load(self) -> Any:
        """The pickle's value; the file then stands behind it."""
        unframer = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        self._unframer, self.read, self.readinto, self.readline = (
            unframer, unframer.read, unframer.readinto, unframer.readline,
        )  # fmt: skip
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, dispatch, stop = self.read, self.dispatch, pickle.STOP
        try:
            for _ in range(MOST_STEPS):
                key = read(1)
                if key == stop:
                    return self.stack.pop()
                if not key:
                    raise EOFError("it ends before its last instruction")
                if key[0] not in dispatch:
                    raise pickle.UnpicklingError(f"an instruction {key!r} that no pickle has")
                dispatch[key[0]](self)
        except IndexError:
            raise pickle.UnpicklingError("an instruction lacks what it works on") from None
        raise Excess(f"more than {MOST_STEPS:,} instructions")

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object of this name. Raises :class:`Refused` for any other."""
        if (module, name) not in self.allowed:
            raise Refused(module, name, self.only)
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Raises ``pickle.UnpicklingError``."""
        raise pickle.UnpicklingError(f"refused a persistent id: only {self.only} may stand in this pickle")

    def charge(self, *values: Any) -> None:
        """Count what a call with these values may copy. Raises :class:`Excess`."""
        for value in values:
            kind = type(value)
            self._room -= len(value) if kind in _COPIED else 8 * (len(value) if kind in _HELD else 1)
        if self._room < 0:
            raise Excess(f"it copies its parts again and again, more than {PER_BYTE} times its {self.size:,} bytes")

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Raise ``pickle.UnpicklingError`` for what is no plain key, or for too many that the file can make alike."""
        for key in keys:
            kind = type(key)
            if kind in (str, bytes, bool, type(None)) or (kind is int and -_OWN_HASH < key < _OWN_HASH):
                continue
            flat = kind is tuple and len(key) <= LONGEST_KEY
            if kind in (int, float) or (flat and all(type(k) in (str, bytes, bool, int, float) for k in key)):
                self._chosen += 1
                if self._chosen > MOST_CHOSEN:
                    raise Excess(f"more than {MOST_CHOSEN:,} keys that are tuples, fractions or integers above 2^61")
            elif kind.__hash__ is not object.__hash__:
                raise pickle.UnpicklingError(f"refused a {kind.__name__} as a key: text or numbers are expected")

    def _call(self, function: Any, arguments: Any, keywords: Any = None) -> Any:
        if type(arguments) not in (tuple, list) or type(keywords or {}) is not dict:
            raise pickle.UnpicklingError("a call without a list of arguments")
        self.charge(arguments, *arguments, *(keywords or {}).values())
        if function in (OrderedDict, set) and arguments:
            content = arguments[0]
            if len(arguments) > 1 or type(content) not in (list, tuple):
                raise pickle.UnpicklingError(f"refused to fill a {function.__name__} with anything but a list")
            if function is OrderedDict and not all(type(p) in (list, tuple) and len(p) == 2 for p in content):
                raise pickle.UnpicklingError("a dictionary is filled with what are no pairs")
            self.check_keys(content if function is set else (pair[0] for pair in content))
        return function(*arguments, **(keywords or {}))

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, args))

    def load_reduce(self) -> None:
        """A call."""
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """``cls.__new__(cls, *args)``."""
        arguments = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        """``cls.__new__(cls, *args, **keywords)``."""
        keywords, arguments = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], arguments, keywords)

    def _new(self, cls: Any, arguments: Any, keywords: Any = None) -> Any:
        if not isinstance(cls, type) or type(arguments) not in (tuple, list) or type(keywords or {}) is not dict:
            raise pickle.UnpicklingError("a new object of what is no class")
        self.charge(arguments, *arguments, *(keywords or {}).values())
        return cls.__new__(cls, *arguments, **(keywords or {}))

    def load_build(self) -> None:
        """A state is given to an object."""
        state = self.stack[-1]
        self.charge(*(state if type(state) is tuple else (state,)))
        super().load_build()

    def load_dict(self) -> None:
        """A dictionary of all since the last mark."""
        self.check_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        """One item into a dictionary."""
        self.check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Items into a dictionary."""
        self.check_keys(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        """Members into a set."""
        self.check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        """A frozen set of all since the last mark."""
        self.check_keys(self.stack)
        super().load_frozenset()

    def load_put(self) -> None:
        """The memo, by a number as text."""
        self._note(int(self.readline()[:-1]))

    def load_long_binput(self) -> None:
        """The memo, by a number."""
        self._note(struct.unpack("<I", self.read(4))[0])

    def _note(self, place: int) -> None:
        if not 0 <= place <= self.size:
            raise Excess(
                f"entry {place:,} of a memo, in {self.size:,} bytes" if place < 1 << 63 else "a memo without end"
            )
        self.memo[place] = self.stack[-1]

    def load_bytearray8(self) -> None:
        """Bytes that can be changed."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch |= {
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build, pickle.DICT[0]: load_dict, pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems, pickle.ADDITEMS[0]: load_additems, pickle.FROZENSET[0]: load_frozenset,
        pickle.PUT[0]: load_put, pickle.LONG_BINPUT[0]: load_long_binput, pickle.BYTEARRAY8[0]: load_bytearray8,
    }  # fmt: skip
