"""The data sets of the full vision suites (`vision-8/14/20`): what each must be, and its images ready for a backbone.

`sets/<Task>.yaml` is the manifest of a data set; `sets/<Task>@<family>.yaml` takes its place for a checkpoint family
that means another one by the same name (EMNIST: digits or letters). The files lie under a root (`--data-root`, else
`$SYMERGE_DATA`), one folder a data set, in the hub's own layout, as folders of images, or as webdataset tars. A split
is decoded, resized and cropped once into `benchmark.common.cache`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmark.common import cache, damage
from benchmark.common.damage import Damage
from benchmark.common.errors import Missing, UserError, shown, unknown
from benchmark.common.files import read_object
from benchmark.common.paths import of_variable, resolved
from benchmark.domains.vision import inspection
from benchmark.domains.vision.archives import COPY_AGAIN
from benchmark.domains.vision.embedded import ImageSplit
from benchmark.domains.vision.expected import compare_classes as compare_classes
from benchmark.domains.vision.expected import compare_count as compare_count
from benchmark.domains.vision.expected import plain as plain
from benchmark.domains.vision.images import picture
from benchmark.domains.vision.local import Copy, Sample, batched, open_copy
from benchmark.suites.trial import spread_over

SETS = Path(__file__).resolve().parent / "sets"
UNPINNED = "unpinned: give --revision"
SPLITS = ("train", "validation", "test")
# What `assets data fetch` and `convert` note beside a data set: where it is from, and which images its splits are.
ORIGIN = ".origin.json"
VALIDATION_FRACTION, VALIDATION_MOST, VALIDATION_SEED = 0.1, 5000, 0
# Raised when the steps between file and cached pixels change.
RECIPE = "EXIF orientation, 8 bits by range; open_clip evaluation transform: shorter side bicubic, centre crop, RGB; 2"


class Test(BaseModel):
    """Size of the test split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(description="number of images")
    verified: bool = Field(description="read in the named source; otherwise a difference is only warned of")
    source: str = Field(description="where the number stands")


class Download(BaseModel):
    """What is fetched of a data set, and about what it takes on the disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gib: float = Field(description="size in GiB")
    verified: bool = Field(description="read in the named source")
    source: str = Field(description="where the number stands")


class SetInfo(BaseModel):
    """One data set as its manifest says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the task's name in the suites")
    family: str | None = Field(default=None, description="the one family that means this data set by the name")
    hub: str | None = Field(description="id of the copy on the hub, if one is known")
    config: str | None = Field(default=None, description="the hub copy's configuration")
    revision: str | None = Field(default=None, description="pinned commit of the hub copy; None: unpinned")
    folder: str = Field(description="its folder under the data root")
    splits: dict[str, str] = Field(description="the data set's own names of our train and test split")
    label: str = Field(default="label", description="the label column")
    download: Download | None = Field(default=None, description="how much is fetched; None: no source says")
    test: Test = Field(description="size of the test split")
    wrong_sizes: dict[int, str] = Field(default_factory=dict, description="what another size of the test split means")
    split: dict[str, str] = Field(
        default_factory=dict,
        description="which images the papers' splits are, where that is not plain: by checkpoint family, else `any`",
    )
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
    apart = bool(family) and own.is_file()
    path = own if apart else SETS / f"{task}.yaml"
    about = SetInfo.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    return about.model_copy(update={"family": family}) if apart else about


def data_root(root: str | os.PathLike | None = None) -> Path:
    """``root``, else ``$SYMERGE_DATA``, resolved. Raises UserError where neither names a folder."""
    chosen = resolved(root) if root is not None else of_variable("SYMERGE_DATA")
    if chosen is None:
        raise Missing(
            "the full suites read their images from a folder, and none was named",
            "Type --data-root DIR (or set SYMERGE_DATA). To fill one: ./run_all.sh assets data --help",
        )
    if not chosen.is_dir():
        raise Missing(f"the data root {shown(chosen)} is not a folder", "Type --data-root DIR with an existing one.")
    return chosen


