"""What `symerge-bench assets` does for text: fetch or build texts, train experts, import RoBERTa's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.common.errors import UserError, shown
from benchmark.common.paths import resolved
from benchmark.common.project import RETRAINED


def check(suite: str, root: Path | None, sources: Path | None = None, wordnet: Path | None = None) -> int:
    """`assets data check SUITE`: how many rows each split has. With ``wordnet``, embedded ones are made again.

    Args:
        root: of glue; None: $SYMERGE_DATA.
        sources: folder of the packages that texts come from, for ``wordnet``.
    """
    from benchmark.domains.text import glue
    from benchmark.domains.vision.public import data_root

    if suite != "glue":
        return _rows(suite, sources, wordnet)
    folder = glue.folder(data_root(root))
    for task in glue.TASKS:
        print(f"{task}: {len(glue.load(folder, task, 'train'))} train, {len(glue.load(folder, task, 'test'))} test")
    return 0


def build(suite: str, sources: Path | None, wordnet: Path | None) -> int:
    """`assets data build glue-mini|llm-small`: fetch the texts, or make the base, that are not committed; with
    ``wordnet``, make every row again."""
    if suite == "glue-mini":
        from benchmark.assets.text import build as texts

        print(f"texts: {shown(texts.prepare(sources))}", file=sys.stderr)
    else:
        from benchmark.domains.text.language_model import base_folder

        print(f"base: {shown(base_folder())}", file=sys.stderr)
    return _rows(suite, sources, wordnet)


def _rows(suite: str, sources: Path | None, wordnet: Path | None) -> int:
    from benchmark import suites
    from benchmark.domains.text import embedded, questions

    folder = embedded.FOLDER if suite == "glue-mini" else questions.FOLDER
    if wordnet:
        print(_again(suite, sources, wordnet))
    for task in suites.load(suite).tasks:
        counts = ", ".join(f"{len(embedded.load(task, split, folder))} {split}" for split in embedded.SPLITS)
        print(f"{task}: {counts}, all as the manifest says")
    return 0


def _again(suite: str, sources: Path | None, wordnet: Path) -> str:
    """Make every row again, and say from what. Raises :class:`UserError` where one is another."""
    if suite == "glue-mini":
        from benchmark.assets.text import build as texts

        texts.compare(wordnet, sources)
        return "every row made again from WordNet and vaderSentiment is the committed one"
    from benchmark.assets.packages import SourceError, Sources, default_sources
    from benchmark.assets.text import plain, questions

    try:
        questions.compare(wordnet, Sources(sources or default_sources()))
    except SourceError as error:
        raise UserError(str(error), "With a network, run the same command again") from None
    said = plain.difference() or "so is the plain text, from this Python's documentation"
    return f"every question made again from WordNet, VADER, GeoNames and CLDR is the committed one; {said}"


def main(words: Sequence[str]) -> int:
    """`assets experts glue-mini`: validation scores of the committed experts; with --retrain, train them again."""
    p = argparse.ArgumentParser(prog="symerge-bench assets experts", description=main.__doc__)
    p.add_argument("suite", choices=["glue-mini"])
    p.add_argument("--retrain", action="store_true", help="2 to 3 CPU minutes a task; goes on where it was stopped")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks")
    p.add_argument("--threads", type=int, default=1, help="CPU threads; 1 as for the committed ones")
    p.add_argument("--out", type=resolved, metavar="DIR", help="where to write; default .cache/retrained/MiniLM-L6")
    args = p.parse_args(words)
    from benchmark.assets.text import family as text_make
    from benchmark.common.errors import unknown
    from benchmark.domains.text import embedded as glue_mini
    from benchmark.domains.text import family as text_families

    for task in args.tasks or []:
        if task not in glue_mini.ORDER:
            raise unknown("task of glue-mini", task, glue_mini.ORDER)
    tasks = [t for t in glue_mini.ORDER if not args.tasks or t in args.tasks]
    out = args.out or RETRAINED / "MiniLM-L6"
    committed = text_make.read(text_families.FOLDER)
    manifest = text_make.make_family(tasks, out, threads=args.threads) if args.retrain else committed
    print(text_make.table(manifest, committed if args.retrain else None, tasks))
    if args.retrain:
        print(f"written to {shown(out)}", file=sys.stderr)
    return 0


def checkpoints(family: str, path: Path, tasks: Sequence[str] | None, out: Path | None) -> int:
    """`assets checkpoints import FAMILY PATH --backbone RoBERTa-base`: ovo, lu or local.

    Args:
        path: folder that holds <task>/... and roberta-base/.
        tasks: of GLUE's; None: all eight.
        out: folder of all families; None: where runs look.
    """
    from benchmark.checkpoints.families import checkpoint_folder
    from benchmark.importers.text import import_family

    folder = checkpoint_folder(family, "RoBERTa-base", out)
    import_family(family, path, folder, tasks, say=lambda line: print(line, file=sys.stderr))
    print(f"written to {shown(folder)}; to merge these: ./run_all.sh --suite glue --family {family} --data-root DIR")
    return 0
