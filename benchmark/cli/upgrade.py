"""`symerge-bench upgrade`: records that earlier versions of the program wrote, written as this one does.

Reading them needs no upgrade (`migrations`). It gives each the identity that a plan of today has for the same run: a
new id and folder, the hashes of all data that it read, the present form of its method's version; and the runs that it
was made from, where it is a study's, are named by their new ids. Nothing is lost: a record stays where it was until its
new one is written whole, and what has been done again since is left as it is.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmark import suites
from benchmark.cli.options import add_results, folders
from benchmark.common.errors import UserError, shown
from benchmark.records.record import Record
from benchmark.records.spec import RunSpec
from benchmark.records.store import RECORD, Store, former_id, read_record
from methods.core.registry import Access

VERSIONS = Path(__file__).with_name("versions_of_2.yaml")

#: Gives for a record the hashes of its data in some splits, `{split: {task or what tasks share: sha256}}`.
Hashes = Callable[[Record, Sequence[str]], Mapping[str, Mapping[str, str]]]


@dataclass
class Upgrade:
    """What became of the records: the new id of each old one, and old folders that were left, with the reason."""

    ids: dict[str, str] = field(default_factory=dict)
    left: dict[Path, str] = field(default_factory=dict)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser, "the project's own records")


def command(arguments: argparse.Namespace) -> int:
    """Upgrade the records of a results folder. Returns 0. Raises UserError where there are none."""
    results, out = folders(arguments.results, arguments.reference)
    chosen = [results, out / "studies" / "records"] if arguments.reference else stores(results)
    if not chosen:
        raise UserError(f"no records under {shown(results)}", "Name a results folder: --results DIR")
    done = upgrade(chosen, of_this_checkout)
    print(f"{len(done.ids)} records of earlier versions upgraded in {', '.join(map(shown, chosen))}")
    for path, why in done.left.items():
        print(f"left as it is: {shown(path)}: {why}")
    return 0


def stores(results: Path) -> list[Path]:
    """The folders of records of a results folder: its own, and that of its studies."""
    roots = {path.parents[3] for path in results.rglob(RECORD) if len(path.relative_to(results).parts) > 3}
    return sorted(roots)


def upgrade(folders: Sequence[Path], hashes: Hashes) -> Upgrade:
    """Upgrade the records below the folders, each a store, together: those of one may name runs of another."""
    done = Upgrade()
    earlier: list[tuple[Path, Store, Record]] = []
    for folder in folders:
        for path in sorted(folder.glob(f"*/*/*/{RECORD}")):
            try:
                if former_id(path) is not None:
                    earlier.append((path, Store(folder), read_record(path)))
            except ValueError as error:
                done.left[path] = f"damaged: {error}"
    versions = yaml.safe_load(VERSIONS.read_text(encoding="utf-8"))
    specs = {path: _spec(record, versions, hashes) for path, _, record in earlier}
    names = {path: former_id(path) or "" for path in specs}
    waiting = dict(specs)
    while waiting:
        open_ids = {names[path] for path in waiting}
        ready = {path for path, spec in waiting.items() if not open_ids & set(map(str, spec.parameters.values()))}
        for path in ready or set(waiting):
            specs[path] = _with_new_ids(waiting.pop(path), done.ids)
            done.ids[names[path]] = specs[path].run_id
    for path, store, record in earlier:
        spec = specs[path]
        renewed = record.model_copy(update={"spec": spec, "run_id": spec.run_id})
        if (why := _move(path, store, renewed)) is not None:
            done.left[path] = why
    return done


def _spec(record: Record, versions: Mapping[str, Sequence[str]], hashes: Hashes) -> RunSpec:
    """The spec with what version 2 did not know: data of other splits than test, the version as it is computed now."""
    spec = record.spec
    named = re.findall(r"\b(?:train|val|test)\b", " ".join(["test", *record.access]))
    sums = hashes(record, named)
    data = {split: {**sums.get(split, {}), **spec.data.get(split, {})} for split in sorted({*spec.data, *sums})}
    method = spec.method_version
    if set(data) == set(named) and versions.get(spec.method, ("", ""))[0] == method:
        method = versions[spec.method][1]
    return spec.model_copy(update={"data": data, "method_version": method})


def _with_new_ids(spec: RunSpec, ids: Mapping[str, str]) -> RunSpec:
    """The spec naming the runs that it was made from by their new ids."""
    parameters = {key: ids.get(v, v) if isinstance(v, str) else v for key, v in spec.parameters.items()}
    return spec.model_copy(update={"parameters": parameters})


def _move(path: Path, store: Store, record: Record) -> str | None:
    """Write the record in its new folder and remove the old one; why not, where it stays."""
    target = store.folder(record.spec)
    try:
        there: Record | None = read_record(target / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        there = None
    except ValueError as error:
        return f"its new place holds a damaged record: {error}"
    if there is not None and there != record:
        return f"the run was done again since, {record.run_id}"
    with store.try_lock(record.spec) as mine:
        if not mine:
            return "another process is doing the run"
        store.save(record)
        for each in path.parent.iterdir():
            if each.name != RECORD and not each.name.startswith("."):
                os.replace(each, target / each.name)
    path.unlink()
    for lock in path.parent.glob(".lock"):
        lock.unlink()
    path.parent.rmdir()
    (target / ".lock").unlink(missing_ok=True)
    return None


def of_this_checkout(record: Record, splits: Sequence[str]) -> dict[str, dict[str, str]]:
    """The hashes of the committed data of a mini suite, where they are those that the record was tested on.

    Nothing for other suites, and where the test data are others: what such a run was handed cannot be known.
    """
    bench = _bench(record.spec.suite.partition("+")[0], record.spec.backbone, record.spec.family)
    if bench is None:
        return {}
    every = bench.data_of(Access(**dict.fromkeys((split for split in splits if split != "test"), "unlabelled")))
    contents = {n for n in every["test"] if n in record.suite_tasks or n not in bench.tasks}
    sums = {split: {name: sha256 for name, sha256 in every[split].items() if name in contents} for split in splits}
    same = all(sums["test"].get(task) == sha256 for task, sha256 in record.spec.data["test"].items())
    return sums if same else {}


@functools.cache
def _bench(suite: str, backbone: str, family: str) -> Any:
    if suite not in suites.names() or suites.load(suite).scale == "full":
        return None
    try:
        return suites.open_bench(suites.load(suite), backbone=backbone, family=family)
    except UserError:
        return None
