"""The eight embedded text tasks of `glue-mini`: manifest, committed rows, and the texts that are fetched.

`mini/glue/<Task>.parquet` holds the rows of all splits: whole for the five WordNet tasks (split, key, a, b, label), and
without texts for the three human-labelled ones (split, file, line, b, label). The texts of the latter come from
vaderSentiment's source distribution (`glue_vader.fetch`) and are kept in the cache folder; `mini/glue/manifest.json`
has a hash of every split's texts and labels, which each reading is compared with.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data import glue_vader, glue_wordnet
from benchmark.data.cache import CacheError, cache_dir, written
from benchmark.data.glue_tokens import Texts
from benchmark.errors import UserError, unknown

FOLDER = Path(__file__).resolve().parent / "mini" / "glue"
SPLITS = ("train", "val", "test")
SIZES = {"train": 1250, "val": 250, "test": 500}
MEND = "To restore it: git checkout -- benchmark/data/mini/glue"
FETCH = "./run_all.sh assets data build glue-mini"
ORDER = (
    "Acceptability", "MovieSentiment", "SynonymParaphrase", "TweetValence", "QuestionPairs", "StanceEntailment",
    "QuestionGloss", "HypernymEntailment",
)
"""In the order of GLUE's tasks whose form they have: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE."""


@functools.lru_cache(maxsize=4)
def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """`manifest.json`: what each task is, and the hash of each split. Raises :class:`UserError`."""
    path = folder / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", MEND) from None
    return found


def info(task: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The manifest's entry of one task. Raises :class:`UserError` for an unknown one."""
    tasks = manifest(folder)["tasks"]
    if task not in tasks:
        raise unknown("task of glue-mini", task, tasks)
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
    rows = _rows(folder / f"{task}.parquet", about["sha256"])
    kept = [i for i, s in enumerate(rows["split"]) if s == split]
    rows = {name: [column[i] for i in kept] for name, column in rows.items()}
    if "line" in rows:
        texts = vader_texts()
        first = [texts[f"{file}/{line}"] for file, line in zip(rows["file"], rows["line"], strict=True)]
    else:
        first = rows["a"]
    made = Texts(first, rows["b"] if any(rows["b"]) else None, np.asarray(rows["label"], dtype=np.float64))
    expected = about["splits"][split]
    if len(made) != expected["n"] or made.sha256() != expected["sha256"]:
        raise UserError(f"{task}, {split}: texts and labels are not those of the manifest", _mend("line" in rows))
    return made


def _mend(fetched: bool) -> str:
    return f"Delete {vader_cache()} and type: {FETCH}" if fetched else MEND


def _rows(path: Path, sha256: str) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", MEND) from None
    if (found := hashlib.sha256(blob).hexdigest()) != sha256:
        raise UserError(f"{path} has sha256 {found}, the manifest says {sha256}", MEND)
    columns: dict[str, list[Any]] = pq.read_table(pa.BufferReader(blob)).to_pydict()
    return columns


def vader_cache() -> Path:
    """Where the fetched texts are kept."""
    return cache_dir() / "glue" / f"vaderSentiment-{glue_vader.VERSION}-texts.parquet"


def vader_texts() -> dict[str, str]:
    """The fetched snippets by `file/line`. Raises :class:`UserError` where they are not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = vader_cache()
    try:
        columns = pq.read_table(path).to_pydict()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "three tasks of glue-mini use texts that may not be committed with the project and are not fetched yet",
            f"With a network, type: {FETCH}",
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}", _mend(True)) from None
    return dict(zip(columns["key"], columns["text"], strict=True))


def prepare(sources: Path | None = None) -> Path:
    """Fetch the texts that are not committed, once, and put them into the cache. Raises :class:`UserError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmark.models.families import replacing

    path = vader_cache()
    if not path.is_file():
        try:
            with written():
                path.parent.mkdir(parents=True, exist_ok=True)
        except CacheError as error:
            raise UserError(str(error)) from None
        data = glue_vader.read(glue_vader.fetch(sources or cache_dir() / "sources"))
        snippets = [s for part in data.values() for s in part]
        table = pa.table({"key": [f"{s.file}/{s.line}" for s in snippets], "text": [s.text for s in snippets]})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    vader_texts()
    return path


def build(wordnet: Path, sources: Path | None = None, folder: Path = FOLDER) -> dict[str, Any]:
    """Write every task's rows and the manifest again. `wordnet`: WordNet 3.0's dict files. Returns the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmark.models.families import replacing, save_json

    prepare(sources)
    data = glue_vader.read(glue_vader.fetch(sources or cache_dir() / "sources"))
    texts = {(s.file, s.line): s.text for part in data.values() for s in part}
    made: dict[str, dict[str, list[Any]]] = {**glue_wordnet.build(wordnet, SIZES), **glue_vader.build(data, SIZES)}
    entries = {}
    for task in ORDER:
        columns: dict[str, list[Any]] = {}
        splits = {}
        for split, rows in made[task].items():
            for row in rows:
                for name, value in {"split": split, **vars(row)}.items():
                    columns.setdefault(name, []).append(value)
            first = [r.a if isinstance(r, glue_wordnet.Row) else texts[r.file, r.line] for r in rows]
            second = [r.b for r in rows] if any(r.b for r in rows) else None
            whole = Texts(first, second, np.asarray([r.label for r in rows], dtype=np.float64))
            splits[split] = {"n": len(rows), "sha256": whole.sha256()}
        path = folder / f"{task}.parquet"
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        entries[task] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "splits": splits, **ABOUT[task]}
    save_json(folder / "manifest.json", {"tasks": entries})
    manifest.cache_clear()
    return manifest(folder)


def compare(wordnet: Path, sources: Path | None = None) -> None:
    """Make every row again, and raise :class:`UserError` where one is not the committed one."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        made = build(wordnet, sources, Path(place))["tasks"]
    wrong = [t for t in ORDER if made[t]["splits"] != info(t)["splits"]]
    if wrong:
        raise UserError(f"rows of {', '.join(wrong)} are not the committed ones", "Is it WordNet 3.0? " + MEND)


_R, _H = "rule-made labels on WordNet 3.0", "human ratings, recast"
ABOUT: dict[str, dict[str, Any]] = {
    "Acceptability": {"form": "CoLA", "labels": _R, "classes": ["disordered", "as written"], "metric": "mcc"},
    "MovieSentiment": {"form": "SST-2", "labels": _H, "classes": ["negative", "positive"], "metric": "accuracy"},
    "SynonymParaphrase": {"form": "MRPC", "labels": _R, "classes": ["different", "same"], "metric": "accuracy_f1"},
    "TweetValence": {"form": "STS-B", "labels": _H, "classes": [], "metric": "pearson_spearman"},
    "QuestionPairs": {"form": "QQP", "labels": _R, "classes": ["different", "same"], "metric": "accuracy_f1"},
    "StanceEntailment": {
        "form": "MNLI", "labels": _H, "classes": ["entailment", "neutral", "contradiction"], "metric": "accuracy",
    },
    "QuestionGloss": {"form": "QNLI", "labels": _R, "classes": ["other", "definition"], "metric": "accuracy"},
    "HypernymEntailment": {"form": "RTE", "labels": _R, "classes": ["no", "entailed"], "metric": "accuracy"},
}
