"""The command ``merge``: a user's own fine-tuned models into one that loads as their base does."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.options import add_device
from benchmark.common.errors import UserError, shown
from benchmark.common.escapes import terminal
from benchmark.common.paths import resolved
from benchmark.merging.checks import check_free, check_weights
from benchmark.merging.given import Given, reads_texts
from benchmark.records.spec import checked_parameters, parse_method, parse_value

if TYPE_CHECKING:
    from benchmark.checkpoints.alignment import Aligned
    from benchmark.merging.data import Sight
    from benchmark.merging.merge import Plan
    from methods.api import Merged

BOARD = "board.md"
EXAMPLE = "--base ./base --experts cats=./cats dogs=./dogs --out ./merged"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""examples:
  symerge-bench merge ties {EXAMPLE}
  symerge-bench merge task_arithmetic --weights 0.5 1 {EXAMPLE}
  symerge-bench merge --which {EXAMPLE.partition(" --out")[0]}
Base and experts are files of safetensors or torch.save, or folders as save_pretrained writes them, shards among them;
experts may be LoRA adapters of PEFT. docs/merging.md has the rest."""
    add("method", nargs="?", metavar="NAME[:key=value,...]", help="a method of ./run_all.sh list")
    add("--base", required=True, type=resolved, metavar="PATH", help="the model that all experts were fine-tuned from")
    add("--experts", required=True, nargs="+", metavar="NAME=PATH", help="the experts, each with a name for its task")
    add("--out", type=resolved, metavar="DIR", help="the folder to write")
    add("--weights", nargs="+", type=float, metavar="W", help="one for each expert; multiplies its task vector")
    add("--set", action="append", default=[], metavar="key=value", help="a keyword of the method")
    add("--heads", nargs="+", default=[], metavar="NAME", help="modules that stay each task's own, such as classifier")
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights written; default: the base's")
    add("--overwrite", action="store_true", help="replace what --out holds")
    add(
        "--images",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="unlabelled images of tasks, for methods that adapt",
    )
    add(
        "--labelled",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="the same with labels: class folders, CSV, parquet",
    )
    add(
        "--texts",
        nargs="+",
        default=[],
        metavar="NAME=FILE[:COLUMN]",
        help="unlabelled texts of tasks; of pairs NAME=FILE:FIRST+SECOND",
    )
    add(
        "--encoder", metavar="LIBRARY/NAME", help="with images: what the base is, where no configuration lies beside it"
    )
    add("--features", metavar="KIND", help="with images, of transformers' models: pooled, cls, mean or projected")
    add("--head", metavar="NAME", help="with images: what stands before .weight of the experts' classifiers")
    add("--advise", action="store_true", help="score the data-free methods on the images, write the best one to --out")
    add("--which", action="store_true", help="print which methods can merge these, and why the others cannot")
    add_device(parser)


def command(arguments: argparse.Namespace) -> int:
    """``merge``. Returns 0. Raises UserError, MergingError for what the user can mend."""
    experts = named(arguments.experts, "--experts")
    given = _given(arguments)
    if arguments.method is None and not (arguments.which or arguments.advise):
        raise UserError("no method was named", f"Type e.g. symerge-bench merge ties {EXAMPLE}")
    if arguments.method is not None and arguments.advise:
        raise UserError("--advise chooses the method", f"Leave {arguments.method} out.")
    if arguments.out is None and not (arguments.which or arguments.advise):
        raise UserError("--out is missing", f"Type e.g. symerge-bench merge {arguments.method} {EXAMPLE}")
    if arguments.advise and not given:
        raise UserError(
            "--advise has nothing to score methods on",
            "Give --labelled NAME=FOLDER, or --images, for each task; without data see results/leaderboard.md",
        )
    keywords = _keywords(arguments)
    _check(arguments, keywords, len(experts))
    from benchmark.merging.opening import told

    with told(), _whole_or_not_at_all():
        aligned, sight = _opened(arguments.base, experts, arguments.heads, given)
        if arguments.which:
            return _which(aligned, given, sight)
        if arguments.advise:
            return _advise(arguments, aligned, sight, given)
        return _merge(arguments, aligned, sight, given, keywords)


@contextlib.contextmanager
def _whole_or_not_at_all() -> Iterator[None]:
    """An interrupted merge leaves nothing to go on from."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note("stopped; nothing was written: --out is written whole or not at all")
        raise


def _given(arguments: argparse.Namespace) -> Given:
    if arguments.texts and (arguments.images or arguments.labelled):
        raise UserError("--texts and images exclude each other", "Give one kind of data.")
    return Given(
        named(arguments.images, "--images"),
        named(arguments.labelled, "--labelled"),
        text_files(arguments.texts),
        arguments.encoder,
        arguments.features,
        arguments.head,
    )


def text_files(words: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """``{name: (file, column)}`` of ``NAME=FILE[:COLUMN]`` words, the column ``""`` where none is named."""
    found = {}
    for name, path in named(words, "--texts").items():
        file, _, column = str(path).rpartition(":")
        found[name] = (path, "") if path.is_file() or not file else (Path(file), column)
    return found


def _check(arguments: argparse.Namespace, keywords: dict[str, Any], count: int) -> None:
    """Raise UserError or MergingError for what can be seen to be wrong before a file is opened."""
    if arguments.method is not None:
        checked_parameters(arguments.name, keywords)
    if arguments.weights is not None:
        check_weights(arguments.weights, count)
    if arguments.out is not None and not arguments.which:
        check_free(arguments.out, arguments.overwrite)


def named(words: Sequence[str], option: str) -> dict[str, Path]:
    """``{name: path}`` of ``NAME=PATH`` words. Raises UserError for a name without a path, or one given twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, sign, path = word.partition("=")
        if not (name and sign and path) or "/" in name:
            raise UserError(f"{option} {word}: expected NAME=PATH", f"Type e.g. {option} {Path(word).stem}={word}")
        if re.search(r",[^,/=]+=", path):
            raise UserError(f"{option} {word} holds a comma", f"Type {option} {re.sub(r',(?=[^,/=]+=)', ' ', word)}")
        if name in found:
            raise UserError(f"{option} names {name!r} twice", "Give each task a name of its own.")
        found[name] = resolved(path)
    return found


