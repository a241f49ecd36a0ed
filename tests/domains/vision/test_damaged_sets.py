"""Foreign images, labels and archives: read as they are meant, or named, all in one pass, each by its file or row."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from helpers.hub_data import damaged_images, encoded, image_folder, parquet, pictures, web_dataset, zip_folder
from helpers.towers import tiny, write_family
from PIL import Image

from benchmark import suites
from benchmark.cli import main as cli
from benchmark.common import damage
from benchmark.common.damage import Damage
from benchmark.common.errors import UserError
from benchmark.domains.vision import check
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import BACKBONES
from benchmark.domains.vision.images import picture
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records.store import Store
from benchmark.suites.bench import Bench

DIGITS = full.info("MNIST").classes
SPLITS = {"train": 20, "test": 20}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root; the manifests expect 20 test images."""
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    real = full.info

    def expecting(task: str, family: str | None = None) -> full.SetInfo:
        about = real(task, family)
        return about.model_copy(update={"test": about.test.model_copy(update={"n": 20})})

    monkeypatch.setattr(full, "info", expecting)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def load(root: Path, split: str = "test", task: str = "MNIST"):
    return full.load_split(task, split, root=root, image_size=16)


def failure(root: Path, split: str = "test", task: str = "MNIST") -> str:
    with pytest.raises(UserError) as error:
        load(root, split, task)
    return str(error.value)


def notes(root: Path, task: str = "MNIST") -> str:
    found = check.check_set(task, root)
    assert found.level == "error"
    return "\n".join(found.notes)


