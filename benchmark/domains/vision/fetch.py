"""`symerge-bench assets data fetch`: the hub's copies of the data sets, each at one commit, only what is read of them.

What is not pinned, or has no source, is said for all sets at once and before anything is downloaded.
"""

from __future__ import annotations

import glob
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from benchmark.common.errors import UserError, shown
from benchmark.common.files import write_atomic
from benchmark.domains.vision import layout
from benchmark.domains.vision import public as full
from benchmark.domains.vision.check import tasks_of

#: What a copy says of itself, which decides on its splits.
CARD = ("README.md", "dataset_infos.json")
COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(
    task: str, root: Path, revision: str | None, family: str | None = None, mirror: str | None = None
) -> tuple[str, int]:
    """Download both splits of a data set's hub copy into its folder under ``root``; what is there is kept.

    Args:
        revision: a commit, or a branch that is resolved to its present commit; default the manifest's.
        mirror: the address of another hub, default the environment's ``HF_ENDPOINT`` or the public one.

    Returns:
        The commit, and the number of bytes of these files.

    Raises:
        UserError: no revision is pinned or given, no hub copy is known, it has no such splits, or the hub cannot be
            reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    about = full.info(task, family)
    if about.hub is None:
        raise UserError(f"no hub copy of {task} is known", _elsewhere([task], root))
    revision = revision or about.revision
    if revision is None:
        raise _unpinned([about])
    folder = root / about.folder
    if full.noted_origin(folder).get("published"):
        raise UserError(f"{shown(folder)} is a converted copy of {task}", "Move it away, or name another --root.")

    def get(commit: str, names: Sequence[str]) -> None:
        snapshot_download(
            about.hub or "", repo_type="dataset", revision=commit, local_dir=folder, endpoint=mirror,
            allow_patterns=[glob.escape(name) for name in names],
        )  # fmt: skip

    try:
        repository = HfApi(endpoint=mirror).dataset_info(about.hub, revision=revision, files_metadata=True)
        commit = revision if COMMIT.fullmatch(revision) else str(repository.sha)
        sizes = {each.rfilename: each.size or 0 for each in repository.siblings or []}
        get(commit, CARD)
        names = _needed(about, folder, sizes)
        size = sum(sizes[name] for name in names)
        print(f"{task}: {len(names)} of {len(sizes)} files, {size / 2**20:,.0f} MiB", file=sys.stderr)
        get(commit, names)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises its own, requests' and the system's errors
        raise UserError(
            f"{about.hub} at {revision} could not be fetched: {error}",
            "Type the same again: what is there is not fetched again. Or copy it there, or name another hub: --mirror.",
        ) from None
    write_atomic(folder / full.ORIGIN, json.dumps({"hub": about.hub, "revision": commit}) + "\n")
    return commit, size


def _needed(about: full.SetInfo, folder: Path, sizes: Mapping[str, int]) -> list[str]:
    """The files of the splits that are read, as `layout` finds them once all are there.

    Raises UserError where a split is missing, before anything large is downloaded.
    """
    with tempfile.TemporaryDirectory() as empty:
        for name in sizes:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(f"{about.hub} has a file {name!r}, which is none", "Choose another revision.")
            place = Path(empty, *path.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((folder / name).read_bytes() if name in CARD and (folder / name).is_file() else b"")
        try:
            splits = layout.read(Path(empty), about.config).splits
        except UserError as error:
            said = str(error).replace(empty, about.hub or "")
            raise UserError(f"nothing was fetched of {about.name}: {said}", "Choose another --revision.") from None
    if missing := [own for own in about.splits.values() if own not in splits]:
        raise UserError(
            f"nothing was fetched of {about.name}: {about.hub} has no split {' or '.join(missing)}, "
            f"but {', '.join(splits)}",
            "Choose another --revision.",
        )
    return sorted({name for own in about.splits.values() for name in splits[own]})


def fetch_all(
    names: Sequence[str],
    root: Path | None,
    family: str | None,
    revisions: Sequence[str],
    *,
    download: bool,
    mirror: str | None = None,
) -> int:
    """Fetch the hub copies of suites and data sets; without ``download`` the plan is printed. Returns 0.

    Args:
        revisions: ``TASK=COMMIT``, of data sets that are not pinned.

    Raises:
        UserError: some have no revision (nothing is fetched then), or no hub copy (all others are fetched before).
    """
    commits = dict(_revision(text) for text in revisions)
    place = full.data_root(root)
    wanted = [full.info(task, family) for task, embedded in tasks_of(names) if not embedded]
    lacking = [about for about in wanted if about.hub and not (commits.get(about.name) or about.revision)]
    elsewhere = [a.name for a in wanted if not a.hub and not (place / a.folder).is_dir()]
    if not download:
        for about in wanted:
            where = f"{about.hub} at {commits.get(about.name) or about.pinned}" if about.hub else "no hub copy is known"
            print(f"{about.name}: {where} -> {place / about.folder}", flush=True)
        add = f"Add {_revisions(lacking)} --download to fetch them." if lacking else "Add --download to fetch them."
        hint = "\n  ".join([add, *([_elsewhere(elsewhere, place)] if elsewhere else [])])
        raise UserError("nothing was fetched: the network is used only when asked for", hint)
    if lacking:
        raise _unpinned(lacking)
    if elsewhere:
        print(f"no hub copy of {', '.join(elsewhere)} is known", file=sys.stderr)
    for about in wanted:
        if about.hub:
            commit, _ = fetch(about.name, place, commits.get(about.name), family, mirror)
            print(f"{about.name}: fetched {commit}", file=sys.stderr)
    if elsewhere:
        raise UserError(f"no hub copy of {', '.join(elsewhere)} is known", _elsewhere(elsewhere, place))
    return 0


def _unpinned(lacking: Sequence[full.SetInfo]) -> UserError:
    listed = ", ".join(f"{about.name} ({about.hub})" for about in lacking)
    return UserError(
        f"nothing was fetched: no commit is pinned of {listed}",
        f"Type {_revisions(lacking)} for their present commits, which are then noted, or COMMIT in the place of main.",
    )


def _revisions(lacking: Sequence[full.SetInfo]) -> str:
    return "--revision " + " ".join(f"{about.name}=main" for about in lacking)


def _elsewhere(tasks: Sequence[str], root: Path) -> str:
    lines = [f"./run_all.sh assets data convert {task} FROM {shlex.quote(shown(root))}" for task in tasks]
    return "\n  ".join(
        ["Download it from its authors (docs/data.md, What is read as it is published), then type", *lines]
    )


def _revision(text: str) -> tuple[str, str]:
    task, equals, commit = text.partition("=")
    if not equals or not commit or task not in full.names():
        raise UserError(f"--revision {text!r} is not TASK=COMMIT", "Write e.g. --revision MNIST=main")
    return task, commit
