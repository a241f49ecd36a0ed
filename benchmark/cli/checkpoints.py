"""``symerge-bench assets checkpoints {list,import,heads,check}``: public checkpoints into folders that suites read."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark import importers, suites
from benchmark.cli.options import Parser
from benchmark.common.errors import UserError, shown
from benchmark.common.paths import resolved
from benchmark.importers import Definition

EXAMPLES = """examples:
  symerge-bench assets checkpoints list
  symerge-bench assets checkpoints import task-arithmetic DOWNLOADS/checkpoints --backbone ViT-B-32
  symerge-bench assets checkpoints import tall --backbone ViT-L-14 --download --revision COMMIT
  symerge-bench assets checkpoints import fusionbench HUB_CACHE --backbone ViT-B-16 --suite vision-8
  symerge-bench assets checkpoints import local MY_FOLDER --activation quick_gelu
  symerge-bench assets checkpoints import fusionbench HUB_CACHE --head from-own-text
  symerge-bench assets checkpoints heads local --text openai/clip-vit-base-patch32
  symerge-bench assets checkpoints check tall --backbone ViT-B-32 --suite vision-8

Nothing is fetched without --download, and no pickle is run. Files go to --out, else SYMERGE_CHECKPOINTS, else
~/.cache/symerge-bench/checkpoints, under FAMILY/BACKBONE.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verbs, each with its options."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.description = (
        "Checkpoint families of the full vision suites: read, checked, hashed and stored as safetensors."
    )
    kinds = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=Parser)
    listing = kinds.add_parser("list", help="the families, and what is imported of them")
    listing.set_defaults(work=_list)
    listing.add_argument("--out", type=resolved, metavar="DIR", help="folder of all families")
    _add_import(_add_verb(kinds, "import", _import, "convert a family's files; again to add tasks or go on"))
    heads = _add_verb(
        kinds, "heads", _heads, "make missing heads from prompts and CLIP's text tower, which check compares with"
    )
    heads.add_argument("--text", type=resolved, metavar="CLIP", help="folder or file of a whole CLIP; once per family")
    heads.add_argument("--replace", action="store_true", help="make those too that the family has files of")
    _add_verb(kinds, "check", _check, "read every file of a family again: hashes, shapes, NaN, order of classes")


def _add_verb(kinds: Any, name: str, work: Callable[..., int | None], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=text)
    parser.set_defaults(work=work)
    parser.add_argument("family", help=f"{', '.join(importers.definitions())}; of RoBERTa-base: ovo, lu, local")
    parser.add_argument(
        "--backbone", default="ViT-B-32", help="ViT-B-32 (default), ViT-B-16, ViT-L-14; or RoBERTa-base"
    )
    parser.add_argument("--suite", help="only the tasks of this suite, e.g. vision-8")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks")
    parser.add_argument("--out", type=resolved, metavar="DIR", help="folder of all families")
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", type=resolved, metavar="PATH", help="folder that holds the files")
    parser.add_argument("--activation", choices=["quick_gelu", "gelu"], help="of a family whose owner must say")
    parser.add_argument(
        "--head",
        choices=importers.HEADS,
        help="for experts whose text tower is not the base's, or that have a classifier: the head from their own text "
        "tower and the prompts, or the one they would have without it",
    )
    parser.add_argument("--download", action="store_true", help="fetch the files from the hub instead of PATH")
    parser.add_argument(
        "--revision", action="append", default=[], metavar="[REPO=]REV", help="with --download: where none is pinned"
    )
    parser.add_argument("--repo", metavar="OWNER/NAME", help="with --download: another of the family's repositories")


def command(arguments: argparse.Namespace) -> int:
    """Run one verb; the exit status. Raises :class:`UserError`. Tables go to stdout, progress to stderr."""
    from benchmark.checkpoints.families import FamilyError

    try:
        return arguments.work(arguments) or 0
    except FamilyError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        place = Path(str(error.filename or ""))
        written = arguments.out is not None and (place == arguments.out or arguments.out in place.parents)
        hint = "Choose another folder with --out DIR." if written else "Mend its permissions, or give another."
        raise UserError(f"{place}: {error.strerror or error}", hint) from error


