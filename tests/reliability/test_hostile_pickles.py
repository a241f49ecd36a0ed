"""Pickles that are small and ask for much: refused in one line that names the file, in little memory and time."""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.limits import limited
from torch import nn

from benchmark.checkpoints.pickles import read_state

MODULUS = (1 << 61) - 1
HEAD = b"\x80\x02"


def named(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def tuples(deep: int) -> bytes:
    return b")" + b"\x85" * deep


def state(value: bytes) -> bytes:
    """A pickle of ``{"w": value}``."""
    return HEAD + b"}" + text("w") + value + b"s."


def saved(value: Any, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def legacy(value: bytes, keys: bytes = HEAD + b"].") -> bytes:
    """A file as torch < 1.6 wrote it: magic, protocol, machine, value, names of storages."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + value + keys


def storage(numel: int, key: str = "0") -> bytes:
    """A storage by its persistent id."""
    return b"(" + text("storage") + named("torch", "FloatStorage") + text(key) + text("cpu") + integer(numel) + b"tQ"


def integer(number: int) -> bytes:
    data = pickle.encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(numel: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    def row(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(integer, numbers)) + b"t"

    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    return rebuild + b"(" + storage(numel, key) + b"K\0" + row(size) + row(stride) + b"\x89}tR"


def collisions(count: int) -> list[int]:
    """Integers of one hash: a dictionary of them takes as many comparisons as there are pairs."""
    return [MODULUS * number for number in range(1, count + 1)]


def alike(count: int, after: bytes = b"") -> bytes:
    """A mark and such integers, each followed by a value where it is a key."""
    return b"(" + b"".join(integer(number) + after for number in collisions(count))


def shared(wide: int, deep: int, name: str) -> nn.Module:
    """Modules that hold the next one under several names."""
    inner = nn.Identity()
    for _ in range(deep):
        outer = nn.Module()
        for number in range(wide):
            outer.add_module(f"{name}{number}", inner)
        inner = outer
    return inner


def itself() -> nn.Module:
    module = nn.Linear(1, 1)
    module._modules["again"] = module
    return module


def repeated(call: bytes, value: bytes, times: int) -> bytes:
    """A list of ``call(value)``, ``times`` over, of one value that stands there once."""
    body = call + b"q\0" + b"0" + value + b"q\1" + b"0" + b"](" + b"h\0h\1\x85R" * times + b"e"
    return HEAD + body + b"."


def ints(count: int) -> bytes:
    return b"](" + b"".join(b"M" + struct.pack("<H", number % 65536) for number in range(count)) + b"e"


def blobs(deep: int) -> bytes:
    """A storage in a storage in a storage: each is a legacy file, and named by a pickle."""
    blob = legacy(HEAD + storage(0) + b".")
    for _ in range(deep):
        value = (
            HEAD + named("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(blob)) + blob + b"\x85R."
        )
        blob = legacy(value)
    return blob


def bulk(opcode: bytes, count: int) -> bytes:
    return HEAD + b"](" + opcode * count + b"e."


#: What is in the file, what is said of it.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a key of 200 kB of nested tuples": (lambda: HEAD + b"}" + tuples(200_000) + b"K\1s.", "keys that are|as a key"),
    "a member of a set, nested": (lambda: HEAD + b"\x8f(" + tuples(200_000) + b"\x90.", "keys that are|as a key"),
    "a set made of a list, nested": (
        lambda: HEAD + named("builtins", "set") + b"](" + tuples(200_000) + b"e\x85R.", "keys that are|as a key"),
    "a name of a storage, nested": (
        lambda: legacy(state(tensor(0, (0,), (1,))), HEAD + b"](" + tuples(200_000) + b"e."), "without a name"),
    "a persistent id, nested": (lambda: state(tuples(200_000) + b"Q"), "none of a storage"),
    "a size, nested": (lambda: legacy(state(
        named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(1) + b"K\0" + tuples(200_000) * 2 + b"\x89}tR")),
        "no numbers"),
    "a tensor of stride 0": (
        lambda: saved({"w": torch.ones(1).expand(1_400_000_000)}), "would take 5,600,000,000 bytes, expected at most"),
    "400 names of one storage": (
        lambda: saved(dict.fromkeys(map(str, range(400)), torch.zeros(2_500_000))), "would take 4,000,000,000 bytes"),
    "a size that overflows": (
        lambda: legacy(state(tensor(1, (1 << 62, 1 << 62), (0, 0)))), "would take .* bytes, expected at most"),
    "sizes of 200 kB each": (lambda: legacy(state(
        named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(1) + b"K\0"
        + (b"\x8b" + struct.pack("<i", 200_000) + b"\1" * 200_000 + b"\x85") * 2 + b"\x89}tR")), "no numbers"),
    "a memo index of 2^32": (lambda: HEAD + b"}r\xff\xff\xff\xff.", "entry 4,294,967,295 of a memo, in"),
    "memo indices that collide": (
        lambda: HEAD + b"}" + b"".join(b"p%d\n" % n for n in collisions(50_000)) + b".", "of a memo"),
    "bytes said to be 2^40": (lambda: HEAD + b"\x8e" + struct.pack("<Q", 1 << 40) + b"x.", "truncated|ends before"),
    "changeable bytes said to be 2^40": (lambda: HEAD + b"\x96" + struct.pack("<Q", 1 << 40) + b".", "truncated"),
    "a frame said to be 2^40": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"}.", "no dictionary of"),
    "a storage said to be 2^40": (lambda: legacy(state(tensor(1 << 40, (1 << 40,), (1,)))), "said to have more than"),
    "90,000 keys of one hash": (lambda: HEAD + b"}" + alike(90_000, b"N") + b"u.", "more than 2,000 keys that are"),
    "90,000 keys, one by one": (
        lambda: HEAD + b"}" + b"".join(integer(n) + b"Ns" for n in collisions(90_000)) + b".",
        "more than 2,000 keys that are",
    ),
    "90,000 keys in an old dictionary": (lambda: HEAD + alike(90_000, b"N") + b"d.", "more than 2,000 keys that are"),
    "90,000 members of one hash": (lambda: HEAD + b"\x8f" + alike(90_000) + b"\x90.", "more than 2,000 keys that are"),
    "90,000 members of a frozen set": (lambda: HEAD + alike(90_000) + b"\x91.", "more than 2,000 keys that are"),
    "90,000 members of a made set": (
        lambda: HEAD + named("builtins", "set") + b"]" + alike(90_000) + b"e\x85R.",
        "more than 2,000 keys that are",
    ),
    "90,000 pairs of one hash": (
        lambda: HEAD
        + named("collections", "OrderedDict")
        + b"]("
        + b"".join(integer(n) + b"N\x86" for n in collisions(90_000))
        + b"e\x85R.",
        "more than 2,000 keys that are",
    ),
    "sets of keys of one hash, called often": (
        lambda: repeated(named("builtins", "set"), b"]" + alike(1_900) + b"e", 20_000),
        "more than 2,000 keys that are|again and again"),
    "a module within itself": (lambda: pickle.dumps(itself()), "parts within themselves"),
    "parts shared 2^40 times": (lambda: pickle.dumps(shared(2, 40, "m")), "more than 200,000 parts"),
    "parts shared under long names": (lambda: pickle.dumps(shared(2, 12, "n" * 100_000)), "more than 200,000 parts"),
    "a list copied into 20,000 sets": (
        lambda: repeated(named("builtins", "set"), ints(20_000), 20_000), "again and again"),
    "a list copied into 20,000 shapes": (
        lambda: repeated(named("torch", "Size"), ints(20_000), 20_000), "again and again"),
    "a text encoded 20,000 times": (
        lambda: repeated(named("_codecs", "encode"), text("x" * 100_000), 20_000), "again and again"),
    "arguments kept 20,000 times": (
        lambda: HEAD + named("clip", "M") + b"q\0" + b"0(" + b"N" * 50_000 + b"tq\1" + b"0]("
        + b"h\0h\1R" * 20_000 + b"e.",
        "again and again"),
    "4 million sets": (lambda: bulk(b"\x8f", 4_000_000), "more than 2,000,000 instructions"),
    "a million classes": (
        lambda: HEAD + b"](" + b"".join(named("clip", str(n)) for n in range(1_000_000)) + b"e.",
        "more than 2,000 classes"),
    "storages 2,000 deep": (lambda: blobs(2_000), "refused to load torch.storage._load_from_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_asks_for_more_than_it_has_is_refused_by_its_name(what: str, tmp_path: Path, count: Any) -> None:
    make, said = REFUSED[what]
    path = tmp_path / "hostile.pt"
    path.write_bytes(make())
    status, text = limited(lambda: read_state(path).tensors.keys())
    assert status == 1 and text.startswith("FamilyError: ") and str(path) in text, (status, text)
    assert len(text.strip().splitlines()) == 1 and len(text) < 1500, text
    assert re.search(said, text), text
    count("refused", 1)


def attributes() -> nn.Module:
    """A module with what honest ones keep: keys of all kinds, parts that are shared, a cache by size."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module.cache = {(14, 14): 1, 3: {"a": 1.5}, 1.5: None, None: [((1,), (2,))], "steps": 1 << 70}
    module.seen = {1, 2, (3, 4)}
    return module


HONEST: dict[str, Callable[[], Any]] = {
    "tied": lambda: {"embed": (weight := torch.randn(500, 40)), "head": weight, "same": weight.T},
    "expanded": lambda: {"mask": torch.ones(1, 77).expand(8, 77), "w": torch.ones(3)},
    "20,000 views": lambda: {str(n): part for n, part in enumerate(torch.arange(2_000_000.0).split(100))},
    "20,000 tensors": lambda: {str(n): torch.full((2,), float(n)) for n in range(20_000)},
    "a deep list beside": lambda: {"w": torch.ones(2), "list": deep_list(400)},
}


def deep_list(deep: int) -> list:
    value: list = []
    for _ in range(deep):
        value = [value]
    return value


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("what", HONEST)
def test_an_honest_file_that_shares_much_is_read(what: str, zipped: bool, tmp_path: Path) -> None:
    content = HONEST[what]()
    (tmp_path / "w.pt").write_bytes(saved(content, zipped))
    wanted = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}

    def equal() -> bool:
        found = read_state(tmp_path / "w.pt").tensors
        places = {value.data_ptr() for value in found.values()}
        return set(found) == set(wanted) and len(places) == len(found) and all(
            torch.equal(found[name], value) for name, value in wanted.items()
        )  # fmt: skip

    assert limited(equal) == (0, "True\n")


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_honest_module_with_odd_keys_is_read(protocol: int, tmp_path: Path) -> None:
    module = attributes()
    (tmp_path / "m.pt").write_bytes(pickle.dumps(module, protocol))
    found = read_state(tmp_path / "m.pt").tensors
    assert set(found) == set(module.state_dict())
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())