def _keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.method is None:
        return {}
    arguments.name, keywords = parse_method(arguments.method)
    for text in arguments.set:
        key, sign, value = text.partition("=")
        key = key.removeprefix(f"{arguments.name}.")
        if not sign:
            raise UserError(f"--set {text}: expected key=value", "Type e.g. --set scale=0.3")
        if key in keywords:
            raise UserError(f"{key} of {arguments.name} is given twice", f"Type it once, e.g. --set {text}")
        keywords[key] = parse_value(value)
    return keywords


def _opened(base: Path, experts: dict[str, Path], heads: Sequence[str], given: Given) -> tuple[Aligned, Sight | None]:
    from benchmark.checkpoints.models import open_model
    from benchmark.merging.opening import open_aligned

    if given:
        from benchmark.merging import data, texts

        look = texts.look if given.texts else data.look
        return look(open_model(base), experts, given, heads)
    return open_aligned(base, experts, heads), None


def _merge(
    arguments: argparse.Namespace, aligned: Aligned, sight: Sight | None, given: Given, keywords: dict[str, Any]
) -> int:
    import torch

    from benchmark.merging import card, merge
    from benchmark.suites.bench import resolve_device

    plan = merge.Plan(aligned, arguments.name, keywords, arguments.weights)
    merge.check(plan)
    if plan.access:
        _check_data(plan, given)
    device = resolve_device(arguments.device)
    notes = [*aligned.notes, *(sight.notes if sight else []), *plan.said]
    for note in notes:
        print(terminal(note))
    begin = time.monotonic()
    # Hashing frees the interpreter, so it takes another core while tensors are merged on this one.
    with ThreadPoolExecutor(1) as beside, merge.new_folder(arguments.out, arguments.overwrite) as place:
        hashed = beside.submit(aligned.hash_files)
        dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
        merged = _adapted(plan, sight, device) if plan.access and sight else None
        names = sight.head_names if sight else {}
        merge.write(plan, place, dtype=dtype, merged=merged, device=device, head_names=names)
        hashed.result()
        about = card.describe(plan, f"symerge-bench {shlex.join(arguments.argv)}", notes)
        card.write_card(place, about, aligned)
    seconds = time.monotonic() - begin
    print(
        terminal(
            f"{shown(arguments.out)}: {len(aligned.names)} tensors of {len(plan.tasks)} experts merged by "
            f"{plan.about.title} in {seconds:.0f} s; README.md there says how to load it"
        )
    )
    return 0


def _check_data(plan: Plan, given: Given) -> None:
    """Raise UserError where a method is not given the data that it needs."""
    if lacking := given.lacking(plan.access, plan.tasks, texts=reads_texts(plan.aligned.base.config)):
        raise UserError(f"{plan.method} {lacking}", "Or choose a method that needs none: --which lists them.")


def _adapted(plan: Plan, sight: Sight, device: Any) -> Merged:
    """The merge of a method that is handed images."""
    from benchmark.merging import merge

    experts = sight.experts(plan, device)
    seed = int(plan.parameters.get("seed") or 0)
    return merge.merge_experts(plan, experts, sight.stream(plan.access, plan.tasks, device, seed))


def _which(aligned: Aligned, given: Given, sight: Sight | None) -> int:
    from benchmark.merging.which import table

    for line in table(aligned, given, sight):
        print(terminal(line))
    return 0


def _advise(arguments: argparse.Namespace, aligned: Aligned, sight: Sight | None, given: Given) -> int:
    from benchmark.merging import advice
    from benchmark.suites.bench import resolve_device

    assert sight is not None
    for note in [*aligned.notes, *sight.notes]:
        print(terminal(note))
    rows = advice.advise(
        aligned, sight, resolve_device(arguments.device), lambda text: print(terminal(text), flush=True)
    )
    labelled = len(sight.labelled) == len(aligned.experts)
    lines = advice.board(rows, aligned, labelled)
    print()
    for line in lines:
        print(terminal(line))
    if arguments.out is None:
        print(f"\nTo write it: symerge-bench merge {rows[0].name} ... --out DIR")
        return 0
    arguments.name = rows[0].name
    status = _merge(arguments, aligned, sight, given, {})
    (arguments.out / BOARD).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return status