def _refuse_dense(arguments: argparse.Namespace) -> None:
    named = [name for name in (arguments.family, arguments.suite) if name in suites.names()]
    if any(suites.load(name).domain == "dense" for name in named):
        raise UserError(
            "no experts for dense prediction are published, so there is nothing to import",
            "Train them: symerge-bench assets experts nyuv2 --root DIR --retrain",
        )


def _import_text(arguments: argparse.Namespace) -> int:
    """RoBERTa's families, which have fewer options."""
    from benchmark.assets.text.command import checkpoints

    others = ("suite", "activation", "head", "download", "revision", "repo")
    if given := [f"--{name}" for name in others if getattr(arguments, name)]:
        raise UserError(f"{', '.join(given)} is of vision's families only", "Leave it out with RoBERTa-base.")
    if arguments.path is None:
        raise UserError("no folder was named", "Type: symerge-bench assets checkpoints import FAMILY PATH --backbone "
                        "RoBERTa-base, PATH holding <task>/... and roberta-base/")  # fmt: skip
    return checkpoints(arguments.family, arguments.path, arguments.tasks, arguments.out)


def _tasks(arguments: argparse.Namespace, family: Definition) -> list[str] | None:
    """The tasks asked for, if any were."""
    if arguments.suite and arguments.tasks:
        raise UserError("--suite and --tasks exclude each other", "Leave one of them out.")
    tasks = suites.load(arguments.suite).tasks if arguments.suite else arguments.tasks
    importers.check_choice(family, arguments.backbone, tasks or [])
    return tasks


def _folder(arguments: argparse.Namespace, family: Definition) -> Path:
    from benchmark.checkpoints.families import checkpoint_folder

    return checkpoint_folder(family.name, arguments.backbone, arguments.out)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _import(arguments: argparse.Namespace) -> int:
    _refuse_dense(arguments)
    if arguments.backbone == "RoBERTa-base":
        return _import_text(arguments)
    family = importers.get(arguments.family)
    tasks, out = _tasks(arguments, family), _folder(arguments, family)
    if bool(arguments.path) == arguments.download:
        more = f" --backbone {arguments.backbone}" if arguments.backbone != "ViT-B-32" else ""
        fetch = f", or with --download in PATH's place{more}" if family.hub else ""
        raise UserError(
            "nothing is fetched unless it is asked for, and no folder was named"
            if not arguments.path
            else "PATH and --download exclude each other",
            f"Type: symerge-bench assets checkpoints import {family.name} PATH{fetch}\n  The files: {family.where}",
        )
    if (arguments.repo or arguments.revision) and not arguments.download:
        raise UserError("--repo and --revision belong to --download", "Add --download, or leave them out.")
    from benchmark.importers import hub, layouts
    from benchmark.importers.convert import Importer

    commits: dict[str, str] = {}
    if arguments.download:
        files, commits = hub.fetch(family, arguments.backbone, tasks, arguments.revision, arguments.repo)
    else:
        files = layouts.find(family, arguments.path, arguments.backbone, tasks)
    activation = None if arguments.activation is None else arguments.activation == "quick_gelu"
    importer = Importer(
        family, arguments.backbone, out, quick_gelu=activation, head=arguments.head, hub=commits, say=_say
    )
    manifest = importer.run(files)
    print(table(manifest, list(files.experts)))
    _say(f"\nwritten to {shown(out)}; {_next(family, arguments, manifest)}")
    return 0


def _next(family: Definition, arguments: argparse.Namespace, manifest: dict[str, Any]) -> str:
    """What to type to merge what is imported: the largest suite whose experts and heads are all there."""
    loaded = (suites.load(name) for name in suites.names())
    able = {
        suite.name: [
            t for t in suite.tasks if t not in manifest["heads"] or f"{t}.safetensors" not in manifest["files"]
        ]
        for suite in sorted(loaded, key=lambda suite: len(suite.tasks))
        if suite.domain == "vision" and not suite.embedded and set(suite.tasks) <= set(family.known_tasks())
    }
    ready = [name for name, lacking in able.items() if not lacking]
    if not ready:
        missing = [f"{name} still lacks the experts or heads of {', '.join(tasks)}" for name, tasks in able.items()]
        return "; ".join(missing[:1]) or "no suite has these tasks"
    words = ["./run_all.sh", "--suite", ready[-1], "--backbone", arguments.backbone, "--family", family.name]
    if arguments.out:
        words += ["--checkpoints", str(arguments.out)]
    return f"to merge these: {shlex.join(words)} --data-root DIR"


