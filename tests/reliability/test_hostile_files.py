"""What stands in a file's place and is none, or is another thing: one line, at once, wherever a user's file is read."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.lacking import lacks_package
from helpers.limits import limited

from benchmark.checkpoints import adapters, families, files
from benchmark.common import facts
from benchmark.common.errors import UserError
from benchmark.common.files import LARGEST_TEXT, check_regular, file_sha256, read_object
from benchmark.domains.dense import family as dense
from benchmark.domains.dense import nyuv2, scenes
from benchmark.domains.dense.model import get_backbone
from benchmark.domains.text import embedded as glue_mini
from benchmark.domains.text import encoder, glue
from benchmark.domains.text import family as text
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.archives import unreadable, zipped_images
from benchmark.domains.vision.local import Copy, Sample
from benchmark.importers import text as roberta
from benchmark.records.store import RECORD, Store
from benchmark.submissions import package

SECONDS = 15
PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to(path.with_name("pipe"))),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def parquet(path: Path) -> None:
    glue._rows(path.parents[1], "RTE", "train")


def image(path: Path) -> None:
    Sample("1.png", path).encoded()


def listed(path: Path) -> None:
    raise UserError(str(path) + ": " + str(unreadable(path)))


def split(path: Path) -> None:
    """A data set whose card is what is read."""
    (path.parent / "test").mkdir()
    Copy(path.parent)


def pictures(path: Path) -> None:
    """A folder of images in which one is what is read."""
    Copy(path.parents[2])


def boards(path: Path) -> None:
    """A results folder one of whose records it is: told of, and left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Store(path.parents[3], read_only=True).all()


def resnet(path: Path) -> None:
    dense.load_dense_family(path.parent, get_backbone("ResNet-mini"), {"depth": 1}, {"depth": "depth"})


#: Where a user's file is read: its name, and what reads it.
READ: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("w.pt", files.read_file),
    "checkpoint, safetensors": ("w.safetensors", files.read_file),
    "weights": ("w.bin", files.weights),
    "expert of a family": ("w.safetensors", lambda path: families.check_file(path, {}, mend="Mend it.")),
    "expert of a method": ("w.safetensors", lambda path: adapters.open_experts(path, {"t": path})),
    "adapter": ("w.safetensors", adapters.load_adapters),
    "hash": ("w.safetensors", facts.sha256),
    "configuration": ("config.json", files.read_json),
    "configuration of an expert": ("config.json", lambda path: roberta._configuration(path.parent)),
    "vocabulary": ("tokenizer.json", roberta._vocabulary),
    "model for transformers": ("config.json", lambda path: encoder.empty_encoder(path.parent, "first")),
    "tokenizer for transformers": ("tokenizer_config.json", lambda path: encoder.load_tokenizer(path.parent)),
    "manifest of towers": ("manifest.json", lambda path: families.read_manifest(path.parent)),
    "manifest of text": ("manifest.json", lambda path: text.read_manifest(path.parent, "Import it.")),
    "manifest of texts": ("manifest.json", lambda path: glue_mini.manifest(path.parent)),
    "manifest of scenes": ("manifest.json", lambda path: scenes.manifest(path.parent)),
    "manifest of images": ("manifest.json", lambda path: vision.manifest(path.parent)),
    "manifest of dense experts": ("manifest.json", resnet),
    "table of texts": ("rte/train-0.parquet", parquet),
    "table of images": ("test.parquet", listed),
    "zip of images": ("test.zip", zipped_images),
    "tar of images": ("test.tar", listed),
    "image": ("1.png", image),
    "array": ("0.npy", nyuv2.load),
    "card of a data set": ("README.md", split),
    "image of a folder": ("test/cat/1.png", pictures),
    "record": (f"s/b/0123/{RECORD}", boards),
    "submitted record": (RECORD, package.load),
    "submission": ("x.submission.json", package.load),
}
SAID = ("FamilyError", "UserError", "DataError", "MergingError", "Damage", "NotRegular", "UserWarning", "OSError")


def said_of(read: Callable[[Path], object], path: Path) -> str:
    """The one line that a reader refuses a file with; the second is a hint, and a warning or nothing is no crash."""
    status, said = limited(lambda: read(path), seconds=SECONDS)
    lines = said.strip().splitlines()
    assert status == 1 and lines, f"ended with {status}: {said}"
    kind = lines[0].partition(":")[0]
    assert kind in SAID, said
    assert len(lines) <= (2 if kind in ("UserError", "UserWarning") else 1) and len(said) < 2000, said
    return said


def reader(what: str, folder: Path) -> tuple[Any, Path]:
    """What reads such a file, and where it is to lie."""
    name, read = READ[what]
    if "transformers" in what:
        pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
    path = folder / "in" / name
    path.parent.mkdir(parents=True)
    return read, path


#: A folder of submissions or images is read; a broken link is no record and no image.
OTHERWISE = {("submission", "a folder"), ("submitted record", "a folder"), ("record", "a link to itself"),
    ("image of a folder", "a link to itself"), ("image of a folder", "a folder"),
}  # fmt: skip


@pytest.mark.parametrize("what, place", [each for each in itertools.product(READ, PLACES) if each not in OTHERWISE])
def test_what_is_no_file_is_refused_wherever_a_file_is_read(what: str, place: str, tmp_path: Path, count: Any) -> None:
    read, path = reader(what, tmp_path)
    PLACES[place](path)
    said = said_of(read, path)
    assert path.name in said or str(path.parent) in said or what == "image", said
    if place in ("a pipe", "a link to a device") and what != "hash":
        assert place.rpartition(" ")[2] in said or "no regular file" in said, said
    count("refused", 1)


#: Those that are JSON.
JSON = [what for what, (name, _) in READ.items() if name.endswith(".json")]
CONTENTS = {
    "a list": "[]",
    "a number": "3",
    "nothing": "null",
    "10,000 brackets": "[" * 10_000,
    "10,000 objects": '{"a":' * 10_000,
    "10,000 closed brackets": "[" * 10_000 + "]" * 10_000,
    "half": '{"files": {',
    "a number of a million digits": '{"version": ' + "9" * 1_000_000 + "}",
    "an object of lists": json.dumps(dict.fromkeys(("files", "name", "records", "version", "classes", "model"), [[]])),
}


#: Whose content a schema says; of the others it may hold anything.
STRICT = [what for what in JSON if what.endswith(("towers", "of text", "experts", "images", "record", "submission"))]
PAIRS = [(w, c) for w, c in itertools.product(JSON, CONTENTS) if c != "an object of lists" or w in STRICT]


@pytest.mark.parametrize("what, content", PAIRS)
def test_json_that_is_another_thing_is_refused_in_one_line(what: str, content: str, tmp_path: Path, count: Any) -> None:
    read, path = reader(what, tmp_path)
    path.write_text(CONTENTS[content])
    said = said_of(read, path)
    assert path.name in said or str(path.parent) in said, said
    count("refused", 1)


def test_a_text_of_a_gigabyte_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(LARGEST_TEXT + 1)
    with pytest.raises(OSError, match=f"it has {LARGEST_TEXT + 1:,} bytes, at most {LARGEST_TEXT:,} are read"):
        read_object(path)


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to("blob")
    assert read_object(tmp_path / "config.json") == {"a": 1} and check_regular(tmp_path / "config.json") == 8
    assert file_sha256(tmp_path / "config.json") == facts.sha256(tmp_path / "blob")
