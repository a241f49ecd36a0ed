"""GLUE from local files: nyu-mll/glue's parquet, or the cache of `datasets`; tokenised once.

GLUE's test labels are not public: as in the merging literature the validation split (MNLI: matched) is the test split
here. A validation split, for methods that need one, is every k-th training row, at most 2,000; experts have seen them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common import damage, facts
from benchmark.common.errors import Missing, UserError
from benchmark.common.files import open_regular
from benchmark.domains.text.tokens import Texts, Tokens, cached, tokenise, tokenizer_sha256

HUB = "nyu-mll/glue"
LONGEST = 128
MOST_VAL = 2000


@dataclass(frozen=True)
class GlueTask:
    """One of GLUE's tasks: its configuration's name, columns of text, outputs, metric, rows of train and validation,
    and the names of its classes in the order of their numbers, as nyu-mll/glue has them (none for a regression)."""

    config: str
    columns: tuple[str, ...]
    outputs: int
    metric: str
    counts: tuple[int, int]
    classes: tuple[str, ...] = ()

    @property
    def validation(self) -> str:
        """The split that has labels and is not trained on."""
        return "validation_matched" if self.config == "mnli" else "validation"


TASKS = {
    "CoLA": GlueTask("cola", ("sentence",), 2, "mcc", (8551, 1043), ("unacceptable", "acceptable")),
    "SST-2": GlueTask("sst2", ("sentence",), 2, "accuracy", (67349, 872), ("negative", "positive")),
    "MRPC": GlueTask(
        "mrpc", ("sentence1", "sentence2"), 2, "accuracy_f1", (3668, 408), ("not_equivalent", "equivalent")
    ),
    "STS-B": GlueTask("stsb", ("sentence1", "sentence2"), 1, "pearson_spearman", (5749, 1500)),
    "QQP": GlueTask(
        "qqp", ("question1", "question2"), 2, "accuracy_f1", (363846, 40430), ("not_duplicate", "duplicate")
    ),
    "MNLI": GlueTask(
        "mnli", ("premise", "hypothesis"), 3, "accuracy", (392702, 9815), ("entailment", "neutral", "contradiction")
    ),
    "QNLI": GlueTask("qnli", ("question", "sentence"), 2, "accuracy", (104743, 5463), ("entailment", "not_entailment")),
    "RTE": GlueTask("rte", ("sentence1", "sentence2"), 2, "accuracy", (2490, 277), ("entailment", "not_entailment")),
}

#: Bytes of each configuration as the card of nyu-mll/glue has them, as remembered; not read there.
SIZES = {
    "CoLA": 326_394, "SST-2": 3_331_080, "MRPC": 1_033_400, "STS-B": 766_983, "QQP": 73_982_265,
    "MNLI": 57_168_425, "QNLI": 19_278_324, "RTE": 1_274_409,
}  # fmt: skip


def folder(root: Path | None) -> Path | None:
    """The folder of GLUE's files under a data root (or the root itself); None: the cache of `datasets`."""
    if root is None:
        return None
    home = root / "glue" if (root / "glue").is_dir() else root
    if not any((home / task.config).is_dir() for task in TASKS.values()):
        raise Missing(f"no GLUE data in {root}", expected(root))
    return home


def expected(root: Path | None) -> str:
    place = f"{root}/glue" if root else "DIR/glue"
    return (
        f"Expected {place}/cola/train-*.parquet, {place}/cola/validation-*.parquet and so on, as {HUB} has them "
        "(huggingface-cli download nyu-mll/glue --repo-type dataset --local-dir DIR/glue), and --data-root DIR"
    )


def files(root: Path, task: str, split: str) -> list[Path]:
    """The parquet files of one of GLUE's own splits. Raises :class:`UserError` where there are none."""
    about = TASKS[task]
    parts = sorted((root / about.config).glob(f"{split}-*.parquet")) or sorted(
        (root / about.config).glob(f"{split}.parquet")
    )
    if not parts:
        raise Missing(f"{root / about.config} has no {split}-*.parquet", expected(root.parent))
    return parts