def copy_of(about: SetInfo, root: str | os.PathLike | None = None) -> Copy:
    """The data set's local copy. Raises UserError, naming the command that fetches it, where there is none."""
    folder = data_root(root) / about.folder
    if not folder.is_dir():
        root = shlex.quote(shown(folder.parent))
        where = (
            f"hub id {about.hub}, {about.pinned}\n  {fetch_command(about, root)}"
            if about.hub
            else "no hub copy is known"
        )
        where += f"\n  or, as its authors publish it: {convert_command(about, root)}"
        raise Missing(f"no data of {about.name}: {shown(folder)} does not exist", where)
    return open_copy(folder.resolve(), about.config)


def fetch_command(about: SetInfo, root: str, revision: str = "COMMIT") -> str:
    """What fetches the hub's copy; ``root`` as a shell takes it, ``revision`` for a set that is not pinned."""
    pin = "" if about.revision else f" --revision {about.name}={revision}"
    return f"./run_all.sh assets data fetch {about.name} --root {root}{_of_family(about)}{pin} --download"


def convert_command(about: SetInfo, root: str) -> str:
    """What converts a set as its authors publish it."""
    return f"./run_all.sh assets data convert {about.name} FROM {root}{_of_family(about)}"


def _of_family(about: SetInfo) -> str:
    return f" --family {about.family}" if about.family else ""


def split_notes(tasks: Sequence[str], root: str | os.PathLike | None = None, family: str | None = None) -> list[str]:
    """What boards say of the data: each set's splits, where they are not plain, and what a copy was converted from."""
    notes = []
    for task in tasks:
        about = info(task, family)
        known = about.split.get(family or "", about.split.get("any"))
        if text := "; ".join(filter(None, (_converted(data_root(root) / about.folder), known))):
            notes.append(f"{task}: {text}.")
    return notes


def noted_origin(folder: Path) -> dict[str, Any]:
    """What `assets data fetch` or `convert` noted of a copy; empty where nothing is."""
    try:
        return read_object(folder / ORIGIN)
    except (OSError, ValueError):
        return {}


def _converted(folder: Path) -> str | None:
    """Which images a converted copy has; None for other copies."""
    noted = noted_origin(folder)
    return f"converted from {noted['published']}, {noted.get('split')}" if "published" in noted else None


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
    limit: int | None = None,
) -> ImageSplit:
    """One split, resized and cropped for the backbone, from the cache if it is there, else decoded now.

    Args:
        split: train, validation (or val) or test. Validation is a tenth of the training images, at most 5,000, drawn
            with seed 0 as the papers do (mlfoundations/task_vectors, ``split_train_into_train_val``), and train is the
            rest. A validation split of the data set's own is not used.
        root: the data root, else ``$SYMERGE_DATA``.
        counted: compare the size of the test split with the manifest's; a rehearsal's few images are not.
        image_size: of the backbone; images are uint8 ``[N, image_size, image_size, 3]``.
        limit: of a trial: at most so many images, spread over the split, kept under a name of their own.

    Raises:
        UserError: no or unreadable data, with the name of every damaged sample of the split; a class order or a count
            that the manifest contradicts; a split without images.
    """
    split = "validation" if split == "val" else split
    ready = usable(task, split, root=root, family=family, counted=counted)
    about, copy, own, total = ready.about, ready.copy, ready.own, ready.total
    chosen = None if split == "test" else part_of_train(total, split)
    rows = total if chosen is None else len(chosen)
    share = ""
    if limit is not None and limit < rows:
        spread = spread_over(rows, limit)
        chosen = spread if chosen is None else chosen[spread]
        rows, share = limit, f"\nlimit {limit}"
    key = hashlib.sha256(
        f"{ready.sha256}\n{ready.image}\n{ready.label}\n{RECIPE}\n{split}{share}".encode()
    ).hexdigest()[:20]
    try:
        images, labels = cache.load(
            f"{about.folder}-{split}-{image_size}-{key}{'-trial' if share else ''}",
            (rows, image_size, image_size, 3),
            lambda: _decode(about, copy, own, chosen, image_size, total),
        )
    except cache.CacheError as error:
        raise UserError(str(error)) from None
    return ImageSplit(images, labels, about.classes)


