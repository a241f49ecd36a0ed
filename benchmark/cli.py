"""The command line: ``symerge-bench`` = ``python -m benchmark``. Help and lists answer without torch."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import methods
from benchmark import suites
from benchmark.errors import UserError, shown
from benchmark.spec import parse_set
from benchmark.studies import KINDS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
LOCAL, REFERENCE, SUBMITTED = RESULTS / "local", RESULTS / "reference", RESULTS / "submitted"
DEFAULT_SUITE = "vision-mini-8"

# A method that says in one line why it does not fit a suite's experts is no failure of the run.
NOT_APPLICABLE = methods.NotApplicable.__name__

EXAMPLES = """examples:
  ./run_all.sh --methods symerge ties                 two methods on the embedded default suite, in a few minutes
  ./run_all.sh --methods adamerging:granularity=task,trim=true --seeds 0 1 2 3 4
  ./run_all.sh --methods ties --set ties.keep=0.1 --suite vision-mini-8 vision-mini-20
  ./run_all.sh --methods all --dry-run                the plan, without running it
  ./run_all.sh list                                   suites and methods
"""


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
        "--checkpoints", type=Path, metavar="DIR", help="full suites: where families lie (or SYMERGE_CHECKPOINTS)"
    )
    run.add_argument("--data-root", type=Path, metavar="DIR", help="full suites: where data lie (or SYMERGE_DATA)")
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
    run.add_argument("--worker", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    run.add_argument("--executor", choices=["here", "ray"], default="here", help="here, or a Ray cluster's workers")
    run.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster, or auto; default: one of this machine, for this run"
    )
    run.add_argument("--dtype", default="float32", help="of the evaluated weights: float32, bfloat16, float16")
    run.add_argument("--autocast", choices=["float16", "bfloat16"], help="mixed precision in adaptation and evaluation")
    run.add_argument("--results", type=Path, metavar="DIR", help="where records and boards go; default results/local")
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

    listed = commands.add_parser("list", help="suites, and methods with their access and paper")
    listed.add_argument("what", nargs="?", choices=["suites", "methods"], help="default: both")

    board = commands.add_parser("board", help="write the boards again from records")
    board.add_argument("--results", type=Path, metavar="DIR", help="default results/local")
    board.add_argument("--reference", action="store_true", help="the project's own (results/leaderboard.*)")
    board.add_argument("--plots", action="store_true", help="also write figures to DIR/plots")
    board.add_argument("--notebook", action="store_true", help="also execute the notebook of figures, DIR/plots.ipynb")

    compare = commands.add_parser("compare", help="two methods on the same samples: difference, interval, wins by task")
    compare.add_argument("first", metavar="NAME[:key=value,...]")
    compare.add_argument("second", metavar="NAME[:key=value,...]")
    compare.add_argument("--suite", default=DEFAULT_SUITE)
    compare.add_argument("--results", type=Path, metavar="DIR", help="default: results/local, and results/reference")

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

    assets = commands.add_parser("assets", help="data: check, fetch, rebuild; checkpoints: import; experts: train")
    assets.add_argument("kind", choices=["data", "checkpoints", "experts"])
    assets.add_argument("rest", nargs=argparse.REMAINDER, help="see: assets data|checkpoints|experts --help")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 when a run failed, 2 for what the user can mend, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(argv)
    warnings.showwarning = _warning
    try:
        return int(
            {
                "run": _run,
                "list": _list,
                "board": _board,
                "compare": _compare,
                "study": _study,
                "schedule": _schedule,
                "submit": _submit,
                "assets": _assets,
            }[arguments.command](arguments, argv)
            or 0
        )
    except (UserError, methods.MergingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done is kept, the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, (UserWarning, RuntimeWarning)):
        print(f"warning: {message}", file=sys.stderr)


def _folders(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Where records lie, and where boards are written."""
    if arguments.reference:
        if arguments.results:
            raise UserError("--reference and --results exclude each other", "Leave one of them out.")
        return REFERENCE, RESULTS
    folder = arguments.results or LOCAL
    return folder, folder


