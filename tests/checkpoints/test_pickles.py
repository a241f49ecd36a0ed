"""Public checkpoints are pickles of whole modules: their tensors are read, nothing of them is run."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import nn

from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.pickles import Function, Inert, open_checkpoint, read_state

FOLDER = Path(__file__).parents[1] / "checkpoints"
VERSIONS = ("open_clip-2.0.2", "open_clip-2.24.0")
LAYOUTS = {"zip": "zip", "legacy": "legacy", "plain": "plain pickle", "plain2": "plain pickle", "state_dict": "zip"}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def truth(version: str, head: bool = False) -> dict[str, torch.Tensor]:
    stored = load_file(FOLDER / version / "truth.safetensors")
    return {n.removeprefix("head."): v for n, v in stored.items() if n.startswith("head.") == head}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_encoders_written_by_both_open_clips_are_read_in_every_layout(version: str, name: str) -> None:
    found, expected = read_state(FOLDER / version / f"{name}.pt"), truth(version)
    assert list(found.tensors) != [] and set(found.tensors) == set(expected) and found.layout == LAYOUTS[name]
    for key, value in expected.items():
        assert found.tensors[key].dtype == value.dtype and torch.equal(found.tensors[key], value), key
    if name == "state_dict":
        assert not found.classes
    else:
        home = "model" if version == "open_clip-2.0.2" else "transformer"
        assert found.classes[""] == "src.modeling.ImageEncoder"
        assert found.classes["model.visual.transformer.resblocks.0.mlp.gelu"] == f"open_clip.{home}.QuickGELU"


@pytest.mark.parametrize("version", VERSIONS)
def test_head_is_read_with_its_normalisation(version: str) -> None:
    found, expected = read_state(FOLDER / version / "head.pt"), truth(version, head=True)
    assert found.classes[""] == "src.modeling.ClassificationHead" and found.attributes["normalize"] is True
    assert all(torch.equal(found.tensors[n], expected[n]) for n in ("weight", "bias"))


def test_reading_imports_none_of_the_pickled_classes() -> None:
    before = set(sys.modules)
    read_state(FOLDER / VERSIONS[0] / "zip.pt")
    assert not {name for name in set(sys.modules) - before if name.startswith(("src", "open_clip"))}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("modern", [True, False])
def test_views_dtypes_and_shared_storages_come_out_as_they_went_in(
    dtype: torch.dtype, modern: bool, tmp_path: Path
) -> None:
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    state = {"whole": whole, "part": whole[1:3, ::2], "turned": whole.T, "none": whole[:0], "one": whole[2, 3]}
    torch.save(state, tmp_path / "s.pt", _use_new_zipfile_serialization=modern)
    found = read_state(tmp_path / "s.pt").tensors
    assert all(found[n].dtype == dtype and torch.equal(found[n], v) for n, v in state.items())
    assert all(t.is_contiguous() for t in found.values())


def test_buffers_that_a_state_dict_leaves_out_are_left_out(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    module.register_buffer("kept", torch.ones(2))
    module.register_buffer("hidden", torch.ones(2), persistent=False)
    torch.save(module, tmp_path / "m.pt")
    assert set(read_state(tmp_path / "m.pt").tensors) == set(module.state_dict()) == {"weight", "bias", "kept"}


class Runs:
    """Unpickled as Python does, it creates a file."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


def wrapped(value: object, layout: str, path: Path) -> Path:
    """``value`` stored as a checkpoint beside an honest tensor."""
    if layout == "plain":
        path.write_bytes(pickle.dumps({"w": value}))
    else:
        torch.save({"w": torch.ones(2), "x": value}, path, _use_new_zipfile_serialization=layout == "zip")
    return path