@dataclass(frozen=True)
class Usable:
    """A split of a local copy that a run can read, as far as that is seen without decoding its images."""

    about: SetInfo
    copy: Copy
    own: str
    """The copy's name of the split that it is cut from."""
    image: str
    label: str
    total: int
    sha256: str


def usable(
    task: str, split: str, *, root: str | os.PathLike | None = None, family: str | None = None, counted: bool = True
) -> Usable:
    """What every run holds a split against before it decodes it: files, columns, order of classes, number of images.

    Arguments are those of :func:`load_split`. Raises :class:`Missing` for a data set that is not there, UserError for
    one that is not what the manifest says; what may be wrong is warned of.
    """
    about = info(task, family)
    copy, own = copy_of(about, root), _own_split(about, split)
    image, label, classes = copy.columns(own, about.label)
    _heed(*compare_classes(about, classes), about, copy)
    total, sha256 = copy.facts(own)
    part = "validation" if split == "val" else split
    if part == "test" and counted:
        _heed(*compare_count(about, total), about, copy)
    if not (total if part == "test" else len(part_of_train(total, part))):
        few = f"it is a tenth of the training images, which are {total}; ten or more are needed"
        raise UserError(
            f"{task} in {copy.folder}: the {part} split has no image{f': {few}' if part == 'validation' else ''}",
            _cite(about),
        )
    return Usable(about, copy, own, image, label, total, sha256)


def _heed(level: str, message: str, about: SetInfo, copy: Copy) -> None:
    if level == "error":
        raise UserError(f"{about.name} in {copy.folder}: {message}", _cite(about))
    if level == "warning":
        _warn(f"{about.name} in {copy.folder}: {message}")


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


def damaged(about: SetInfo, copy: Copy, own: str) -> list[str]:
    """A line for every sample of a split that cannot be used; ``own`` is the data set's name of the split."""
    image, label, classes = copy.columns(own, about.label)
    return inspection.of_samples(
        copy.samples(own, image, label), _number_of(about, classes), f"looking at {about.name}, {own}"
    )


def _number_of(about: SetInfo, classes: list[str] | None) -> Callable[[Any], int]:
    numbers = {name: i for i, name in enumerate(classes or about.classes)}
    return lambda value: inspection.class_number(value, numbers, len(about.classes))


def _decode(
    about: SetInfo, copy: Copy, own: str, chosen: np.ndarray | None, image_size: int, total: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from tqdm import tqdm

    image, label, classes = copy.columns(own, about.label)
    shrink, number = transform(image_size), _number_of(about, classes)
    wanted = None if chosen is None else np.isin(np.arange(total), chosen)

    def usable(sample: Sample) -> tuple[np.ndarray, int]:
        try:
            return np.asarray(shrink(picture(sample.encoded()))), number(sample.label)
        except (Damage, OSError, ValueError) as error:
            raise Damage(f"{sample.name}: {error}") from None

    samples = enumerate(copy.samples(own, image, label))
    used = (sample for i, sample in samples if sample.problem or wanted is None or wanted[i])
    count = total if chosen is None else len(chosen)
    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        tqdm(total=count, desc=f"decoding {about.name}", unit="image", delay=2, disable=None) as bar,
    ):
        for block in batched(used, 256):
            try:
                images, labels = zip(*pool.map(usable, block), strict=True)
            except Damage as error:
                lines = damaged(about, copy, own) or [str(error)]
                raise damage.error(f"{about.name}, split {own!r}", lines, f"{COPY_AGAIN}\n  {_cite(about)}") from None
            yield np.stack(images), np.array(labels, dtype=np.int64)
            bar.update(len(block))
