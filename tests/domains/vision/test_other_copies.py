"""Copies of a set beside the one that the papers' code takes: official archives, the hub's other form, a rar."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import stat
from pathlib import Path

import pytest
from helpers import published
from helpers.published_sets import SETS, folded, zipped
from PIL import Image

from benchmark.common.errors import UserError
from benchmark.domains.vision import public as full
from benchmark.domains.vision.images import picture
from benchmark.domains.vision.published import convert, unpack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SYMERGE_DATA", raising=False)


def converted(task: str, root: Path, split: str) -> list[tuple[int, bytes]]:
    about = full.info(task)
    copy, own = full.copy_of(about, root), about.splits[split]
    image, label, _ = copy.columns(own, about.label)
    return [(s.label, picture(s.encoded()).convert("RGB").tobytes()) for s in copy.samples(own, image, label)]


def pack_final(root: Path) -> None:
    zipped(root / "GTSRB_Final_Training_Images.zip", root / "gtsrb", "GTSRB/Final_Training", "GTSRB/Readme-Images.txt")
    zipped(root / "GTSRB_Final_Test_Images.zip", root / "gtsrb", "GTSRB/Final_Test")
    zipped(root / "GTSRB_Final_Test_GT.zip", root / "gtsrb", "GT-final_test.csv")
    shutil.rmtree(root / "gtsrb")


@pytest.mark.parametrize("packed", [False, True])
def test_gtsrbs_final_archive_is_read_and_its_split_named(
    packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    published.gtsrb(tmp_path / "other")
    convert.convert("GTSRB", tmp_path / "other", tmp_path / "papers", counted=False)
    published.gtsrb_final(tmp_path / "public")
    files = sorted((tmp_path / "public/gtsrb/GTSRB/Final_Training").rglob("*.ppm"))
    wanted = [(int(file.parent.name), Image.open(file).convert("RGB").tobytes()) for file in files]
    if packed:
        pack_final(tmp_path / "public")
    said = convert.convert("GTSRB", tmp_path / "public", tmp_path / "data", counted=False)
    assert capsys.readouterr().err.count("unpacking") == 3 * packed, "each archive once"
    assert "172 training and 86 test images of GTSRB's final archives" in said
    assert converted("GTSRB", tmp_path / "data", "train") == wanted
    assert converted("GTSRB", tmp_path / "data", "test") == converted("GTSRB", tmp_path / "papers", "test")
    (note,) = full.split_notes(["GTSRB"], tmp_path / "data")
    assert "all 39,209 training images" in note and "26,640" in note
    assert "39,209" not in full.split_notes(["GTSRB"], tmp_path / "papers")[0]


def test_of_gtsrbs_two_training_archives_the_papers_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    published.gtsrb_final(tmp_path / "public")
    pack_final(tmp_path / "public")
    published.gtsrb(tmp_path / "public")
    zipped(tmp_path / "public/GTSRB-Training_fixed.zip", tmp_path / "public/gtsrb", "GTSRB/Training")
    shutil.rmtree(tmp_path / "public/gtsrb")
    said = convert.convert("GTSRB", tmp_path / "public", tmp_path / "data", counted=False)
    assert "as torchvision takes them" in said
    assert "Final_Training" not in capsys.readouterr().err, "what is not read is not unpacked"


@pytest.mark.parametrize(("tables", "names"), [(False, False), (False, True), (True, False)])
def test_fer2013s_copy_on_the_hub_is_read_with_its_classes_in_the_heads_order(
    tables: bool, names: bool, tmp_path: Path
) -> None:
    published.fer2013_hub(tmp_path / "public", tables, names)
    said = convert.convert("FER2013", tmp_path / "public", tmp_path / "data", counted=False)
    assert "the hub's Jeneral/fer-2013" in said
    for seed, split in enumerate(published.SPLITS):
        labels = published.labels_of(7)
        found = converted("FER2013", tmp_path / "data", split)
        assert [label for label, _ in found] == labels, "alphabetical there as in the head"
        stored = published.encoded(Image.fromarray(published.pixels(len(labels), seed, 48, 1)[0]), "JPEG")
        assert found[0][1] == Image.open(io.BytesIO(stored)).convert("RGB").tobytes()
    assert "Jeneral/fer-2013" in full.split_notes(["FER2013"], tmp_path / "data")[0]


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([Evil()], "os|posix"), ({"img_bytes": b""}, "a dict, not a list"), ([[1]], "no image with its class"),
        ([{"img_bytes": b"", "labels": 7}], "cannot be read"), ([{"img_bytes": b""}], "has no 'labels'"),
    ],
)  # fmt: skip
def test_a_pickle_of_something_else_is_refused_and_never_run(
    content: object, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    published.fer2013_hub(tmp_path / "public")
    (tmp_path / "public/fer-2013/train.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=says) as caught:
        convert.convert("FER2013", tmp_path / "public", tmp_path / "data", counted=False)
    assert "train.pt" in str(caught.value) and not (tmp_path / "evil").exists()


def program(folder: Path, name: str, body: str) -> None:
    """A program on the search path; the archive and the folder are in its arguments, as that program takes them."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def rar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RESISC45 as it is downloaded; a stand-in for a program takes its content from elsewhere; no other is there."""
    SETS["RESISC45"][0](tmp_path / "public")
    shutil.move(tmp_path / "public/resisc45/NWPU-RESISC45", tmp_path / "content/NWPU-RESISC45")
    (tmp_path / "public/resisc45/NWPU-RESISC45.rar").write_bytes(b"Rar!\x1a\x07\x01\x00")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "public/resisc45"


