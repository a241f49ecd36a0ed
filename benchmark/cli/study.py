"""``symerge-bench study transfer|pilot|ablate``: run a study, and write its tables and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import suites
from benchmark.cli.options import (
    SEVERAL_METHODS,
    Parser,
    Seeds,
    add_device,
    add_force,
    add_place,
    add_results,
    add_threads,
    check_threads,
    folders,
)
from benchmark.common.errors import UserError, check_range, check_seeds, shown
from benchmark.common.escapes import csv, terminal
from benchmark.common.files import write_atomic
from benchmark.records.record import Record
from benchmark.studies import KINDS, settings
from benchmark.studies.places import Places


def options(parser: argparse.ArgumentParser) -> None:
    """Add the kinds of studies, each with its options."""
    parser.description = (
        "Experiments built from runs: records as of any run, tables as CSV and Markdown, heat maps as PNG. "
        "The same command continues where it was stopped."
    )
    kinds = parser.add_subparsers(dest="kind", metavar="|".join(KINDS), required=True, parser_class=Parser)
    for kind, about, suite, add, work in (
        (
            "transfer", "layers that one method adapted, placed on the merges of others", "vision-mini-8",
            _transfer_options, _transfer,
        ),
        (
            "pilot", "every head on every expert's encoder, and how well sets of tasks merge", "vision-mini-20",
            _pilot_options, _pilot,
        ),
        (
            "ablate", "variants of a method in several settings, as benchmark/studies/ablations/*.yaml list them", None,
            _ablate_options, _ablate,
        ),
    ):  # fmt: skip
        one = kinds.add_parser(kind, help=about, description=about)
        one.set_defaults(work=work)
        one.add_argument("--suite", default=suite, metavar="NAME", help=f"default {suite or 'as the file says'}")
        add_place(one)
        one.add_argument(
            "--seeds",
            nargs="+",
            action=Seeds,
            metavar="N",
            help="of what is stochastic, such as 0 1 2 or 0-4; default 0, or as the study's file says",
        )
        add_device(one)
        add_threads(one)
        add_results(one, "the project's own (results/studies)")
        add_force(one)
        one.add_argument(
            "--tables",
            action="store_true",
            help="run nothing: tables and figures from the records, and the tables within DIR/*.md",
        )
        add(one)


def _transfer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        metavar=SEVERAL_METHODS,
        help="methods that adapt a layer per task; default symerge model_tinting surgery",
    )
    parser.add_argument(
        "--to",
        dest="recipients",
        nargs="+",
        metavar=SEVERAL_METHODS,
        help="merges that receive them; base and experts always do",
    )


def _pilot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar=SEVERAL_METHODS,
        help="mergers; heads are adapted on the merges of the first one",
    )
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["2:60", "4:30"],
        metavar="SIZE:COUNT",
        help="sets of tasks that are merged; default 2:60 4:30",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=100,
        metavar="N",
        help="rounds of the heads' adaptation, default 100; 0 leaves it out",
    )


def _ablate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="STUDY",
        help=f"default all, with --tables those that have one: {', '.join(settings.names())}",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run one study. Returns 0, or 1 where a run failed. Raises UserError for numbers that are none."""
    check_threads(arguments)
    check_seeds(arguments.seeds or [0])
    check_range("--steps", getattr(arguments, "steps", None), 0, 100_000_000)
    _, out = folders(arguments.results, arguments.reference)
    places = Places(out, reference=arguments.reference)
    failed = arguments.work(arguments, places)
    from benchmark.studies import pages

    _say_written(pages.refresh(places.reports))
    return 1 if failed else 0


def _transfer(arguments: argparse.Namespace, places: Places) -> list[Record]:
    suite, failed = suites.load(arguments.suite), []
    if not arguments.tables:
        from benchmark.studies import transfer

        records = transfer.run(
            _open(arguments, suite),
            arguments.sources or transfer.SOURCES,
            arguments.recipients or transfer.RECIPIENTS,
            seeds=arguments.seeds or [0],
            runs=places.runs,
            derived=places.derived,
            options=_options(arguments),
        )
        failed = _failed(records)
    _say_written(_transfer_tables(places, suite, _name(arguments, suite)))
    return failed


def _pilot(arguments: argparse.Namespace, places: Places) -> list[Record]:
    suite, failed = suites.load(arguments.suite), []
    if not arguments.tables:
        from benchmark.studies import pilot

        records = pilot.run(
            _open(arguments, suite),
            arguments.methods or pilot.MERGERS,
            sets=_sets(arguments.sets),
            seeds=arguments.seeds or [0],
            derived=places.derived,
            options=_options(arguments),
            steps=arguments.steps,
        )
        failed = _failed(records)
    _say_written(_pilot_tables(places, suite, _name(arguments, suite)))
    return failed