def fingerprint(root: Path | None, task: str, split: str) -> str:
    """sha256 over the files of a split of ours (or, from the cache of `datasets`, its own fingerprint)."""
    own = TASKS[task].validation if split == "test" else "train"
    if root is None:
        return hashlib.sha256(str(_rows(None, task, own)._fingerprint).encode()).hexdigest()
    digest = hashlib.sha256()
    for path in files(root, task, own):
        digest.update(bytes.fromhex(facts.sha256(path)))
    return digest.hexdigest()


def _rows(root: Path | None, task: str, split: str) -> Any:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = TASKS[task]
    try:
        if root is None:
            return datasets.load_dataset(HUB, about.config, split=split)
        tables = []
        for path in files(root, task, split):
            with open_regular(path) as file:  # a name would be read as a pattern or an address
                tables.append(pq.read_table(file))
        return datasets.Dataset(pa.concat_tables(tables))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{task}, {split}: `datasets` cannot read it: {error}", expected(root)) from None


def load(root: Path | None, task: str, split: str, counted: bool = True) -> Texts:
    """The texts and labels of `train`, `val` or `test`; `counted`: as many rows as GLUE has.

    Raises:
        UserError: files missing, columns or number of rows that are not GLUE's; the message names every row without a
            text, or whose label is none (a test split's -1, half a class).
    """
    about = TASKS[task]
    own = about.validation if split == "test" else "train"
    rows = _rows(root, task, own)
    wanted = about.counts[split == "test"]
    if counted and len(rows) != wanted:
        raise UserError(f"{task}, {own}: {len(rows)} rows, GLUE has {wanted}", expected(root))
    absent = [c for c in (*about.columns, "label") if c not in rows.column_names]
    if absent:
        raise UserError(f"{task}, {own}: no column {absent[0]}; found {', '.join(rows.column_names)}", expected(root))
    named = getattr(rows.features["label"], "names", None)
    if named and about.classes and tuple(named) != about.classes:
        raise UserError(
            f"{task}, {own}: its classes are {', '.join(named)}, GLUE's {', '.join(about.classes)}",
            "Experts predict classes by number, so their order must be GLUE's: " + expected(root),
        )
    table = {column: list(rows[column]) for column in (*about.columns, "label")}
    if damaged := _damaged(about, table):
        raise damage.error(f"{task}, {own} (rows counted from 0)", damaged, expected(root), "row")
    if split == "val":
        table = {column: values[:: step_of_val(len(rows))] for column, values in table.items()}
    texts: list[Sequence[str]] = [table[column] for column in about.columns]
    return Texts(texts[0], texts[1] if len(texts) > 1 else None, np.asarray(table["label"], dtype=np.float64))


def step_of_val(rows: int) -> int:
    """Every how many of the training rows one stands for validation."""
    return max(-(-rows // MOST_VAL), 2)


def _damaged(about: GlueTask, table: dict[str, list[Any]]) -> list[str]:
    """A line for every row that has no text, or a label that is none of the task's."""
    most = 5 if about.outputs == 1 else about.outputs - 1
    whole = "" if about.outputs == 1 else "whole numbers "
    lines = []
    for number, label in enumerate(table["label"]):
        problems = [f"no text in {c}" for c in about.columns if not isinstance(table[c][number], str)]
        right = isinstance(label, (int, float)) and 0 <= label <= most and (not whole or label == int(label))
        if not right:
            problems.append(f"the label {label!r}, expected {whole}0 to {most}")
        if problems:
            lines.append(f"row {number}: {'; '.join(problems)}")
    return lines


def tokens(root: Path | None, task: str, split: str, tokenizer: Any, counted: bool = True) -> Tokens:
    """One split, tokenised, from the cache where it is there whole; see :func:`load`."""
    key = {
        "data": fingerprint(root, task, split),
        "split": split,
        "tokenizer": tokenizer_sha256(tokenizer),
        "longest": LONGEST,
    }
    classes = TASKS[task].outputs if TASKS[task].outputs > 1 else 0

    def make() -> Tokens:
        return tokenise(tokenizer, load(root, task, split, counted), LONGEST, classes=classes)

    return cached(f"{task}-{split}", key, make)