@pytest.mark.parametrize("layout", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("attack", ["system", "eval", "import", "inside a module", "through bytes", "class to be run"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(layout: str, attack: str, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    code = f"open({str(target)!r}, 'w')"
    runs: object = {
        "system": lambda: Runs(os.system, f"touch {target}"),
        "eval": lambda: Runs(eval, code),
        "import": lambda: Runs(__import__, "antigravity"),
        "class to be run": lambda: Runs(io.FileIO, str(target), "w"),
    }.get(attack, lambda: Runs(exec, code))()
    if attack == "inside a module":
        module = nn.Linear(1, 1)
        module.extra = runs
        runs = module
    if attack == "through bytes":
        runs = Runs(torch.storage._load_from_bytes, pickle.dumps(runs))
    path = wrapped(runs, layout, tmp_path / "evil.pt")
    with pytest.raises(FamilyError, match=r"refused to load .*Nothing of it was run"):
        read_state(path)
    assert not target.exists()
    if attack == "system":  # the file is what it claims to be
        torch.load(path, weights_only=False) if layout != "plain" else pickle.loads(path.read_bytes())
        assert target.exists()


def global_(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def state_of_attributes(name: str) -> bytes:
    """The opcodes of a state that sets an attribute through setattr: ``(None, {name: 1})``."""
    return b"N}" + text(name) + b"K\x01s\x86"


@pytest.mark.parametrize(
    "target",
    [
        global_("src.modeling", "ImageEncoder"),
        global_("src.modeling", "ImageEncoder") + b")\x81",
        global_("torch._utils", "_rebuild_tensor_v2"),
        global_("torch", "FloatStorage"),
    ],
)
@pytest.mark.parametrize("name", ["call", "__call__", "__setstate__", "dtype", "of"])
def test_a_pickle_cannot_change_what_reads_it(target: bytes, name: str, tmp_path: Path) -> None:
    before = {cls: dict(vars(cls)) for cls in (Inert, Function)}
    (tmp_path / "p.pt").write_bytes(b"\x80\x02" + target + state_of_attributes(name) + b"b.")
    with pytest.raises(FamilyError):
        read_state(tmp_path / "p.pt")
    assert {cls: dict(vars(cls)) for cls in (Inert, Function)} == before
    assert read_state(FOLDER / VERSIONS[0] / "zip.pt").tensors  # and the reader still reads


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "size, stride, offset", [((3,), (1,), 0), ((2,), (1,), 1), ((1, 9), (0, 1), 0), ((-1,), (1,), 0)]
)
def test_a_tensor_that_reaches_past_its_storage_is_refused(
    size: tuple, stride: tuple, offset: int, tmp_path: Path
) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)

    class Beyond(torch.Tensor):
        def __reduce_ex__(self, protocol: int) -> tuple:
            kind = (self.untyped_storage(), offset, size, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, (torch.FloatStorage(2), *kind[1:])

    torch.save({"w": torch.ones(2).as_subclass(Beyond)}, tmp_path / "w.pt")
    with pytest.raises(FamilyError, match="reaches past its storage of 2 values|makes no sense"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["zip", "legacy", "plain", "plain2", "state_dict"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(name: str, share: float, tmp_path: Path) -> None:
    data = (FOLDER / VERSIONS[1] / f"{name}.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FamilyError, match="cannot read .*cut.pt as a PyTorch checkpoint"):
        read_state(tmp_path / "cut.pt")


def test_an_altered_byte_of_a_zip_is_found(tmp_path: Path) -> None:
    data = bytearray((FOLDER / VERSIONS[1] / "state_dict.pt").read_bytes())
    with zipfile.ZipFile(FOLDER / VERSIONS[1] / "state_dict.pt") as archive:
        at = next(e.header_offset for e in archive.infolist() if e.filename.endswith("/data/0"))
    data[at + 200] ^= 1
    (tmp_path / "bad.pt").write_bytes(data)
    with pytest.raises(FamilyError, match="CRC"):
        read_state(tmp_path / "bad.pt")


def test_what_is_no_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    def refused(content: bytes, words: str) -> None:
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(FamilyError, match=words):
            read_state(tmp_path / "x.pt")

    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer.*git lfs pull")
    refused(b"<!DOCTYPE html>", "cannot read")
    refused(b"", "truncated")
    refused(pickle.dumps({"accuracy": 0.5}), "no dictionary of tensors but: dict")
    refused(pickle.dumps(collections.OrderedDict()), "no dictionary of tensors but: OrderedDict")
    with pytest.raises(FamilyError, match="none.pt does not exist"):
        open_checkpoint(tmp_path / "none.pt")


def test_an_archive_of_code_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "jit.pt")
    with zipfile.ZipFile(tmp_path / "jit.pt", "a") as archive:
        archive.writestr("jit/code/__torch__.py", "import os")
    with pytest.raises(FamilyError, match="TorchScript archive, which holds code"):
        read_state(tmp_path / "jit.pt")


def test_parts_within_themselves_end(tmp_path: Path) -> None:
    module = nn.Linear(1, 1)
    module._modules["again"] = module
    (tmp_path / "loop.pt").write_bytes(pickle.dumps(module))
    with pytest.raises(FamilyError, match="parts within themselves"):
        read_state(tmp_path / "loop.pt")


class Tagged(torch.Tensor):
    """A subclass: nobody but its code knows what its values mean."""


def with_attribute(value: torch.Tensor, attribute: object) -> torch.Tensor:
    value.tag = attribute
    return value


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("kind", ["tensor", "parameter", "buffer"])
def test_tensors_with_attributes_are_read_as_torch_reads_them(kind: str, layout: str, tmp_path: Path) -> None:
    make = {"tensor": torch.Tensor.clone, "parameter": nn.Parameter, "buffer": nn.Buffer}[kind]
    state = {"w": with_attribute(make(torch.randn(3, 2)), {"a": [1, "x"]}), "x": torch.ones(2)}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=layout == "zip")
    expected = torch.load(tmp_path / "w.pt", weights_only=True)
    found = read_state(tmp_path / "w.pt").tensors
    assert set(found) == set(expected) and all(torch.equal(found[n], v) for n, v in expected.items())
    module = nn.Linear(2, 3)
    with_attribute(module.weight, "kept")
    torch.save(module, tmp_path / "m.pt", _use_new_zipfile_serialization=layout == "zip")
    assert torch.equal(read_state(tmp_path / "m.pt").tensors["weight"], module.weight)


def test_what_torch_refuses_of_tensors_with_attributes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "clip", types.SimpleNamespace(Tagged=Tagged))  # a package whose modules are read
    monkeypatch.setattr(Tagged, "__module__", "clip")
    target = tmp_path / "ran"
    runs = Runs(os.system, f"touch {target}")
    torch.save({"w": with_attribute(torch.ones(2), runs)}, tmp_path / "attribute.pt")
    torch.save({"w": torch.ones(2).as_subclass(Tagged)}, tmp_path / "subclass.pt")
    rebuilt = Runs(torch._tensor._rebuild_from_type_v2, eval, torch.Tensor, ("ran",), {})
    torch.save({"w": rebuilt}, tmp_path / "call.pt")
    torch.save({"w": Runs(torch.Tensor, 3), "x": torch.ones(1)}, tmp_path / "type.pt")
    for name, words in {
        "attribute": r"refused to load (posix|nt).system", "subclass": "a tensor of the class clip.Tagged",
        "call": "refused to load (__builtin__|builtins).eval", "type": "not callable",
    }.items():  # fmt: skip
        if name != "type":
            with pytest.raises(pickle.UnpicklingError):
                torch.load(tmp_path / f"{name}.pt", weights_only=True)
        with pytest.raises(FamilyError, match=words):
            read_state(tmp_path / f"{name}.pt")
    assert not target.exists()


def traced() -> bytes:
    """A module that ``torch.jit.save`` wrote."""
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), stream)
    return stream.getvalue()


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.ones(3))
    return stream.getvalue()


WEIGHTS = {"w": torch.ones(2)}
FOREIGN = {
    "torchscript": (traced, "a TorchScript archive, which holds code beside its weights", "save the tensors alone"),
    "namespace": (lambda: saved({"args": argparse.Namespace(lr=0.1), "state_dict": WEIGHTS}),
                  "settings of a training run .argparse.Namespace.", "save the tensors alone"),
    "numpy scalar": (lambda: saved({"accuracy": np.float64(1.0), "state_dict": WEIGHTS}),
                     "numpy scalars or arrays", "save the tensors alone"),
    "numpy array": (lambda: saved({"w": np.ones(3)}), "numpy scalars or arrays", "save the tensors alone"),
    "path": (lambda: saved({"from": Path("x"), **WEIGHTS}), "paths of files", "save the tensors alone"),
    "other class": (lambda: saved({"w": collections.Counter("a")}), "objects of collections", "save the tensors alone"),
    "float8": (lambda: saved({"w": torch.ones(2).to(torch.float8_e5m2)}), "a dtype that is not merged", "as float32"),
    "sparse": (lambda: saved({"w": torch.eye(2).to_sparse()}), "sparse tensors", "to_dense"),
    "archive of arrays": (zipped, "a zip archive of w.npy", "a file of torch.save"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>", "a web page", "fetch the file itself"),
    "gzip": (lambda: gzip.compress(saved(WEIGHTS)), "a gzip archive", "unpack it"),
    "gguf": (lambda: b"GGUF" + bytes(60), "a GGUF file", "safetensors weights"),
    "json": (lambda: b'{"hidden_size": 3}', "a text in JSON", "the weights beside it"),
    "safetensors": (lambda: safetensors.torch.save(WEIGHTS), "a safetensors file under another name", "rename it"),
    "one tensor": (lambda: saved(torch.ones(2)), "but: a single tensor", "save the tensors alone"),
    "parts": (lambda: saved({"net": WEIGHTS, "ema": WEIGHTS, "epoch": 3}), "but: dict with tensors under net, ema",
              "save the tensors alone"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_is_not_read_is_named_with_what_to_do(what: str, tmp_path: Path) -> None:
    make, said, mend = FOREIGN[what]
    (tmp_path / "x.pt").write_bytes(make())
    with pytest.raises(FamilyError, match=f"x.pt .*{said}.*{mend}") as error:
        read_state(tmp_path / "x.pt")
    assert "fetch it again" not in str(error.value)
