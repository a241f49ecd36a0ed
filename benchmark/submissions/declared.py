"""What a submitted record says beside its numbers, held against what this project computes. No torch.

Every function yields what is wrong, a line each, and raises nothing whatever the record holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import methods
from benchmark import suites
from benchmark.common.canonical import canonical_json
from benchmark.common.errors import UserError
from benchmark.common.escapes import terminal
from benchmark.records.precision import BYTES
from benchmark.records.record import Record
from benchmark.records.spec import changed_parameters, checked_parameters, format_value, present_version, variant_label

#: Characters of a name, and of any other text: a command, a note, a title.
_NAME, _TEXT = 200, 4000
_VERSION = re.compile(r"[0-9a-f]{16}")
#: Fields that are names: of files, rows and columns.
_NAMES = ("suite", "suite_version", "backbone", "family", "method", "method_version", "dtype")


def short(text: str, longest: int = 60) -> str:
    """The text as a message quotes it."""
    return repr(terminal(text if len(text) <= longest else f"{text[:longest]}…"))


def wrong_texts(record: Record) -> Iterator[str]:
    """Texts that are too long, or hold what a terminal, a table or a page would act on."""
    numbers: dict[str, Iterable[str]] = {"tasks": record.tasks, "bystanders": record.bystanders}
    left_out: dict[str, Any] = {part: {name: {"statistics"} for name in results} for part, results in numbers.items()}
    content = record.model_dump(exclude={**left_out, "error": True})
    names = [*(f"spec.{name}" for name in _NAMES), "variant"]
    said = []
    for where, text in _texts(content, ""):
        most = _NAME if where in names or where.endswith(" (a name)") else _TEXT
        if len(text) > most:
            said.append(f"{where} has {len(text):,} characters; at most {most:,} are taken")
        elif terminal(text) != text:
            said.append(f"{where} holds control characters: {short(text)}")
    yield from said[:10]
    if len(said) > 10:
        yield f"{len(said) - 10} more texts are too long or hold control characters"


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """All texts of a value by their place, keys among them."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield f"a key of {where or 'the record'} (a name)", str(key)
            inner = f"{where}.{key}" if where else str(key)
            yield from _texts(each, inner if len(inner) <= _NAME and inner.isprintable() else f"{where}.…")
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each, where)


def wrong_names(record: Record) -> Iterator[str]:
    """A method that no file can be named after, a version or a dtype that is none, a label that is another's."""
    spec = record.spec
    if not (spec.method.isidentifier() and spec.method.isascii()):
        yield f"method {short(spec.method)} is no name of a method: letters, digits and _ are"
    if not _VERSION.fullmatch(spec.method_version):
        yield f"method_version {short(spec.method_version)} is none: 16 hexadecimal digits are"
    if spec.dtype not in BYTES:
        yield f"dtype {short(spec.dtype)} is not one of {', '.join(BYTES)}"
    if spec.seed is not None and spec.seed < 0:
        yield f"seed {spec.seed} is negative"
    for key, value in spec.parameters.items():
        flat = value if isinstance(value, list) else [value]
        if not all(each is None or isinstance(each, (bool, int, float, str)) for each in flat):
            yield f"parameter {short(key)} is nested: a number, a word, or a list of them is wanted"
    if other := [key for key, value in record.changed.items() if _other(value, spec.parameters.get(key, ...))]:
        yield f"changed says other values than its parameters of {', '.join(map(short, other))}"
    elif record.variant != (label := variant_label(spec.method, record.changed)):
        yield f"its variant is {short(record.variant)}; with what it says is changed it is {short(label)}"


def wrong_method(record: Record, own: Iterable[Record]) -> Iterator[str]:
    """Of a registered method: keywords, values, seed, version, title, label and task id that are not its own.

    `own` are the project's own records, which tell whether a method needs the task id, and which of its earlier
    versions there were.
    """
    spec = record.spec
    about = methods.describe(spec.method)
    if about.stochastic != (spec.seed is not None):
        yield "a stochastic method has a seed and a deterministic one has none"
    for what, said, right in (
        ("title", record.method.title, about.title),
        ("paper", record.method.paper, about.paper),
    ):
        if said != right:
            yield f"its {what} is {short(said)}; that of {spec.method} is {short(right)}"
    yield from _wrong_task_id(record, own)
    expected = {key for key in about.parameters if key != "seed"}
    if set(spec.parameters) != expected:
        yield f"its keywords are {sorted(spec.parameters)}; those of {spec.method} are {sorted(expected)}"
        return
    defaults = about.parameters
    if spec.suite in suites.names():
        defaults = suites.load(spec.suite).defaults(spec.method, about.parameters)
    try:
        planned = checked_parameters(spec.method, spec.parameters, defaults)
        version = present_version(spec.method, planned)
        vectors = spec.precision.identity(holds_vectors=about.holds_vectors(planned))["vectors"]
    except (UserError, methods.MergingError, TypeError) as error:
        yield getattr(error, "message", str(error))
        return
    for key, value in planned.items():
        if _other(value, spec.parameters[key]):
            yield f"{key} is {spec.parameters[key]!r}; a plan writes it as {format_value(value)}"
    known = {version, *(each.spec.method_version for each in own if each.spec.method == spec.method)}
    if spec.method_version not in known and _VERSION.fullmatch(spec.method_version):
        yield (
            f"is of version {spec.method_version} of {spec.method}; this checkout computes {version}, and no record of "
            "the project has another: check it with the commit it was made at, or run it again"
        )
    if spec.vectors != vectors:
        yield f"says {spec.vectors} task vectors; with these keywords a run holds none, which is written {vectors}"
    changed = changed_parameters(planned, {key: value for key, value in defaults.items() if key != "seed"})
    if _other(changed, record.changed):
        right = variant_label(spec.method, changed)
        yield f"says it is {short(variant_label(spec.method, record.changed))}; its parameters make it {short(right)}"


def _wrong_task_id(record: Record, own: Iterable[Record]) -> Iterator[str]:
    """`needs_task_id` is that of the same method in the project's own records, of the same parameters where there are.

    Of other parameters only a claim to need none is refused: that is the one that makes a row look better.
    """
    same = [each for each in own if each.spec.method == record.spec.method and each.status == "done"]
    twins = [each for each in same if not _other(each.spec.parameters, record.spec.parameters)]
    needs = {each.needs_task_id for each in twins or same}
    if len(needs) == 1 and record.needs_task_id not in needs and (twins or not record.needs_task_id):
        says, are = ("needs", "do not") if record.needs_task_id else ("needs no", "do")
        yield f"says it {says} task id; the project's own runs of {record.spec.method} {are}"
    elif not same and record.needs_task_id and record.cost.storage_bytes == 0:
        yield "says it needs the task id and keeps nothing for any task (storage_bytes is 0)"


def _other(one: Any, two: Any) -> bool:
    """Whether two values are unlike, 1 and 1.0 among those that are: they make different runs."""
    return two is ... or canonical_json(one) != canonical_json(two)