def _ablate(arguments: argparse.Namespace, places: Places) -> list[Record]:
    names = arguments.names or settings.names()
    if arguments.tables and not arguments.names:
        names = [name for name in names if name in places.written("ablations")]
    failed: list[Record] = []
    for study in [settings.load(name) for name in names]:
        for setting in () if arguments.tables else study.settings:
            failed += _run_setting(arguments, study, setting, places)
        _say_written(_ablation_tables(places, study, arguments.suite))
    return failed


def _run_setting(arguments: argparse.Namespace, study: Any, setting: Any, places: Places) -> list[Record]:
    from benchmark.studies import ablation

    bench = _open(arguments, suites.load(arguments.suite or setting.suite or study.suite))
    print(f"{study.name}: {setting.say()}, on {bench.suite.name}", file=sys.stderr)
    records = ablation.run(
        bench,
        study,
        setting,
        seeds=arguments.seeds or study.seeds,
        store=places.derived,
        known=places.known,
        options=_options(arguments),
    )
    return _failed(records)


def _open(arguments: argparse.Namespace, suite: Any) -> Any:
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return suites.open_bench(suite, backbone=arguments.backbone, family=arguments.family, device=arguments.device)


def _options(arguments: argparse.Namespace) -> Any:
    from benchmark.harness.job import Options

    return Options(force=arguments.force, argv=["run_all.sh", *arguments.argv])


def _name(arguments: argparse.Namespace, suite: Any) -> str:
    """Of the files of a study on one suite."""
    from benchmark.board.rows import name_of

    return name_of(suite.name, arguments.backbone or suite.backbones[0], arguments.family or suite.families[0])


def _say_written(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"wrote {shown(path)}", file=sys.stderr)


def _failed(records: Sequence[Record]) -> list[Record]:
    """Say which runs have no scores; those that do not fit the method are no failure."""
    unfit = [r for r in records if r.status != "done" and r.error and r.error.type == "NotApplicable"]
    for record in (r for r in records if r.status != "done"):
        word = "left out" if record in unfit else "failed"
        why = record.error.line() if record.error else record.status
        print(terminal(f"{word}: {record.variant}: {why}"), file=sys.stderr)
    return [r for r in records if r.status != "done" and r not in unfit]


def _sets(texts: Sequence[str]) -> dict[int, int]:
    counts = {}
    for text in texts:
        size, colon, count = text.partition(":")
        if not (colon and size.isdigit() and count.isdigit() and int(size) > 1):
            raise UserError(f"--sets {text!r} is not SIZE:COUNT", "Write e.g. --sets 2:60 4:30")
        counts[int(size)] = int(count)
    return counts


def _transfer_tables(places: Places, suite: Any, name: str) -> list[Path]:
    from benchmark.report import study_figures
    from benchmark.report.plots import save
    from benchmark.studies import contents, pages

    frame, about = contents.transfer(places, suite.name)
    folder = places.tables / "transfer"
    write_atomic(folder / f"{name}.csv", csv(frame))
    write_atomic(folder / f"{name}.md", pages.transfer_page(frame, about))
    figure = save(study_figures.transfer(frame, about.line()), places.plots / f"{name}--transfer.png")
    return [folder / f"{name}.csv", folder / f"{name}.md", figure]


def _pilot_tables(places: Places, suite: Any, name: str) -> list[Path]:
    from benchmark.report import study_figures
    from benchmark.report.plots import save
    from benchmark.studies import contents, pages, tables

    cross, points, about = contents.pilot(places, suite.name)
    folder, coefficients = places.tables / "pilot", tables.correlations(points)
    write_atomic(folder / f"{name}--cross-task.csv", csv(pages.cross_task_frame(cross)))
    write_atomic(folder / f"{name}--points.csv", csv(points))
    write_atomic(folder / f"{name}--correlations.csv", csv(coefficients))
    write_atomic(folder / f"{name}.md", pages.pilot_page(cross, coefficients, about))
    return [
        folder / f"{name}.md",
        save(study_figures.cross_task(cross, about.line()), places.plots / f"{name}--cross-task.png"),
        save(study_figures.correlation(points, coefficients, about.line()), places.plots / f"{name}--correlation.png"),
    ]


def _ablation_tables(places: Places, study: Any, suite: str | None) -> list[Path]:
    from benchmark.records.store import safe_name
    from benchmark.report import study_figures
    from benchmark.report.plots import save
    from benchmark.studies import contents, pages

    frame, about = contents.ablation(places, study, suite)
    folder = places.tables / "ablations"
    name = study.name + (f"--{safe_name(suites.load(suite).name)}" if suite and suite != study.suite else "")
    write_atomic(folder / f"{name}.csv", csv(frame))
    write_atomic(folder / f"{name}.md", pages.ablation_page(study, frame, about))
    figure = study_figures.ablation(frame, f"{study.question}\n{about.line()}")
    return [folder / f"{name}.csv", folder / f"{name}.md", save(figure, places.plots / f"ablation--{name}.png")]
