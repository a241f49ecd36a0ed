"""The data sets of the full vision suites (`vision-8/14/20`): what each must be, and its images ready for a backbone.

`sets/<Task>.yaml` is the manifest of a data set; `sets/<Task>@<family>.yaml` takes its place for a checkpoint family
that means another one by the same name (EMNIST: digits or letters). The files lie under a root (`--data-root`, else
`$SYMERGE_DATA`), one folder a data set, in the hub's own layout, as folders of images, or as webdataset tars. A split
is decoded, resized and cropped once into `benchmark.data.cache`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shlex
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmark.data import cache
from benchmark.data.local import Copy, batched, encoded, open_copy
from benchmark.data.vision import ImageSplit
from benchmark.errors import UserError, shown, unknown
from benchmark.paths import of_variable, resolved

SETS = Path(__file__).resolve().parent / "sets"
UNPINNED = "unpinned: give --revision"
SPLITS = ("train", "validation", "test")
VALIDATION_FRACTION, VALIDATION_MOST, VALIDATION_SEED = 0.1, 5000, 0
# Raised when the steps between file and cached pixels change.
RECIPE = "open_clip evaluation transform: shorter side bicubic, centre crop, RGB; 1"


class Test(BaseModel):
    """Size of the test split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(description="number of images")
    verified: bool = Field(description="read in the named source; otherwise a difference is only warned of")
    source: str = Field(description="where the number stands")


class SetInfo(BaseModel):
    """One data set as its manifest says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the task's name in the suites")
    hub: str | None = Field(description="id of the copy on the hub, if one is known")
    config: str | None = Field(default=None, description="the hub copy's configuration")
    revision: str | None = Field(default=None, description="pinned commit of the hub copy; None: unpinned")
    folder: str = Field(description="its folder under the data root")
    splits: dict[str, str] = Field(description="the data set's own names of our train and test split")
    label: str = Field(default="label", description="the label column")
    test: Test = Field(description="size of the test split")
    wrong_sizes: dict[int, str] = Field(default_factory=dict, description="what another size of the test split means")
    traps: list[str] = Field(default_factory=list, description="what goes wrong with this data set")
    classes_source: str = Field(description="where names and order of the classes come from")
    classes: list[str] = Field(description="words for prompts, in the head's order")
    also: list[list[str]] = Field(default_factory=list, description="other spellings of the classes, same order")

    @property
    def counts(self) -> dict[str, int]:
        """Images per split, as far as a source gives them."""
        return {"test": self.test.n}

    @property
    def pinned(self) -> str:
        """The hub copy's revision, or what to type where none is pinned."""
        return self.revision or UNPINNED


def names() -> list[str]:
    """The names of all data sets."""
    return sorted(p.stem for p in SETS.glob("*.yaml") if "@" not in p.stem)


@functools.cache
def info(task: str, family: str | None = None) -> SetInfo:
    """The manifest of a task's data set, for a checkpoint family where that matters. Raises UserError if unknown."""
    if task not in names():
        raise unknown("data set", task, names())
    own = SETS / f"{task}@{family}.yaml"
    path = own if family and own.is_file() else SETS / f"{task}.yaml"
    return SetInfo.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def data_root(root: str | os.PathLike | None = None) -> Path:
    """``root``, else ``$SYMERGE_DATA``, resolved. Raises UserError where neither names a folder."""
    chosen = resolved(root) if root is not None else of_variable("SYMERGE_DATA")
    if chosen is None:
        raise UserError(
            "the full suites read their images from a folder, and none was named",
            "Type --data-root DIR (or set SYMERGE_DATA). To fill one: ./run_all.sh assets data --help",
        )
    if not chosen.is_dir():
        raise UserError(f"the data root {shown(chosen)} is not a folder", "Type --data-root DIR with an existing one.")
    return chosen


