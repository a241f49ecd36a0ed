"""The arguments of every command. Building the parser imports no torch."""

from __future__ import annotations

import argparse

from benchmark.common.paths import resolved
from benchmark.studies import KINDS

DEFAULT_SUITE = "vision-mini-8"

EXAMPLES = """examples:
  ./run_all.sh --methods symerge ties                 two methods on the embedded default suite, in a few minutes
  ./run_all.sh --methods adamerging:granularity=task,trim=true --seeds 0 1 2 3 4
  ./run_all.sh --methods ties --set ties.keep=0.1 --suite vision-mini-8 vision-mini-20
  ./run_all.sh --methods all --dry-run                the plan, without running it
  ./run_all.sh list                                   suites and methods
"""


def _kind(text: str) -> str:
    if text not in ("failed", "superseded", "stale"):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: failed, superseded, stale")
    return text


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(
        prog="symerge-bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
        description="Benchmark of model-merging methods: run them, rank them, compare them.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="merge, evaluate, record, and write the boards (the default of ./run_all.sh)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    run.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME[:key=value,...]",
        help="methods and variants; 'all' for every one; default: the suite's own list",
    )
    run.add_argument("--suite", nargs="+", default=[DEFAULT_SUITE], metavar="NAME", help=f"default: {DEFAULT_SUITE}")
    run.add_argument("--backbone", help="default: the suite's first")
    run.add_argument("--family", help="who trained the checkpoints; default: the suite's first")
    run.add_argument(
        "--checkpoints", type=resolved, metavar="DIR", help="full suites: where families lie (or SYMERGE_CHECKPOINTS)"
    )
    run.add_argument("--data-root", type=resolved, metavar="DIR", help="full suites: where data lie (or SYMERGE_DATA)")
    run.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="N",
        help="seeds of stochastic methods, default 0; deterministic ones run once",
    )
    run.add_argument("--set", action="append", default=[], metavar="NAME.key=value", help="a keyword of a method")
    run.add_argument(
        "--device",
        nargs="+",
        default=["cpu"],
        metavar="NAME",
        help="cpu, cuda, cuda:N or auto; default cpu. Several: a process on each, which share the runs",
    )
    run.add_argument("--worker", type=resolved, metavar="FILE", help=argparse.SUPPRESS)
    run.add_argument("--executor", choices=["here", "ray"], default="here", help="here, or a Ray cluster's workers")
    run.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster, or auto; default: one of this machine, for this run"
    )
    run.add_argument("--dtype", default="float32", help="of the evaluated weights: float32, bfloat16, float16")
    run.add_argument("--autocast", choices=["float16", "bfloat16"], help="mixed precision in adaptation and evaluation")
    run.add_argument(
        "--vectors", choices=["float32", "bfloat16", "float16"], default="float32",
        help="of the task vectors that adaptation holds on the device; default float32",
    )  # fmt: skip
    run.add_argument(
        "--results", type=resolved, metavar="DIR", help="where records and boards go; default results/local"
    )
    run.add_argument("--reference", action="store_true", help="write the project's own records (results/reference)")
    run.add_argument("--force", action="store_true", help="do runs again that are done already")
    run.add_argument("--time-limit", type=float, metavar="SECONDS", help="per run; default none")
    run.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU; default: all cores")
    run.add_argument("--batch-size", type=int, metavar="N", help="of the evaluation; default: the suite's")
    run.add_argument("--compile", action="store_true", help="evaluate through torch.compile")
    run.add_argument("--discard-merged", action="store_true", help="delete each merged model once it is evaluated")
    run.add_argument(
        "--rehearse",
        action="store_true",
        help="a full suite's path with random weights and generated images, one update of what adapts; no results",
    )
    run.add_argument("--memory-limit", type=float, metavar="GIB", help="of a rehearsal's runs; default 75 %% of free")
    run.add_argument("--unchecked", action="store_true", help="run what cannot fit by estimate all the same")
    run.add_argument(
        "--dry-run", action="store_true", help="print the plan with each run's memory, disk and time, and stop"
    )

    listed = commands.add_parser("list", help="suites, methods with their access and paper; one method in full")
    listed.add_argument("what", nargs="?", metavar="suites|methods|NAME", help="NAME: a method; default: all suites "
                        "and methods")  # fmt: skip

    board = commands.add_parser("board", help="write the boards again from records")
    board.add_argument("--results", type=resolved, metavar="DIR", help="default results/local")
    board.add_argument("--reference", action="store_true", help="the project's own (results/leaderboard.*)")
    board.add_argument("--plots", action="store_true", help="also write figures to DIR/plots")
    board.add_argument("--notebook", action="store_true", help="also execute the notebook of figures, DIR/plots.ipynb")

    clean = commands.add_parser("clean", help="remove runs that failed or were superseded: says which, then asks")
    clean.add_argument(
        "kinds", nargs="*", metavar="failed|superseded|stale", type=_kind,
        help="default: failed (and not put right since) and superseded (no board shows them). stale: of code or a "
        "suite that has changed; a board may show them, so they go only where named",
    )  # fmt: skip
    clean.add_argument("--results", type=resolved, metavar="DIR", help="default results/local")
    clean.add_argument("--suite", nargs="+", metavar="NAME", help="only these suites' runs; default: all")
    clean.add_argument("--yes", action="store_true", help="remove without asking")

    compare = commands.add_parser("compare", help="two methods on the same samples: difference, interval, wins by task")
    compare.add_argument("first", metavar="NAME[:key=value,...]")
    compare.add_argument("second", metavar="NAME[:key=value,...]")
    compare.add_argument("--suite", default=DEFAULT_SUITE)
    compare.add_argument("--backbone", help="needed where the suite has records on several")
    compare.add_argument("--family", help="of the checkpoints; needed where there are several")
    compare.add_argument(
        "--results", type=resolved, metavar="DIR", help="default: results/local, and results/reference"
    )

    validity = commands.add_parser(
        "validity", help="how well a small suite's ranking predicts the published one, by class of method"
    )
    validity.add_argument("suite", metavar="SUITE", nargs="?", default=DEFAULT_SUITE, help=f"default: {DEFAULT_SUITE}")
    validity.add_argument("--backbone", help="default: the suite's first")
    validity.add_argument("--family", help="of the checkpoints; default: the suite's first")
    validity.add_argument(
        "--results", type=resolved, metavar="DIR", help="default: results/reference, and results/local"
    )

    study = commands.add_parser("study", help="experiments built from runs: transfer of layers, cross-task performance")
    study.add_argument("kind", choices=KINDS)
    study.add_argument("rest", nargs=argparse.REMAINDER, help="see: study KIND --help")

    schedule = commands.add_parser("schedule", help="time and GPU hours of a whole board on N GPUs, by simulation")
    schedule.add_argument("--gpus", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="default 1 8 64")
    schedule.add_argument("--suite", nargs="+", default=["vision-8", "vision-14", "vision-20"], metavar="NAME")
    schedule.add_argument("--backbone", nargs="+", metavar="NAME", help="default: all of the first suite's")
    schedule.add_argument("--methods", nargs="+", metavar="NAME[:key=value,...]", help="default: the whole registry")
    schedule.add_argument("--without", nargs="+", default=[], metavar="NAME", help="methods left out")
    schedule.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="default 0 to 4")
    schedule.add_argument("--tflops", type=float, default=20.0, metavar="N", help="of a GPU, sustained; default 20")
    schedule.add_argument("--bandwidth", type=float, default=1.0, metavar="TB/S", help="of its memory; default 1")
    schedule.add_argument("--memory", type=float, default=80.0, metavar="GIB", help="of a GPU; default 80")
    schedule.add_argument("--longest", type=int, default=5, metavar="N", help="how many of the longest runs to name")

    submit = commands.add_parser("submit", help="pack, check and verify records of a third party")
    submit.add_argument("action", choices=["pack", "validate", "verify", "schema"])
    submit.add_argument("rest", nargs=argparse.REMAINDER, help="see: submit ACTION --help")

    upgrade = commands.add_parser("upgrade", help="write records of earlier versions of the program as this one does")
    upgrade.add_argument("--results", type=resolved, metavar="DIR", help="default results/local")
    upgrade.add_argument("--reference", action="store_true", help="the project's own records")

    assets = commands.add_parser("assets", help="data: check, fetch, rebuild; checkpoints: import; experts: train")
    assets.add_argument("kind", choices=["data", "checkpoints", "experts"])
    assets.add_argument("rest", nargs=argparse.REMAINDER, help="see: assets data|checkpoints|experts --help")
    return top
