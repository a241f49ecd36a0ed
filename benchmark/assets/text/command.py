"""`symerge-bench assets data|experts|checkpoints` for text: fetch or build texts, train experts, import RoBERTa's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmark.common.errors import UserError, shown
from benchmark.common.paths import resolved
from benchmark.common.project import RETRAINED


def main(kind: str, rest: Sequence[str]) -> int:
    """One command; `rest` is what follows `assets KIND`. Returns the exit status. Raises :class:`UserError`."""
    if kind == "data":
        return data(rest)
    return experts(rest) if kind == "experts" else checkpoints(rest)


def data(rest: Sequence[str]) -> int:
    """`assets data build glue-mini`: fetch the texts that are not committed; with --wordnet, make every row again."""
    p = argparse.ArgumentParser(prog="symerge-bench assets data", description=data.__doc__)
    p.add_argument("verb", choices=["build", "check"])
    p.add_argument("suite", choices=["glue-mini", "glue"])
    p.add_argument("--sources", type=resolved, metavar="DIR", help="where vaderSentiment-3.2.1.tar.gz lies, or is put")
    p.add_argument("--wordnet", type=resolved, metavar="DIR", help="WordNet 3.0's dict files: make all rows again")
    p.add_argument("--root", type=resolved, metavar="DIR", help="of glue; default $SYMERGE_DATA")
    args = p.parse_args(rest)
    from benchmark.assets.text import build
    from benchmark.domains.text import embedded as glue_mini
    from benchmark.domains.text import glue
    from benchmark.domains.vision.public import data_root

    if args.suite == "glue":
        if args.verb == "build":
            raise UserError("glue is the user's own data and is not built here", glue.expected(args.root))
        root = glue.folder(data_root(args.root))
        for task in glue.TASKS:
            print(f"{task}: {len(glue.load(root, task, 'train'))} train, {len(glue.load(root, task, 'test'))} test")
        return 0
    if args.verb == "build":
        path = build.prepare(args.sources)
        print(f"texts: {shown(path)}", file=sys.stderr)
    if args.wordnet:
        build.compare(args.wordnet, args.sources)
        print("every row made again from WordNet and vaderSentiment is the committed one")
    for task in glue_mini.ORDER:
        print(
            f"{task}: "
            + ", ".join(f"{len(glue_mini.load(task, s))} {s}" for s in glue_mini.SPLITS)
            + ", all as the manifest says"
        )
    return 0


def experts(rest: Sequence[str]) -> int:
    """`assets experts glue-mini`: validation scores of the committed experts; with --retrain, train them again."""
    p = argparse.ArgumentParser(prog="symerge-bench assets experts", description=experts.__doc__)
    p.add_argument("suite", choices=["glue-mini"])
    p.add_argument("--retrain", action="store_true", help="2 to 3 CPU minutes a task; goes on where it was stopped")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks")
    p.add_argument("--threads", type=int, default=1, help="CPU threads; 1 as for the committed ones")
    p.add_argument("--out", type=resolved, metavar="DIR", help="where to write; default .cache/retrained/MiniLM-L6")
    args = p.parse_args(rest)
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


def checkpoints(rest: Sequence[str]) -> int:
    """`assets checkpoints import FAMILY PATH --backbone RoBERTa-base`: ovo, lu or local."""
    p = argparse.ArgumentParser(prog="symerge-bench assets checkpoints", description=checkpoints.__doc__)
    p.add_argument("verb", choices=["import"])
    p.add_argument("family", help="ovo, lu or local")
    p.add_argument("path", type=resolved, help="folder that holds <task>/... and roberta-base/")
    p.add_argument("--backbone", default="RoBERTa-base", choices=["RoBERTa-base"])
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="only these of GLUE's tasks; default all eight")
    p.add_argument("--out", type=resolved, metavar="DIR", help="folder of all families")
    args = p.parse_args(rest)
    from benchmark.checkpoints.families import checkpoint_folder
    from benchmark.importers.text import import_family

    out = checkpoint_folder(args.family, args.backbone, args.out)
    import_family(args.family, args.path, out, args.tasks, say=lambda line: print(line, file=sys.stderr))
    print(f"written to {shown(out)}; to merge these: ./run_all.sh --suite glue --family {args.family} --data-root DIR")
    return 0