def _sets(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, key, value = parse_set(text)
        found.setdefault(name, {})[key] = value
    return found


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    records_folder, boards = _folders(arguments)
    loaded = [suites.load(name) for name in arguments.suite]
    for text in arguments.methods or []:
        if text != "all":
            methods.describe(text.partition(":")[0])
    _check_seeds(arguments.seeds)
    for what in ("threads", "batch_size", "time_limit", "memory_limit"):
        value = getattr(arguments, what)
        if value is not None and value <= 0:
            raise UserError(f"--{what.replace('_', '-')} is {value}; a positive number is wanted")

    _check_executor(arguments)
    if arguments.rehearse:
        from benchmark import rehearse

        return max(rehearse.main(arguments, suite, records_folder, argv) for suite in loaded)

    import torch

    from benchmark import devices, dry_run, leaderboard, runner
    from benchmark.store import Store
    from benchmark.suites.bench import resolve_device

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plans = []
    for suite in loaded:
        bench = _open(arguments, suite)
        plans.append(
            (
                bench,
                runner.plan(
                    bench,
                    runner.suite_methods(suite, arguments.methods),
                    seeds=arguments.seeds,
                    sets=_sets(arguments.set),
                    dtype=arguments.dtype,
                    autocast_dtype=arguments.autocast,
                ),
            )
        )
    store = Store(records_folder)
    if arguments.dry_run:
        return _print_plan(arguments, plans, store)
    if not arguments.unchecked and not arguments.worker and arguments.executor == "here":
        dry_run.refuse(plans, store, records_folder, **_how(arguments))
    before = devices.told(arguments.worker) if arguments.worker else None
    if len(arguments.device) > 1:
        for name in arguments.device:
            resolve_device(name)
        before = runner.before((run for _, runs in plans for run in runs), store)
        devices.spread(argv, arguments.device, before, arguments.threads)
    options = runner.Options(
        before=before,
        force=arguments.force,
        time_limit=arguments.time_limit,
        keep_merged=not arguments.discard_merged,
        argv=["run_all.sh", *argv[1:]],
        batch_size=arguments.batch_size,
        compile=arguments.compile,
    )
    failed = []
    carried_out = _carry_out(arguments, plans, store, options)
    for bench, _ in plans:
        try:
            records = next(carried_out)
        except BaseException:
            # What stopped the runs is what the user must hear, not that a full disk takes no boards either.
            if not arguments.worker:
                with contextlib.suppress(UserError, OSError):
                    _write_boards(store, boards)
            raise
        made = [] if arguments.worker else _write_boards(store, boards)
        failed += [r for r in records if r.status != "done"]
        for board in made:
            if (board.suite, board.backbone, board.family) == (bench.suite.name, bench.backbone, bench.family):
                leaderboard.print_board(board)
    if arguments.worker:
        return 1 if failed else 0
    print(f"\nboards: {shown(boards / 'leaderboard.md')} and {shown(boards / 'boards')}", file=sys.stderr)
    unfit = [r for r in failed if r.error and r.error.type == NOT_APPLICABLE]
    for record in failed:
        reason = f"{record.error.type}: {record.error.message}" if record.error else record.status
        word = "left out" if record in unfit else "failed"
        print(f"{word}: {record.variant} on {record.spec.suite}: {reason}", file=sys.stderr)
    return 1 if len(failed) > len(unfit) else 0


def _carry_out(arguments: argparse.Namespace, plans: Sequence[Any], store: Any, options: Any) -> Iterator[list[Any]]:
    """The records of each plan: plan after plan in this process, or all together on a cluster."""
    if arguments.executor == "ray":
        from benchmark import cluster

        yield from cluster.main(arguments, plans, store, options)
        return
    from benchmark import runner

    for bench, runs in plans:
        yield runner.execute(runs, bench, store, options)


def _check_executor(arguments: argparse.Namespace) -> None:
    if arguments.executor == "here":
        if arguments.address:
            raise UserError("--address is that of a Ray cluster", f"Type --executor ray --address {arguments.address}")
    elif arguments.rehearse:
        raise UserError("--rehearse runs in this process", "Leave --executor out.")
    elif arguments.device not in (["cpu"], ["cuda"], ["auto"]):
        raise UserError(
            f"--executor ray with --device {' '.join(arguments.device)}: Ray chooses the devices of its workers",
            "Type --device cpu, cuda or auto.",
        )


def _check_seeds(seeds: Sequence[int]) -> None:
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError(
            f"--seeds {' '.join(map(str, seeds))}: different whole numbers from 0 are wanted",
            "Type e.g. --seeds 0 1 2 3 4",
        )


def _open(arguments: argparse.Namespace, suite: suites.Suite) -> Any:
    """The suite's bench; for a dry run of a full suite without its files, what a plan needs of it."""
    try:
        return suites.open_bench(
            suite,
            backbone=arguments.backbone,
            family=arguments.family,
            # A cluster's devices are its workers'; here only the plan is made.
            device="cpu" if arguments.executor == "ray" else arguments.device[0],
            dtype=arguments.dtype,
            data_root=arguments.data_root,
            checkpoints=arguments.checkpoints,
        )
    except UserError as error:
        if not arguments.dry_run or suite.scale != "full":
            raise
        from benchmark.dry_run import Planned

        planned = Planned(suite, arguments.backbone, arguments.family)
        print(f"note: {error}\n", file=sys.stderr)
        return planned


def _how(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that estimates depend on."""
    return {
        "device": arguments.device[0],
        "dtype": arguments.dtype,
        "autocast": arguments.autocast,
        "batch_size": arguments.batch_size,
        "keep_merged": not arguments.discard_merged,
    }


def _print_plan(arguments: argparse.Namespace, plans: Sequence[tuple[Any, Sequence[Any]]], store: Any) -> int:
    """Print the plan; 1 where a run of a full suite cannot fit."""
    from benchmark import dry_run, estimate
    from benchmark.suites.bench import resolve_device

    status = 0
    for bench, runs in plans:
        around = dry_run.setting(bench, **_how(arguments))
        machine = None
        if around is not None:
            machine = estimate.look(resolve_device(arguments.device[0]), store.root, estimate.cache_folder())
        print(dry_run.show(bench, runs, store, around, machine))
        found = dry_run.misfits(runs, around, machine) if around and machine else []
        for line in found:
            print(f"  cannot fit: {line}")
        status = status or int(bool(found) and bench.suite.scale == "full")
    return status


def _list(arguments: argparse.Namespace, argv: list[str]) -> None:
    if arguments.what != "methods":
        print("suites")
        for name in suites.names():
            suite = suites.load(name)
            print(f"  {name:<16} {len(suite.tasks):>2} tasks  {', '.join(suite.backbones):<12} {suite.title}")
    if arguments.what != "suites":
        print("methods" + " " * 15 + "access" + " " * 19 + "paper")
        for name in methods.names():
            about = methods.describe(name)
            keywords = ", ".join(f"{k}={v!r}" for k, v in about.parameters.items())
            print(
                f"  {name:<18}  {about.access.describe():<23}  {about.paper:<20} {about.title}\n{'':22}{keywords}"
                if keywords
                else f"  {name:<18}  {about.access.describe():<23}  {about.paper:<20} {about.title}"
            )
            if about.needs:
                print(f"{'':22}only where the experts have: {', '.join(about.needs)}")


def _reference(store: Any) -> Any:
    from benchmark.store import Store

    return [] if store.root.resolve() == REFERENCE or not REFERENCE.is_dir() else Store(REFERENCE, read_only=True).all()


def _write_boards(store: Any, out: Path) -> list[Any]:
    from benchmark import leaderboard, page

    records = store.all() + (_submitted() if out.resolve() == RESULTS else [])
    made = leaderboard.publish(records, _reference(store), out)
    page.write(made, out, [store.root, REFERENCE, SUBMITTED])
    return made


def _submitted() -> list[Any]:
    """Accepted records of third parties, for the project's own boards."""
    from benchmark.store import Store

    return Store(SUBMITTED, read_only=True).all() if SUBMITTED.is_dir() else []


def _board(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.store import Store

    folder, out = _folders(arguments)
    if not folder.is_dir():
        raise UserError(
            f"no records under {shown(folder)}", "Run something first: ./run_all.sh --methods symerge ties"
        )
    made = _write_boards(Store(folder), out)
    if arguments.plots:
        from benchmark import figures
        from benchmark.studies.places import Places

        studies = Places(out, reference=arguments.reference)
        for path in figures.write(made, Store(folder, read_only=True).all(), out / "plots", studies):
            print(f"wrote {shown(path)}", file=sys.stderr)
        _write_panels(made, folder, out / "plots")
    if arguments.notebook:
        from benchmark import notebook

        print(f"executing {notebook.NAME} on {shown(folder)}, a minute or two", file=sys.stderr)
        print(f"wrote {shown(notebook.execute(RESULTS / notebook.NAME, out))}", file=sys.stderr)
    if arguments.reference:
        from benchmark import published
        from benchmark.pages import methods_page
        from benchmark.store import write_atomic

        write_atomic(ROOT / "methods" / "README.md", methods_page(Store(folder, read_only=True).all()))
        write_atomic(out / "published.md", published.markdown())
    print(f"wrote {shown(out / 'leaderboard.md')}", file=sys.stderr)
    return 0


def _write_panels(boards: Sequence[Any], records: Path, folder: Path) -> None:
    """Pictures of what the runs of dense suites predict, where their merged models were kept."""
    for board in boards:
        if board.suite in suites.names() and suites.load(board.suite).domain == "dense":
            from benchmark.panels import main as panels

            try:
                out = folder / f"{board.name}--panels.png"
                panels(["--suite", board.suite, "--results", str(records), "--out", str(out)])
            except UserError as error:
                print(f"no panels of {board.suite}: {error.message}", file=sys.stderr)


def _compare(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.compare import compare
    from benchmark.store import Store

    folders = [arguments.results] if arguments.results else [f for f in (REFERENCE, LOCAL) if f.is_dir()]
    records = [r for f in folders for r in Store(f, read_only=True).all(arguments.suite)]
    print(compare(records, arguments.first, arguments.second, arguments.suite))
    return 0


def _study(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.studies.command import main as study

    return study(argv[1:])


def _schedule(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.schedule import main as schedule

    return schedule(arguments, REFERENCE)


def _submit(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.submit import main as submit

    return submit(argv[1:])


def _assets(arguments: argparse.Namespace, argv: list[str]) -> int:
    rest = argv[2:]
    if any(name in suites.names() and suites.load(name).domain == "dense" for name in rest):
        from benchmark.models.dense_assets import main as dense

        return dense(arguments.kind, rest)
    if "RoBERTa-base" in rest or any(n in suites.names() and suites.load(n).domain == "glue" for n in rest):
        from benchmark.models.text_assets import main as text

        return text(arguments.kind, rest)
    if arguments.kind == "data":
        if not rest or rest[0] in ("check", "fetch", "-h", "--help"):
            from benchmark.data.check import main as check

            return check(rest)
        if rest[0] == "build":
            rest = rest[1:]
        from benchmark.data.build import main as build

        return build(rest) or 0
    if arguments.kind == "checkpoints":
        from benchmark.models.importers.command import main as checkpoints

        return checkpoints(rest)
    from benchmark.models.retrain import main as retrain

    return retrain(rest) or 0