def rewrite(path: Path, change: Callable[[list[dict]], None]) -> None:
    """Change the rows of a parquet file; its schema stays, but for a label column that was changed to fractions."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    columns = {"image": pa.array([row["image"] for row in rows], table.schema.field("image").type)}
    columns["label"] = pa.array([row["label"] for row in rows])
    about = {"info": {"features": {"image": {"_type": "Image"}}}}
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(about)}), path)


def test_every_kind_of_damaged_image_is_named_with_its_file_in_one_pass(root: Path) -> None:
    image_folder(root / "MNIST", SPLITS, DIGITS)
    for split in SPLITS:
        files = sorted((root / "MNIST" / split).rglob("*.png"))
        for path, content in zip(files[3:], damaged_images().values(), strict=False):
            path.write_bytes(content)
    whys = {"garbled": "broken PNG file", "text": "MAX_TEXT_CHUNK", "bomb": "400000000 pixels",
            "empty": "an empty file", "page": "sees no image in it; it begins with b'<html>",
            "half": "truncated"}  # fmt: skip
    assert list(whys) == list(damaged_images())
    for split in SPLITS:
        files = [f"{split}/{path.parent.name}/{path.name}" for path in sorted((root / "MNIST" / split).rglob("*.png"))]
        for told in (failure(root, split), notes(root)):
            assert f"MNIST, split '{split}': 6 damaged samples" in told and "BytesIO" not in told
            for file, why in zip(files[3:], whys.values(), strict=False):
                (line,) = (line for line in told.splitlines() if file in line)
                assert why in line


def test_damaged_rows_of_every_table_are_named(root: Path) -> None:
    damaged = damaged_images()
    parquet(root / "MNIST", SPLITS, DIGITS)
    first = root / "MNIST" / "data" / "test-00000-of-00001.parquet"
    whole = pq.read_table(first)
    pq.write_table(whole.slice(0, 12), first.with_name("test-00000-of-00002.parquet"))
    pq.write_table(whole.slice(12), first.with_name("test-00001-of-00002.parquet"))
    first.unlink()

    def spoil(rows: list[dict]) -> None:
        rows[1]["image"] = None
        rows[4]["image"] = {"bytes": None, "path": "/etc/hostname"}
        rows[7]["image"]["bytes"] = damaged["half"]

    for shard in ("test-00000-of-00002", "test-00001-of-00002"):
        rewrite(first.with_name(f"{shard}.parquet"), spoil)
    for told in (failure(root), notes(root)):
        assert "MNIST, split 'test': 6 damaged samples" in told
        for shard in ("test-00000-of-00002", "test-00001-of-00002"):
            assert f"data/{shard}.parquet, row 1: a row without an image" in told
            assert f"data/{shard}.parquet, row 4: a row without an image" in told
            assert f"data/{shard}.parquet, row 7: image file is truncated" in told

    web_dataset(root / "SVHN", SPLITS, 10)
    tar = root / "SVHN" / "wds" / "test" / "0.tar"
    content = tar.read_bytes()
    for name in (b"s0002.png", b"s0011.png"):
        at = content.index(name) + 512
        content = content[:at] + b"<html>" + content[at + 6 :]
    tar.write_bytes(content)
    told = failure(root, task="SVHN")
    assert "2 damaged" in told and "wds/test/0.tar, s0002: Pillow sees" in told and "wds/test/0.tar, s0011:" in told


def test_damaged_members_of_a_zip_are_named(root: Path) -> None:
    zip_folder(root / "MNIST", SPLITS, DIGITS)
    path = root / "MNIST" / "test.zip"
    content = bytearray(path.read_bytes())
    for member in ("3/00003.png", "8/00018.png"):
        content[content.index(member.encode()) + 60] ^= 0xFF
    path.write_bytes(content)
    for told in (failure(root), notes(root)):
        assert "2 damaged samples" in told
        assert "test.zip, 3/00003.png: Bad CRC-32" in told and "test.zip, 8/00018.png: Bad CRC-32" in told


@pytest.mark.parametrize("blocks", [16, 60, 62])  # within the first samples, which decide on the columns, and after
def test_a_tar_that_is_cut_short_is_named_and_the_others_are_still_looked_at(root: Path, blocks: int) -> None:
    web_dataset(root / "MNIST", SPLITS, 10)
    whole = root / "MNIST" / "wds" / "test" / "0.tar"
    content = bytearray(whole.read_bytes())
    content[content.index(b"s0003.png") + 512] ^= 0xFF
    whole.with_name("1.tar").write_bytes(content)
    whole.write_bytes(whole.read_bytes()[: 512 * blocks - 100])
    assert re.search(r"wds/test/0\.tar.*(unexpected end of data|is cut short after \d+ samples)", failure(root))
    told = notes(root)
    if blocks > 16:
        assert re.search(r"wds/test/0.tar: (cannot be read|is cut short) after \d+ samples", told)
        assert "wds/test/1.tar, s0003: " in told


@pytest.mark.parametrize("end", ["parquet", "tar", "zip"])
@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>"])
def test_a_table_or_archive_that_is_none_is_named(root: Path, end: str, content: bytes) -> None:
    made = {"parquet": parquet, "tar": web_dataset, "zip": zip_folder}[end]
    made(root / "MNIST", SPLITS, 10 if end == "tar" else DIGITS)
    files = sorted((root / "MNIST").rglob(f"*.{end}"))
    for path in files:
        path.write_bytes(content)
    for told in (failure(root), notes(root)):
        assert all(f"{path.relative_to(root / 'MNIST')}: " in told for path in files)


def test_a_run_names_at_most_a_thousand_and_says_how_many_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"row {i}: an empty file" for i in range(1203)]
    assert str(damage.error("MNIST", lines, "")).splitlines()[-2:] == ["    row 999: an empty file", "    and 203 more"]
    assert len(damage.message("MNIST", lines).splitlines()) == 1204


def test_class_folders_in_a_zip_are_read_as_the_folders_are(root: Path) -> None:
    zip_folder(root / "MNIST", SPLITS, DIGITS)
    image_folder(root / "plain" / "MNIST", SPLITS, DIGITS)
    for split in ("test", "train", "val"):
        zipped, plain = load(root, split), load(root / "plain", split)
        assert np.array_equal(zipped.images, plain.images) and np.array_equal(zipped.labels, plain.labels)
    found = check.check_set("MNIST", root)
    assert found.level == "ok" and found.place.startswith("zipped image folder") and found.count == "20"
    # One folder of the zip's own name around them; and none at all.
    path = root / "MNIST" / "test.zip"
    with zipfile.ZipFile(path) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    for rename in (lambda name: f"test/{name}", lambda name: name.replace("/", "-")):
        with zipfile.ZipFile(path, "w") as new:
            for name, content in contents.items():
                new.writestr(rename(name), content)
        full.open_copy.cache_clear()
        if rename("a/b") == "test/a/b":
            assert np.array_equal(load(root).labels, load(root / "plain").labels)
        else:
            assert "test.zip: 0-00000.png stands in no class folder" in failure(root)


def test_images_outside_of_class_folders_have_no_class(root: Path) -> None:
    image_folder(root / "PCAM", SPLITS, [".", "."])
    told = failure(root, task="PCAM")
    assert "test/00000.png stands in no class folder" in told and "test/CLASS" in told


def test_a_tar_whose_names_have_dots_is_refused_before_its_images_are_read(root: Path) -> None:
    web_dataset(root / "MNIST", SPLITS, 10, name="img.{:04d}")
    told = failure(root)
    assert "0.tar: the images img.0000.png and img.0001.png are one sample, 'img'" in told
    assert "write img_0001.png" in told and "0003" not in told


def test_a_list_of_many_columns_is_cut(root: Path) -> None:
    extra = {f"column {i}": i for i in range(30)}
    parquet(root / "SVHN", SPLITS, DIGITS, label="digit", extra=extra, image="photo")
    path = root / "SVHN" / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path).drop_columns(["digit"])
    for each in path.parent.iterdir():
        pq.write_table(table.replace_schema_metadata(None), each)
    told = failure(root, task="SVHN")
    assert "photo (" in told and "column 6" in told and "and 23 more" in told and "column 20" not in told


def test_a_training_folder_of_one_class_keeps_its_number(root: Path) -> None:
    image_folder(root / "MNIST", {"test": 20}, DIGITS)
    image_folder(root / "MNIST", {"train": 12}, ["3"])
    assert load(root, "train").labels.tolist() == [3] * 11
    assert load(root).labels.tolist() == sorted(list(range(10)) * 2)


@pytest.mark.parametrize("few", [9, 1])
def test_too_few_training_images_for_a_validation_split_are_an_error_that_says_how_many_it_needs(root, few) -> None:
    parquet(root / "MNIST", {"train": few, "test": 20}, DIGITS)
    told = failure(root, "val")
    assert f"a tenth of the training images, which are {few}; ten or more are needed" in told
    assert len(load(root, "train")) == few
    parquet(root / "SVHN", {"train": 10, "test": 20}, DIGITS)
    assert len(load(root, "val", "SVHN")) == 1


def test_a_label_that_is_no_whole_number_or_no_class_is_named_with_its_row(root: Path) -> None:
    parquet(root / "MNIST", SPLITS, DIGITS)
    odd = {2: 0.5, 3: 1.5, 5: float("nan"), 7: None, 11: 10.0, 13: -1.0, 17: float("inf")}

    def spoil(rows: list[dict]) -> None:
        for number, row in enumerate(rows):
            row["label"] = odd.get(number, float(row["label"])) if number in odd else float(row["label"])

    for split in SPLITS:
        rewrite(root / "MNIST" / "data" / f"{split}-00000-of-00001.parquet", spoil)
    for told in (failure(root), notes(root)):
        assert "7 damaged samples" in told
        for number, label in odd.items():
            assert f"row {number}: the label {label!r}; 10 classes are expected" in told
    odd.clear()
    parquet(root / "SVHN", SPLITS, DIGITS)
    for split in SPLITS:
        rewrite(root / "SVHN" / "data" / f"{split}-00000-of-00001.parquet", spoil)
    assert load(root, task="SVHN").labels.tolist() == [i % 10 for i in range(20)]


def test_the_check_fails_on_a_damaged_training_image_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(root / "MNIST", SPLITS, DIGITS)
    assert cli.main(["assets", "data", "check", "MNIST", "--root", str(root)]) == 0
    (root / "MNIST" / "train" / "4" / "00014.png").write_bytes(b"")
    assert cli.main(["assets", "data", "check", "MNIST", "--root", str(root)]) == 1
    assert "MNIST, split 'train': 1 damaged sample\n" in (said := capsys.readouterr().out)
    assert "train/4/00014.png: an empty file" in said


RAMP = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)


def tiff(values: np.ndarray, kind: int) -> bytes:
    """A grey TIFF of numbers without a sign (1), with one (2), or floats (3), as they lie in memory."""
    order, data = ("<", values.tobytes()) if values.dtype.byteorder != ">" else (">", values.tobytes())
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, height), (279, len(data)), (339, kind)]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    entries = b"".join(struct.pack(f"{order}HHII", number, 4, 1, value) for number, value in tags)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


GREY = {
    "PNG of 16 bits": encoded(Image.fromarray(RAMP)),
    "TIFF of 16 bits": encoded(Image.fromarray(RAMP), "TIFF"),
    "TIFF of 16 bits, big end first": tiff(RAMP.astype(">u2"), 1),
    "TIFF of 16 bits with a sign": tiff((RAMP // 2).astype("<i2"), 2),
    "TIFF of 32 bits": tiff(RAMP.astype("<u4") * 65537, 1),
    "TIFF of 32 bits with a sign": encoded(Image.fromarray(RAMP.astype(np.int32) * 32768), "TIFF"),
    "TIFF of floats": encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    "PGM of 16 bits": encoded(Image.fromarray(RAMP), "PPM"),
}


@pytest.mark.parametrize("kind", GREY)
def test_grey_beyond_8_bits_is_scaled_by_the_range_of_its_type(kind: str) -> None:
    found = np.asarray(picture(GREY[kind]).convert("RGB")).astype(int)
    assert np.abs(found - np.rint(RAMP / 257)[..., None]).max() <= 1 and len(np.unique(found)) == 256


def test_grey_beyond_8_bits_reaches_the_cache_scaled(root: Path) -> None:
    image_folder(root / "MNIST", SPLITS, DIGITS)
    flat = np.full((24, 32), 25_700, np.uint16)
    for path in sorted((root / "MNIST" / "test").rglob("*.png")):
        Image.fromarray(flat).save(path)
    assert (load(root).images == 100).all()


@pytest.mark.parametrize("values", [[0, 255.0], [-0.5, 1.0], [0, float("nan")]])
def test_floats_outside_of_0_to_1_are_damage_and_not_guessed_at(values: list[float]) -> None:
    with pytest.raises(Damage, match="grey values from .* expected 0 to 1"):
        picture(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_exif_orientation_is_decided_as_datasets_decides_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(pictures(1)[0], kind, exif=exif)
    decoded = ImageFeature().decode_example({"bytes": data, "path": None})
    assert np.array_equal(np.asarray(picture(data)), np.asarray(decoded))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(picture(data)), stored) == (orientation == 1)


def test_16_bits_are_turned_upright_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = np.asarray(picture(encoded(Image.fromarray(RAMP), "PNG", exif=exif)))
    assert np.array_equal(found, np.rot90(np.rint(RAMP / 257), -1))


def test_an_orientation_reaches_the_cache(root: Path) -> None:
    parquet(root / "MNIST", SPLITS, DIGITS, size=(32, 32))
    path = root / "MNIST" / "data" / "test-00000-of-00001.parquet"
    before = np.array(load(root).images)
    exif = Image.Exif()
    exif[0x0112] = 3

    def turn(rows: list[dict]) -> None:
        for number, row in enumerate(rows):
            row["image"]["bytes"] = encoded(pictures(20, 1, (32, 32))[number], exif=exif)

    rewrite(path, turn)
    full.open_copy.cache_clear()
    assert np.array_equal(load(root).images, before[:, ::-1, ::-1])


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`vision-8` on a tiny ViT-B-32 and twenty images a split and task; only nine train MNIST."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    suite = suites.load("vision-8")
    about = {task: full.info(task) for task in suite.tasks}
    for task, each in about.items():
        splits = {each.splits["train"]: 9 if task == "MNIST" else 20, each.splits["test"]: 20}
        parquet(root / each.folder, splits, each.classes, label=each.label)
    classes = {task: each.classes for task, each in about.items()}
    write_family(root / "checkpoints" / "tall" / "ViT-B-32", BACKBONES["ViT-B-32"], classes, "tall")
    return suites.open_bench(suite, family="tall", data_root=root, checkpoints=root / "checkpoints")


def test_a_run_that_meets_damage_keeps_what_it_had_computed(bench: Bench, root: Path) -> None:
    (path,) = (root / "GTSRB" / "data").glob("test-*.parquet")

    def spoil(rows: list[dict]) -> None:
        rows[3]["image"] = None
        rows[18]["image"]["bytes"] = b""

    rewrite(path, spoil)
    runs = plan(bench, ["ties", "task_arithmetic:scale=val"], seeds=[0])
    records = execute(runs, bench, Store(root / "out"), Options())
    assert [record.status for record in records] == ["failed"] * 4
    for record in records[:3]:
        assert list(record.tasks) == ["SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN"] and record.error is not None
        assert "GTSRB, split 'test': 2 damaged samples" in record.error.message
        assert "row 3: a row without an image" in record.error.message
        assert "row 18: an empty file" in record.error.message
    assert records[3].error is not None and records[3].error.type == "UserError"
    assert "MNIST" in records[3].error.message and "ten or more are needed" in records[3].error.message
    cached = {path.name for path in (root.parent / "cache" / "vision").glob("*-test-*.npy")}
    assert {name.split("-")[0] for name in cached} == set(bench.tasks) - {"GTSRB"}
