"""What verbs share: parsers that wait until they are typed, options that several take, where records lie. No torch."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmark.common.errors import LARGEST_SEED, UserError, check_range, nearest, unknown
from benchmark.common.paths import resolved
from benchmark.common.project import LOCAL, REFERENCE, RESULTS

GIB = 2**30
SEVERAL_METHODS = "NAME[:key=value,...]"
#: In one range of --seeds.
MOST_SEEDS = 1000

EXAMPLES = """examples:
  ./run_all.sh --methods symerge ties                 two methods on the embedded default suite, in a few minutes
  ./run_all.sh --methods adamerging:granularity=task,trim=true --seeds 0 1 2 3 4
  ./run_all.sh --methods ties --set ties.keep=0.1 --suite vision-mini-8 vision-mini-20   seconds, for code
  ./run_all.sh --methods all --dry-run                the plan, without running it
  ./run_all.sh list                                   suites and methods
"""

Words = Sequence[str] | None


class Parser(argparse.ArgumentParser):
    """argparse's, with errors in this project's words: what is unknown, what is near it, what is known."""

    def error(self, message: str) -> NoReturn:
        """Raise :class:`UserError` with argparse's message, or with what was probably meant."""
        choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice is None:
            raise UserError(f"{self.prog}: {message}", f"Type {self.prog} --help")
        known = re.findall(r"[^', ]+", choice[3])
        option = choice[1].startswith("-")
        what = f"value of {choice[1].rpartition('/')[2]}" if option else "command"
        raise unknown(what, choice[2], known)

    def parse_known_args(self, args: Words = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, without words that are left over, which the parser that met them tells best."""
        arguments, extras = super().parse_known_args(args, namespace)
        self.refuse_extras(extras)
        return arguments, extras

    def refuse_extras(self, words: Sequence[str]) -> None:
        """Raise :class:`UserError` for words that no option takes, with the options that are near."""
        if not words:
            return
        options = [word for word in self._option_string_actions if word.startswith("--")]
        first = next((word for word in words if word.startswith("-")), words[0])
        if first.startswith("-"):
            near = nearest(first.partition("=")[0], options)
            guess = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"{self.prog} has no option {first.partition('=')[0]}{guess}", f"Type {self.prog} --help")
        raise UserError(f"{self.prog} takes no word {first!r} there", f"Type {self.prog} --help")


class Seeds(argparse.Action):
    """``--seeds 0 1 2``, ``--seeds 0-4``, ``--seeds 0,3``: a list of numbers."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Put the list in its place. Raises :class:`UserError` for what is no whole number and no range."""
        seeds: list[int] = []
        for word in [part for value in values for part in str(value).split(",") if part]:
            ends = re.fullmatch(r"(\d{1,16})(?:-(\d{1,16}))?", word)
            if ends is None or (ends[2] and not 0 <= int(ends[2]) - int(ends[1]) < MOST_SEEDS):
                said = word if len(word) < 40 else "a word of many characters"
                raise UserError(
                    f"{option} {said}: different whole numbers from 0 to {LARGEST_SEED:,} are wanted",
                    f"Type e.g. {option} 0 1 2, or a range of them: {option} 0-4",
                )
            seeds += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        setattr(namespace, self.dest, seeds)


class Verb(Parser):
    """A verb's parser: its module, with ``options(parser)`` and ``command(arguments)``, is imported when it is typed.

    So help and lists stay quick, and a verb may import what its options need.
    """

    def __init__(self, *words: Any, module: str, **more: Any) -> None:
        super().__init__(*words, **more)
        self.module = module

    def parse_known_args(self, args: Words = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As any parser's, once the module has added its options."""
        module = importlib.import_module(self.module)
        module.options(self)
        if hasattr(module, "command"):
            self.set_defaults(call=module.command)
        return super().parse_known_args(args, namespace)


class Handed(Parser):
    """A command with a parser of its own: ``main`` is handed the words that follow, ``--help`` among them.

    Without ``main`` it is a parser like any other.
    """

    def __init__(self, *words: Any, main: Callable[[list[str]], int | None] | None = None, **more: Any) -> None:
        super().__init__(*words, **more)
        self.main = main

    def parse_known_args(self, args: Words = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """All words, for ``main``."""
        main, words = self.main, list(args or ())
        if main is None:
            return super().parse_known_args(args, namespace)
        return argparse.Namespace(call=lambda arguments: main(words)), []


def verbs(parser: argparse.ArgumentParser, modules: dict[str, tuple[str, str]], **more: Any) -> None:
    """Add verbs to a parser: ``{name: (module, what help says of it)}``."""
    commands = parser.add_subparsers(parser_class=Verb, required=True, **more)
    for name, (module, text) in modules.items():
        commands.add_parser(name, module=module, help=text)


def later(module: str, function: str = "main") -> Callable[..., Any]:
    """The function of a module that is imported when it is called."""
    return lambda *words, **more: getattr(importlib.import_module(module), function)(*words, **more)


def add_place(parser: argparse.ArgumentParser) -> None:
    """``--backbone`` and ``--family``."""
    parser.add_argument("--backbone", help="default: the suite's first")
    parser.add_argument("--family", help="who trained the checkpoints; default: the suite's first")


def add_results(parser: argparse.ArgumentParser, reference: str, results: str = "default results/local") -> None:
    """``--results`` and ``--reference``, which exclude each other."""
    parser.add_argument("--results", type=resolved, metavar="DIR", help=results)
    parser.add_argument("--reference", action="store_true", help=reference)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: one."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto; default cpu")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads``."""
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU; default: all cores")


def check_threads(arguments: argparse.Namespace) -> None:
    """Raise UserError for a ``--threads`` that no machine has."""
    check_range("--threads", arguments.threads, 1, 4096)


def add_force(parser: argparse.ArgumentParser) -> None:
    """``--force``."""
    parser.add_argument("--force", action="store_true", help="do runs again that are done already")


def folders(results: Path | None, reference: bool) -> tuple[Path, Path]:
    """Where records lie, and where boards are written. Raises UserError for two folders."""
    if not reference:
        return results or LOCAL, results or LOCAL
    if results:
        raise UserError("--reference and --results exclude each other", "Leave one of them out.")
    return REFERENCE, RESULTS
