"""Makes the rows of `glue-mini` again, and fetches the texts that may not be committed."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.assets.text import vader
from benchmark.assets.text import wordnet as net
from benchmark.checkpoints.families import save_json
from benchmark.common.cache import CacheError, cache_dir, written
from benchmark.common.errors import UserError
from benchmark.common.files import replacing
from benchmark.domains.text.embedded import FOLDER, ORDER, info, manifest, restore, vader_cache, vader_texts
from benchmark.domains.text.tokens import Texts

SIZES = {"train": 1250, "val": 250, "test": 500}

_R, _H = "rule-made labels on WordNet 3.0", "human ratings, recast"
ABOUT: dict[str, dict[str, Any]] = {
    "Acceptability": {"form": "CoLA", "labels": _R, "classes": ["disordered", "as written"], "metric": "mcc"},
    "MovieSentiment": {"form": "SST-2", "labels": _H, "classes": ["negative", "positive"], "metric": "accuracy"},
    "SynonymParaphrase": {"form": "MRPC", "labels": _R, "classes": ["different", "same"], "metric": "accuracy_f1"},
    "TweetValence": {"form": "STS-B", "labels": _H, "classes": [], "metric": "pearson_spearman"},
    "QuestionPairs": {"form": "QQP", "labels": _R, "classes": ["different", "same"], "metric": "accuracy_f1"},
    "StanceEntailment": {
        "form": "MNLI",
        "labels": _H,
        "classes": ["entailment", "neutral", "contradiction"],
        "metric": "accuracy",
    },
    "QuestionGloss": {"form": "QNLI", "labels": _R, "classes": ["other", "definition"], "metric": "accuracy"},
    "HypernymEntailment": {"form": "RTE", "labels": _R, "classes": ["no", "entailed"], "metric": "accuracy"},
}


def prepare(sources: Path | None = None) -> Path:
    """Fetch the texts that are not committed, once, and put them into the cache. Raises :class:`UserError`."""
    path = vader_cache()
    if not path.is_file():
        try:
            with written():
                path.parent.mkdir(parents=True, exist_ok=True)
        except CacheError as error:
            raise UserError(str(error)) from None
        data = vader.read(vader.fetch(sources or cache_dir() / "sources"))
        snippets = [s for part in data.values() for s in part]
        table = pa.table({"key": [f"{s.file}/{s.line}" for s in snippets], "text": [s.text for s in snippets]})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    vader_texts()
    return path


def build(wordnet: Path, sources: Path | None = None, folder: Path = FOLDER) -> dict[str, Any]:
    """Write every task's rows and the manifest again. `wordnet`: WordNet 3.0's dict files. Returns the manifest."""
    prepare(sources)
    data = vader.read(vader.fetch(sources or cache_dir() / "sources"))
    texts = {(s.file, s.line): s.text for part in data.values() for s in part}
    tables: dict[str, dict[str, list[Any]]] = {**net.build(wordnet, SIZES), **vader.build(data, SIZES)}
    return write(
        tables,
        {task: ABOUT[task] for task in ORDER},
        folder,
        lambda r: r.a if isinstance(r, net.Row) else texts[r.file, r.line],
    )


def write(
    tables: Mapping[str, Mapping[str, Sequence[Any]]],
    about: Mapping[str, Mapping[str, Any]],
    folder: Path,
    first: Callable[[Any], str] = lambda row: row.a,
) -> dict[str, Any]:
    """Write the rows `{task: {split: rows}}` of each task that `about` describes, and the manifest, which is returned.

    Args:
        first: a row's first text, which may be left out of what is written.
    """
    entries = {}
    for task, described in about.items():
        columns: dict[str, list[Any]] = {}
        splits = {}
        for split, rows in tables[task].items():
            for row in rows:
                for name, value in {"split": split, **vars(row)}.items():
                    columns.setdefault(name, []).append(value)
            second = [r.b for r in rows] if any(r.b for r in rows) else None
            whole = Texts([first(r) for r in rows], second, np.asarray([r.label for r in rows], dtype=np.float64))
            splits[split] = {"n": len(rows), "sha256": whole.sha256()}
        path = folder / f"{task}.parquet"
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        entries[task] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "splits": splits, **described}
    save_json(folder / "manifest.json", {"tasks": entries})
    manifest.cache_clear()
    return manifest(folder)


def compare(wordnet: Path, sources: Path | None = None) -> None:
    """Make every row again, and raise :class:`UserError` where one is not the committed one."""
    with tempfile.TemporaryDirectory() as place:
        tasks = build(wordnet, sources, Path(place))["tasks"]
    wrong = [t for t in ORDER if tasks[t]["splits"] != info(t)["splits"]]
    if wrong:
        raise UserError(
            f"rows of {', '.join(wrong)} are not the committed ones", "Is it WordNet 3.0? " + restore(FOLDER)
        )