def _heads(arguments: argparse.Namespace) -> None:
    family = importers.get(arguments.family)
    tasks, out = _tasks(arguments, family), _folder(arguments, family)
    from benchmark.checkpoints.families import read_manifest
    from benchmark.importers.convert import Importer

    before = read_manifest(out)
    importer = Importer(family, arguments.backbone, out, quick_gelu=before["quick_gelu"], say=_say)
    wanted = tasks or [task for task in family.known_tasks() if f"{task}.safetensors" in before["files"]]
    manifest = importer.heads(wanted, arguments.text, arguments.replace)
    print(table(manifest, list(manifest["heads"])))


def _check(arguments: argparse.Namespace) -> int:
    family = importers.get(arguments.family)
    tasks, out = _tasks(arguments, family), _folder(arguments, family)
    from benchmark.checkpoints.families import read_manifest
    from benchmark.checkpoints.files import read_file
    from benchmark.domains.vision import public as full
    from benchmark.domains.vision import zeroshot
    from benchmark.domains.vision.backbones import get_backbone
    from benchmark.domains.vision.family import load_family
    from benchmark.importers.convert import TEXT, class_order

    manifest = read_manifest(out)
    chosen = tasks or [task for task in family.known_tasks() if f"{task}.safetensors" in manifest["files"]]
    counts = {task: len(full.info(task, family.name).classes) for task in chosen}
    stored = load_family(out, arguments.backbone, chosen, class_counts=counts)
    orders: dict[str, str] = {}
    if (out / TEXT).is_file():
        backbone = get_backbone(arguments.backbone)
        clip = zeroshot.create_text(backbone, read_file(out / TEXT).tensors, manifest["quick_gelu"])
        for task in chosen:
            classes = full.info(task, family.name).classes
            own = zeroshot.head(clip, task, classes, backbone.text_cfg["context_length"])
            wrong = class_order(stored.heads[task].weight.detach(), own.weight.detach())
            orders[task] = f"{len(classes) - len(wrong)} of {len(classes)} as named"
            orders[task] += f"; not: {', '.join(classes[i] for i in wrong[:3])}" if wrong else ""
    print(table(manifest, chosen, orders))
    _say(f"\n{len(stored.hashes)} files are what {shown(out)}/manifest.json says.")
    if not orders:
        _say("The order of classes was not compared: there is no text tower (assets checkpoints heads --text).")
    return 0


def _list(arguments: argparse.Namespace) -> None:
    from benchmark.checkpoints.families import FamilyError, checkpoint_folder, read_manifest

    for family in importers.definitions().values():
        print(f"{family.name}: {family.title}\n  {', '.join(family.backbones)}; {family.where}")
        for backbone in family.backbones:
            with contextlib.suppress(FamilyError, UserError):  # nothing imported, or no home folder to look in
                folder = checkpoint_folder(family.name, backbone, arguments.out)
                files = read_manifest(folder)["files"]
                tasks = [task for task in family.known_tasks() if f"{task}.safetensors" in files]
                print(f"  imported: {backbone}, {len(tasks)} tasks, in {shown(folder)}")


def table(manifest: dict[str, Any], tasks: Sequence[str], orders: dict[str, str] | None = None) -> str:
    """One line a task: how far the expert lies from the base, how many classes its head has, where the head is from."""
    heading = f"{manifest['name']}, {manifest['backbone']}, {'QuickGELU' if manifest['quick_gelu'] else 'GELU'}"
    titles = f"{'task':14}{'from base':>10}{'classes':>9}  {'head':22}{'order of classes' if orders else ''}"
    lines = [heading, titles.rstrip()]
    for task in tasks:
        apart = manifest["distance"].get(task)
        classes = manifest["classes"].get(task)
        head = manifest["heads"].get(task, "none")
        head = head if "prompts" in head or head == "none" else "the family's file"
        lines.append(
            f"{task:14}{'-' if apart is None else f'{apart:.2%}':>10}{len(classes) if classes else '-':>9}  {head:22}"
            f"{(orders or {}).get(task, '')}".rstrip()
        )
    return "\n".join(lines)