FOLDER = {"unar": "$4", "bsdtar": "$5", "7zz": "${4#-o}", "7z": "${4#-o}", "unrar": "$5"}


@pytest.mark.parametrize("name", FOLDER)
def test_a_rar_is_unpacked_by_a_program_that_is_there(rar: Path, name: str, tmp_path: Path) -> None:
    copy = f'case "$*" in *{rar}/NWPU-RESISC45.rar*) {shutil.which("cp", path="/usr/bin:/bin")} -r'
    program(tmp_path / "bin", name, f'{copy} {tmp_path}/content/NWPU-RESISC45 "{FOLDER[name]}" ;; *) exit 3;; esac')
    said = convert.convert("RESISC45", rar.parent, tmp_path / "data", counted=False)
    assert "90 training and 90 test images" in said and len(folded("RESISC45")) == 45
    assert not (rar / "NWPU-RESISC45").exists(), "what is unpacked goes again"


def test_without_such_a_program_it_is_said_what_to_type(rar: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a rar archive, and none of the programs") as caught:
        convert.convert("RESISC45", rar, tmp_path / "data", counted=False)
    assert "unar NWPU-RESISC45.rar" in caught.value.hint and "7z x NWPU-RESISC45.rar" in caught.value.hint
    assert all(name in str(caught.value) for name in unpack.UNRAR)


def test_a_rar_that_fails_or_leads_outside_leaves_nothing(rar: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin", "unar", "echo 'Wrong checksum' >&2; exit 2")
    with pytest.raises(UserError, match="unar could not unpack .*Wrong checksum"):
        convert.convert("RESISC45", rar, tmp_path / "data", counted=False)
    program(tmp_path / "bin", "unar", f'{shutil.which("ln", path="/usr/bin:/bin")} -s /etc "$4/NWPU-RESISC45"')
    with pytest.raises(UserError, match="holds a link"):
        convert.convert("RESISC45", rar, tmp_path / "data", counted=False)
    assert not list((tmp_path / "data").iterdir())


def test_resisc45_without_its_lists_says_where_they_are(tmp_path: Path) -> None:
    SETS["RESISC45"][0](tmp_path / "public")
    (tmp_path / "public/resisc45/resisc45-train.txt").unlink()
    with pytest.raises(UserError, match="without resisc45-train.txt .*storage.googleapis.com"):
        convert.convert("RESISC45", tmp_path / "public", tmp_path / "data", counted=False)
