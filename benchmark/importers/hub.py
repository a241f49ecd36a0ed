"""Fetching a family from the hub, when and only when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmark.common.errors import UserError
from benchmark.importers import Definition
from benchmark.importers.layouts import FamilyFiles, find

COMMIT = re.compile(r"[0-9a-f]{40}")


def repositories(family: Definition, backbone: str, tasks: Sequence[str], repo: str | None = None) -> list[str]:
    """The repositories that hold these tasks' experts and their base. Raises :class:`UserError` where there is none."""
    if not family.hub:
        raise UserError(
            f"the family {family.name} is not on the hub: {family.where}",
            f"Fetch the files yourself, then: symerge-bench assets checkpoints import {family.name} PATH",
        )
    repos = [*family.hub, *family.other_hubs]
    if repo is not None and repo not in repos:
        raise UserError(f"--repo {repo} is not one of the family {family.name}", f"Known: {', '.join(repos)}")
    names = [repo] if repo else family.hub
    return list(dict.fromkeys(family.fill(name, backbone, task) for name in names for task in tasks))


def revisions(family: Definition, repos: Sequence[str], asked: Sequence[str]) -> dict[str, str]:
    """The revision of every repository: pinned in ``families.yaml``, or asked for as ``REV`` or ``REPO=REV``.

    Raises:
        UserError: a repository has none.
    """
    named: dict[str, str] = {}
    for text in asked:
        name, equals, revision = text.rpartition("=")
        if equals and name not in repos:
            raise UserError(f"--revision {text}: {name} is not fetched", f"Fetched: {', '.join(repos[:4])}")
        named.update({name: revision} if equals else {each: text for each in repos if each not in named})
    pinned = {repo: named.get(repo) or family.revisions.get(repo) for repo in repos}
    if missing := [repo for repo, revision in pinned.items() if not revision]:
        raise UserError(
            f"no commit of {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''} is pinned in "
            "benchmark/importers/families.yaml",
            "Type --revision COMMIT (of the repository's history page), or --revision main for today's, which is then "
            "recorded; --revision REPO=COMMIT names one of several.",
        )
    return {repo: str(revision) for repo, revision in pinned.items()}


def fetch(
    family: Definition,
    backbone: str,
    tasks: Sequence[str] | None,
    asked: Sequence[str] = (),
    repo: str | None = None,
    cache: Path | None = None,
) -> tuple[FamilyFiles, dict[str, str]]:
    """Download what is missing, and ``(files found, {repository: commit})``. Raises :class:`UserError`.

    Args:
        tasks: default all that the family has.
        asked: ``--revision`` values.
        repo: instead of the family's first repository.
        cache: the hub's own cache folder, if not its default.
    """
    from huggingface_hub import HfApi, snapshot_download

    wanted = list(tasks or family.known_tasks())
    repos = repositories(family, backbone, wanted, repo)
    commits, folders = revisions(family, repos, asked), {}
    patterns = [family.fill(pattern, backbone) for pattern in family.patterns]
    for name, revision in commits.items():
        try:
            if not COMMIT.fullmatch(revision):
                commits[name] = str(HfApi().repo_info(name, revision=revision).sha)
            snapshot = snapshot_download(name, revision=commits[name], allow_patterns=patterns, cache_dir=cache)
        except Exception as error:  # the hub's client raises its own, requests' and the system's errors
            raise UserError(
                f"{name} at {revision} could not be fetched: {type(error).__name__}: {str(error).splitlines()[0]}",
                "Check the network, the revision, and that HF_HUB_OFFLINE is not set; what is fetched already stays.",
            ) from error
        folders[name] = Path(snapshot)
    if family.layout != "huggingface":
        return find(family, folders[repos[0]], backbone, tasks), commits
    base = folders[family.fill(family.base[0], backbone)]
    return FamilyFiles(base, {t: folders[family.fill(family.expert, backbone, t)] for t in wanted}), commits