def copy_of(about: SetInfo, root: str | os.PathLike | None = None) -> Copy:
    """The data set's local copy. Raises UserError, naming the command that fetches it, where there is none."""
    folder = data_root(root) / about.folder
    if not folder.is_dir():
        root = shlex.quote(shown(folder.parent))
        revision = "" if about.revision else f" --revision {about.name}=COMMIT"
        fetch = f"./run_all.sh assets data fetch {about.name} --root {root}{revision} --download"
        where = f"hub id {about.hub}, {about.pinned}\n  {fetch}" if about.hub else "no hub copy is known; copy it there"
        raise UserError(f"no data of {about.name}: {shown(folder)} does not exist", where)
    return open_copy(folder.resolve(), about.config)


def sha256(task: str, split: str, root: str | os.PathLike | None = None, family: str | None = None) -> str:
    """Hash of the files behind a split (validation: those of train), remembered while the files stay unchanged."""
    about = info(task, family)
    return copy_of(about, root).facts(_own_split(about, split))[1]


def load_split(
    task: str,
    split: str,
    *,
    root: str | os.PathLike | None = None,
    image_size: int = 224,
    family: str | None = None,
    counted: bool = True,
) -> ImageSplit:
    """One split, resized and cropped for the backbone, from the cache if it is there, else decoded now.

    Args:
        split: train, validation (or val) or test. Validation is a tenth of the training images, at most 5,000, drawn
            with seed 0 as the papers do (mlfoundations/task_vectors, ``split_train_into_train_val``), and train is the
            rest. A validation split of the data set's own is not used.
        root: the data root, else ``$SYMERGE_DATA``.
        counted: compare the size of the test split with the manifest's; a rehearsal's few images are not.
        image_size: of the backbone; images are uint8 ``[N, image_size, image_size, 3]``.

    Raises:
        UserError: no or unreadable data; a class order or a count that the manifest contradicts.
    """
    about = info(task, family)
    split = "validation" if split == "val" else split
    copy, own = copy_of(about, root), _own_split(about, split)
    image, label, found = copy.columns(own, about.label)
    level, message = compare_classes(about, found)
    if level == "error":
        raise UserError(f"{task} in {copy.folder}: {message}", _cite(about))
    if level == "warning":
        _warn(f"{task} in {copy.folder}: {message}")
    total, data_hash = copy.facts(own)
    if split == "test" and counted:
        level, message = compare_count(about, total)
        if level == "error":
            raise UserError(f"{task} in {copy.folder}: {message}", _cite(about))
        if level == "warning":
            _warn(f"{task} in {copy.folder}: {message}")
    chosen = None if split == "test" else part_of_train(total, split)
    rows = total if chosen is None else len(chosen)
    key = hashlib.sha256(f"{data_hash}\n{image}\n{label}\n{RECIPE}\n{split}".encode()).hexdigest()[:20]
    try:
        images, labels = cache.load(
            f"{about.folder}-{split}-{image_size}-{key}",
            (rows, image_size, image_size, 3),
            lambda: _decode(about, copy.rows(own, image, label), image, label, found, chosen, image_size, total),
        )
    except cache.CacheError as error:
        raise UserError(str(error)) from None
    return ImageSplit(images, labels, about.classes)


def _own_split(about: SetInfo, split: str) -> str:
    split = "validation" if split == "val" else split
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return about.splits["test" if split == "test" else "train"]


def part_of_train(total: int, split: str) -> np.ndarray:
    """Sorted indices of ``"validation"``, or of the rest for ``"train"``, among ``total`` training images."""
    import torch

    size = min(int(total * VALIDATION_FRACTION), VALIDATION_MOST)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(VALIDATION_SEED)).numpy()
    return np.sort(order[total - size :] if split == "validation" else order[: total - size])


def compare_count(about: SetInfo, found: int) -> tuple[str, str]:
    """``("ok" | "warning" | "error", message)`` for a test split of ``found`` images."""
    expected = about.test
    if found == expected.n:
        return "ok", f"{found:,} test images"
    message = f"{found:,} test images, expected {expected.n:,} ({expected.source})"
    if found in about.wrong_sizes:
        return "error", f"{message}; {found:,} is {about.wrong_sizes[found]}"
    return ("error", message) if expected.verified else ("warning", f"{message}; not verified, so not refused")


