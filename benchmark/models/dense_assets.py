"""``symerge-bench assets data|experts`` for dense suites: check NYUv2 or the scenes, render again, train experts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmark.data import nyuv2, scenes_data
from benchmark.data.full import data_root
from benchmark.errors import UserError
from benchmark.paths import resolved


def main(kind: str, rest: Sequence[str]) -> int:
    """One command; ``kind`` is ``data`` or ``experts``, ``rest`` what follows it. Returns the exit status."""
    if kind == "experts":
        from benchmark.models.dense_make import main as make

        return make(rest)
    if kind != "data":
        raise UserError(
            "no experts for dense prediction are published, so there is nothing to import",
            "Train them: symerge-bench assets experts nyuv2 --root DIR --retrain",
        )
    if rest[:1] == ["build"]:
        if "nyuv2" in rest:
            raise UserError("nyuv2 is the user's own data and is not built here", nyuv2.EXPECTED)
        return scenes_data.main([text for text in rest[1:] if text != "dense-mini"])
    p = argparse.ArgumentParser(prog="symerge-bench assets data", description=__doc__)
    p.add_argument("verb", choices=["check", "fetch"])
    p.add_argument("suite", choices=["dense-mini", "nyuv2"])
    p.add_argument("--root", type=resolved, metavar="DIR", help="of nyuv2; default $SYMERGE_DATA")
    args = p.parse_args(rest)
    if args.verb == "fetch":
        raise UserError(
            f"nothing is fetched for {args.suite}", nyuv2.EXPECTED if args.suite == "nyuv2" else scenes_data.MEND
        )
    if args.suite == "nyuv2":
        root = nyuv2.folder(data_root(args.root))
        print(f"reading every file under {root}", file=sys.stderr)
        print("\n".join(nyuv2.check(root)))
        return 0
    for split in scenes_data.SPLITS:
        print(f"{split}: {len(scenes_data.load_split(split))} scenes, every array as the manifest says")
    return 0
