"""Which files of a data set's folder are its splits: what its README.md or its layout says, never a word in a path.

The first of these that is there counts:

1. README.md names the files of each split (``configs``), as the hub's repositories do;
2. tables: ``data/test-00000-of-00001.parquet``, ``test.parquet``, ``test/0000.parquet``;
3. webdataset: ``test/0.tar``, ``test-0.tar``;
4. images: ``test/CLASS/1.jpg``, or an archive ``test.zip`` of them.

Further folders may stand around these. Of a table or an archive the split is the name itself, beside its number, or
else the nearest folder that is called as a split. Of an image it is the outermost one: below it classes may be called
``train`` or ``test`` too. A file that belongs to no split, or to two, is an error.
"""

from __future__ import annotations

import functools
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from benchmark.common.errors import UserError, some
from benchmark.common.files import NotRegular, check_folder, check_regular

EXPECTED = (
    "expected one of: data/test-*.parquet or test.parquet with columns image and label (as on the hub); "
    "test/CLASS/*.jpg or .png, or the class folders in test.zip; test/*.tar (webdataset); and the same for train. "
    "As torchvision or its authors lay a set out it is converted first: ./run_all.sh assets data convert TASK FROM TO"
)
KINDS = ("parquet", "webdataset", "imagefolder")
#: How splits are called, and which is meant.
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_ORDER = ("train", "validation", "test")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_NUMBERED = re.compile(r"([a-z]+)(?:[-_.]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """The splits of a folder.

    Attributes:
        kind: one of KINDS, what reads the files.
        splits: the files of each split, relative to the folder, with ``/``, sorted.
        info: `datasets.DatasetInfo` out of README.md, if it has one.
        options: further settings of the reader, from README.md.
    """

    kind: str
    splits: dict[str, list[str]]
    info: Any = None
    options: dict[str, Any] = field(default_factory=dict)


def read(folder: Path, config: str | None = None) -> Layout:
    """The splits in ``folder``.

    Args:
        config: the configuration that is wanted, where there are several.

    Raises:
        UserError: no data, files without a split or in two of them, other configurations, a README.md that is none.
    """
    configs, infos = _card(folder)
    chosen = _choose(folder, config, configs)
    options = dict(configs[chosen]) if chosen is not None else {}
    info = infos.get(chosen or "default") or (next(iter(infos.values())) if len(infos) == 1 and not configs else None)
    patterns, below = options.pop("data_files", None), options.pop("data_dir", None)
    if below is None and patterns is None and config is not None and (folder / config).is_dir():
        below = config
    prefix = f"{PurePosixPath(below)}/" if below else ""
    try:
        names = sorted(name for name in files_below(folder) if name.startswith(prefix))
    except NotRegular as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}", "Move it away.") from None
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}", "Mend its permissions.") from None
    kinds = {name: kind for name in names if (kind := _kind(name))}
    if not kinds:
        raise UserError(f"no data in {folder / prefix}", EXPECTED)
    parts = _by_patterns(folder, list(kinds), prefix, patterns) if patterns is not None else {"": list(kinds)}
    kind = next(kind for kind in KINDS if any(kinds[name] == kind for part in parts.values() for name in part))
    splits = {split: [name for name in part if kinds[name] == kind] for split, part in parts.items()}
    if patterns is None:
        splits = _by_layout(folder, splits[""], prefix)
    ordered = sorted(splits, key=lambda split: (_ORDER.index(split) if split in _ORDER else len(_ORDER), split))
    return Layout(kind, {split: splits[split] for split in ordered if splits[split]}, info, options)


def files_below(folder: Path, above: Sequence[str] = ()) -> Iterator[str]:
    """Names of all files below, through links; without hidden ones and such as ``__MACOSX``.

    Raises NotRegular for a pipe or a device.
    """
    itself = os.path.realpath(folder)
    if itself in above:  # a link back
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__")):
                continue
            if entry.is_dir():
                yield from (f"{entry.name}/{name}" for name in files_below(Path(entry.path), (*above, itself)))
            elif os.path.exists(entry.path):
                check_regular(entry.path)
                yield entry.name


@functools.cache
def _of_images() -> frozenset[str]:
    """Suffixes and whole names of the files in folders of images."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return frozenset((".zip", *ImageFolder.EXTENSIONS, *ImageFolder.METADATA_FILENAMES))


def _kind(name: str) -> str | None:
    """Which of KINDS a file is a part of, or None."""
    last = name.rpartition("/")[2]
    suffix = os.path.splitext(last)[1].lower()
    if last in _of_images() or suffix in _of_images():
        return "imagefolder"
    return {".parquet": "parquet", ".tar": "webdataset"}.get(suffix)


def _card(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What README.md says: ``{configuration: settings}`` and ``{configuration: DatasetInfo}``."""
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    path = folder / "README.md"
    try:
        check_folder(folder)
        infos = dict(DatasetInfosDict.from_directory(str(folder)))
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(path).data) if path.is_file() else {}
    except Exception as error:
        raise UserError(f"{path} cannot be read as a data set's card: {error}", "Mend it, or move it away.") from None
    return dict(configs), infos


def _choose(folder: Path, wanted: str | None, configs: Mapping[str, dict[str, Any]]) -> str | None:
    """The configuration that is read; None where README.md names none."""
    if not configs or wanted in configs:
        return wanted if configs else None
    alone = len(configs) == 1
    defaults = [name for name, about in configs.items() if alone or about.get("default") or name == "default"]
    if defaults and (wanted is None or defaults[0] == "default"):
        return defaults[0]
    needed = f"wanted is {wanted}" if wanted else "none of them is the default"
    raise UserError(
        f"{folder}/README.md names the configurations {', '.join(configs)}; {needed}",
        "Fetch the data set again, or mend README.md.",
    )


def _by_patterns(folder: Path, names: Sequence[str], prefix: str, patterns: Any) -> dict[str, list[str]]:
    """The files of each split by the patterns of README.md, which are relative to ``prefix``."""
    from datasets.data_files import sanitize_patterns
    from fsspec.utils import glob_translate

    splits: dict[str, list[str]] = {}
    for split, wanted in sanitize_patterns(patterns).items():
        matching: set[str] = set()
        for pattern in wanted:
            matches = re.compile(glob_translate(glob.escape(prefix) + str(pattern).removeprefix("./"))).match
            matching.update(name for name in names if matches(name))
        if not matching:
            raise UserError(f"{folder}: no file is {' or '.join(map(str, wanted))}, as README.md says", EXPECTED)
        splits[split] = sorted(matching)
    counts = Counter(name for part in splits.values() for name in part)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{folder}: README.md puts {some(twice)} into more than one split", "Mend README.md.")
    return splits


def _by_layout(folder: Path, names: Sequence[str], prefix: str) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    lost = []
    for name in names:
        place = PurePosixPath(name.removeprefix(prefix))
        split = _split(place)
        if split is not None:
            splits.setdefault(split, []).append(name)
        elif _kind(name) != "imagefolder" or len(place.parts) > 1:  # others are pictures of a README
            lost.append(name)
    if lost or not splits:
        raise UserError(f"{folder}: {some(lost or names)} belong to no split", EXPECTED)
    return splits


def _split(path: PurePosixPath) -> str | None:
    """The split of a file by its place alone."""
    folders = [WORDS.get(part.lower()) for part in path.parts[:-1]]
    if _kind(path.name) == "imagefolder" and path.suffix.lower() != ".zip":
        return next(filter(None, folders), None)
    if sharded := _SHARD.fullmatch(path.stem):
        return WORDS.get(sharded[1].lower(), sharded[1])
    numbered = _NUMBERED.fullmatch(path.stem)
    own = WORDS.get(numbered[1].lower()) if numbered else None
    return own or next(filter(None, reversed(folders)), None)


def has_class_folder(name: str) -> bool:
    """Whether an image stands in a folder below that of its split."""
    folders = PurePosixPath(name).parts[:-1]
    split = next((place for place, folder in enumerate(folders) if folder.lower() in WORDS), -1)
    return len(folders) > split + 1