def compare_classes(about: SetInfo, found: list[str] | None) -> tuple[str, str]:
    """``("ok" | "warning" | "error", message)`` for the class names in a data set's own features, in label order.

    A head knows classes by their index only, so a data set with the same classes in another order gives wrong scores
    and no error of its own. Where the names are other words altogether only their number can be compared.
    """
    wanted = about.classes
    if found is None:
        return "ok", f"{len(wanted)} classes, unnamed in the data"
    if len(found) != len(wanted):
        return "error", f"{len(found)} classes, the head has {len(wanted)}"
    lists = [[_plain(word) for word in words] for words in (wanted, *about.also)]
    plain = [_plain(word) for word in found]
    if plain in lists:
        return "ok", f"{len(wanted)} classes in the head's order"
    if all(name.isdecimal() for name in plain) and not any(word.isdecimal() for words in lists for word in words):
        wrong = [name for index, name in enumerate(found) if int(name) != index]
        if wrong:
            return "error", f"label {found.index(wrong[0])} is named {wrong[0]!r}: names were sorted as text"
        return "ok", f"{len(wanted)} classes, numbered in the data"
    alike = [words for words in lists if len(words) == len(wanted)]
    if all(any(words[i] == name for words in alike) for i, name in enumerate(plain)):
        return "ok", f"{len(wanted)} classes in the head's order, in spellings of several copies"
    for words in lists:
        moved = [i for i, name in enumerate(plain) if name in words and words.index(name) != i]
        if moved:
            return "error", (
                f"label {moved[0]} is {found[moved[0]]!r}, the head has {wanted[moved[0]]!r} there "
                f"and {found[moved[0]]!r} at {words.index(plain[moved[0]])}: another class order"
            )
    at = next(i for i, name in enumerate(plain) if all(words[i] != name for words in lists))
    return "warning", (
        f"the data call class {at} {found[at]!r}, the manifest {wanted[at]!r}; the order could not be compared in full"
    )


def _plain(word: str) -> str:
    return "".join(char for char in word.lower() if char.isalnum())


def _cite(about: SetInfo) -> str:
    traps = [f"Known trap: {trap}" for trap in about.traps]
    return "\n  ".join([*traps, f"To see what is found: ./run_all.sh assets data check {about.name} --root DIR"])


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def transform(image_size: int) -> Any:
    """open_clip's evaluation transform up to the pixels: a PIL image to an RGB one of ``image_size``, no tensor."""
    import open_clip
    from torchvision.transforms import Compose, Normalize, ToTensor

    whole = open_clip.image_transform(image_size, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3)
    steps = [step for step in whole.transforms if not isinstance(step, (ToTensor, Normalize))]
    return Compose([step for step in steps if "ToTensor" not in type(step).__name__])


def _decode(
    about: SetInfo,
    rows: Any,
    image: str,
    label: str,
    found: list[str] | None,
    chosen: np.ndarray | None,
    image_size: int,
    total: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from PIL import Image
    from tqdm import tqdm

    shrink, classes = transform(image_size), len(about.classes)
    wanted = None if chosen is None else np.isin(np.arange(total), chosen)
    index_of = {name: i for i, name in enumerate(found or about.classes)}

    def pixels(row: dict[str, Any]) -> np.ndarray:
        return np.asarray(shrink(Image.open(io.BytesIO(encoded(row[image])))))

    def numbered(value: Any) -> int:
        number = index_of.get(value, -1) if isinstance(value, str) else -1 if value is None else int(value)
        if not 0 <= number < classes:
            raise UserError(f"{about.name} has the label {value!r}; {classes} classes are expected", _cite(about))
        return number

    kept = (row for i, row in enumerate(rows) if wanted is None or wanted[i])
    count = total if chosen is None else len(chosen)
    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        tqdm(total=count, desc=f"decoding {about.name}", unit="image", delay=2, disable=None) as bar,
    ):
        for block in batched(kept, 256):
            try:
                images = np.stack(list(pool.map(pixels, block)))
            except OSError as error:
                raise UserError(f"{about.name}: an image is damaged: {error}", "Fetch the files again.") from None
            yield images, np.array([numbered(row[label]) for row in block], dtype=np.int64)
            bar.update(len(block))
