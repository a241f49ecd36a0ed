"""Embedded text tasks: manifest and committed rows, and the texts of `glue-mini` that are fetched.

`mini/glue/<Task>.parquet` holds the rows of all splits: whole for the five WordNet tasks (split, key, a, b, label), and
without texts for the three human-labelled ones (split, file, line, b, label). The texts of the latter come from
vaderSentiment's source distribution (`assets.text.vader.fetch`) and are kept in the cache folder;
`mini/glue/manifest.json` has a hash of every split's texts and labels, which each reading is compared with.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common.cache import cache_dir
from benchmark.common.errors import UserError, unknown
from benchmark.common.files import check_regular, read_object, read_regular
from benchmark.common.project import DATA, ROOT
from benchmark.domains.text.tokens import Texts, Tokens, cached, tokenise, tokenizer_sha256

FOLDER = DATA / "glue"
SPLITS = ("train", "val", "test")
#: The version of vaderSentiment whose rated snippets are used.
VADER = "3.2.1"
#: Tokens of the longest text that is not cut.
LONGEST = 40
FETCH = "./run_all.sh assets data build glue-mini"
ORDER = (
    "Acceptability",
    "MovieSentiment",
    "SynonymParaphrase",
    "TweetValence",
    "QuestionPairs",
    "StanceEntailment",
    "QuestionGloss",
    "HypernymEntailment",
)
"""In the order of GLUE's tasks whose form they have: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE."""


@functools.lru_cache(maxsize=4)
def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """`manifest.json`: what each task is, and the hash of each split. Raises :class:`UserError`."""
    path = folder / "manifest.json"
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", restore(folder)) from None


def info(task: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The manifest's entry of one task. Raises :class:`UserError` for an unknown one."""
    tasks = manifest(folder)["tasks"]
    if task not in tasks:
        raise unknown("task of glue-mini" if folder == FOLDER else "task", task, tasks)
    entry: dict[str, Any] = tasks[task]
    return entry


def load(task: str, split: str, folder: Path = FOLDER) -> Texts:
    """The texts and labels of one split.

    Raises:
        UserError: an unknown task or split, a damaged file, texts that are not fetched yet or not the known ones.
    """
    about = info(task, folder)
    if split not in about["splits"]:
        raise unknown(f"split of {task}", split, about["splits"])
    rows = _rows(folder / f"{task}.parquet", about["sha256"], restore(folder))
    numbers = [i for i, s in enumerate(rows["split"]) if s == split]
    rows = {name: [column[i] for i in numbers] for name, column in rows.items()}
    if "line" in rows:
        texts = vader_texts()
        first = [texts[f"{file}/{line}"] for file, line in zip(rows["file"], rows["line"], strict=True)]
    else:
        first = rows["a"]
    result = Texts(first, rows["b"] if any(rows["b"]) else None, np.asarray(rows["label"], dtype=np.float64))
    expected = about["splits"][split]
    if len(result) != expected["n"] or result.sha256() != expected["sha256"]:
        mend = _mend("line" in rows, folder)
        raise UserError(f"{task}, {split}: texts and labels are not those of the manifest", mend)
    return result


def restore(folder: Path) -> str:
    """What to type where a committed file of these data is missing or damaged."""
    place = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    return f"To restore it: git checkout -- {place}"


def _mend(fetched: bool, folder: Path = FOLDER) -> str:
    return f"Delete {vader_cache()} and type: {FETCH}" if fetched else restore(folder)


def _rows(path: Path, sha256: str, mend: str) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        blob = read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", mend) from None
    if (digest := hashlib.sha256(blob).hexdigest()) != sha256:
        raise UserError(f"{path} has sha256 {digest}, the manifest says {sha256}", mend)
    columns: dict[str, list[Any]] = pq.read_table(pa.BufferReader(blob)).to_pydict()
    return columns


def vader_cache() -> Path:
    """Where the fetched texts are kept."""
    return cache_dir() / "glue" / f"vaderSentiment-{VADER}-texts.parquet"


def vader_texts() -> dict[str, str]:
    """The fetched snippets by `file/line`. Raises :class:`UserError` where they are not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = vader_cache()
    try:
        check_regular(path)
        columns = pq.read_table(path).to_pydict()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "three tasks of glue-mini use texts that may not be committed with the project and are not fetched yet",
            f"With a network, type: {FETCH}",
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}", _mend(True)) from None
    return dict(zip(columns["key"], columns["text"], strict=True))


def outputs_of(task: str) -> int:
    """Outputs of the task's head: its classes, or 1."""
    return max(1, len(info(task)["classes"]))


def tokens_of(task: str, split: str, tokenizer: Any) -> Tokens:
    """One split of one task, tokenised, from the cache where it is there."""
    about = info(task)
    key = {"texts": about["splits"][split]["sha256"], "tokenizer": tokenizer_sha256(tokenizer), "longest": LONGEST}

    def make() -> Tokens:
        return tokenise(tokenizer, load(task, split), LONGEST, classes=len(about["classes"]))

    return cached(f"{task}-{split}", key, make)
