"""Which output of a head is which class of the data: by names, never by a guess that nobody hears of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.common.errors import UserError, nearest, some
from benchmark.domains.vision.own.tables import Entry, Table
from benchmark.domains.vision.public import plain

MOST = 5


@dataclass(frozen=True)
class Classes:
    """The classes of a task.

    ``names``: in the order of the head's outputs. ``number``: of each label that the data use. ``note``: what boards
    must say, of an order that was assumed.
    """

    names: list[str]
    number: Mapping[str | int, int]
    note: str = ""


def matched(
    task: str, tables: Sequence[Table], said: Sequence[str] | None, outputs: int | None, absent: Sequence[str]
) -> Classes:
    """Bring the labels of the data and the outputs of a head together.

    Args:
        said: the head's classes in its order: of the YAML, or of what lies beside the head; None where nothing says.
        outputs: how many it has; None for a head that is still to be made of the names.
        absent: classes of the head of which no images are expected.

    Raises:
        UserError: another number of classes, a class that one side lacks, labels of two kinds, an order that two
            readers would take differently.
    """
    used = _used(task, tables)
    if said is not None:
        return _by_name(task, used, list(said), outputs, absent)
    if outputs is None or all(isinstance(label, str) for label in used):
        names = _in_order(task, [str(label) for label in used])
        if outputs is not None and outputs != len(names):
            raise UserError(
                f"{task}: the head has {outputs} outputs, the data {len(names)} classes ({some(names, MOST)})",
                "Write classes: [...], the head's in its order, and absent: [...], those without images.",
            )
        listed = ", ".join(names)
        note = f"{task}: nothing names the outputs of the head; the order of the data's classes was assumed: {listed}."
        return Classes(names, {label: names.index(str(label)) for label in used}, note if outputs is not None else "")
    numbers = [label for label in used if isinstance(label, int)]
    if max(numbers) >= outputs or min(numbers) < 0:
        raise UserError(
            f"{task}: the head has {outputs} outputs, the data labels up to {max(numbers)}",
            "Is the head another task's? See head and label in the task.",
        )
    names = [str(number) for number in range(outputs)]
    return Classes(names, {number: number for number in numbers})


def _used(task: str, tables: Sequence[Table]) -> list[str | int]:
    """The labels of all tables, each once; of integers with names, these."""
    used: dict[str | int, None] = {}
    for table in tables:
        for entry in table.entries:
            used[label_of(table, entry)] = None
    kinds = {type(label) for label in used}
    if len(kinds) > 1:
        raise UserError(
            f"{task}: some labels are names and some are numbers ({some(map(str, used), MOST)})",
            "Write one kind.",
        )
    return list(used)


def label_of(table: Table, entry: Entry) -> str | int:
    """An entry's label, a class's name where its number has one. Raises UserError for one that is none."""
    label = entry.label
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        else:
            raise UserError(f"{entry.name} has the label {label!r}", "Expected a class's name or number.")
    if isinstance(label, int) and table.classes is not None:
        if not 0 <= label < len(table.classes):
            raise UserError(
                f"{entry.name} has the label {label}; the file names {len(table.classes)} classes", "Mend it."
            )
        return table.classes[label]
    return label


def _by_name(
    task: str, used: Sequence[str | int], names: list[str], outputs: int | None, absent: Sequence[str]
) -> Classes:
    if outputs is not None and outputs != len(names):
        raise UserError(
            f"{task}: the head has {outputs} outputs, and {len(names)} classes are named ({some(names, MOST)})",
            "Write classes: [...], the head's in its order.",
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{task}: the head's class {twice!r} is named twice", "Write classes: [...], each once.")
    exact = {name: number for number, name in enumerate(names)}
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        alike.setdefault(plain(name), []).append(number)
    number_of: dict[str | int, int] = {}
    for label in used:
        if isinstance(label, int):
            if not 0 <= label < len(names):
                raise UserError(f"{task}: the label {label} is none of the head's {len(names)} classes", "Mend label.")
            number_of[label] = label
            continue
        found = exact.get(label)
        if found is None and len(same := alike.get(plain(label), [])) == 1:
            found = same[0]
        if found is None:
            guess = f"; did you mean {near[0]}?" if (near := nearest(label, names, count=1)) else ""
            raise UserError(
                f"{task}: the head has no class {label!r}, which the data have; it has {some(names, MOST)}{guess}",
                "Rename it in the data, or write classes: [...], the head's in its order as the data call them.",
            )
        if found in number_of.values():
            other = next(key for key, value in number_of.items() if value == found)
            raise UserError(f"{task}: the data call one class {other!r} and {label!r}", "Rename one of them.")
        number_of[label] = found
    unknown = [name for name in absent if name not in exact]
    if unknown:
        raise UserError(
            f"{task}: absent names {unknown[0]!r}, which is no class of the head", f"known: {some(names, 20)}"
        )
    lacking = [name for name, number in exact.items() if number not in number_of.values() and name not in absent]
    if lacking and not all(isinstance(label, int) for label in used):
        raise UserError(
            f"{task}: the data have no class {some(map(repr, lacking), MOST)}, which the head has",
            f"Add its images, or write absent: [{', '.join(lacking[:MOST])}] in the task if there are none.",
        )
    return Classes(names, number_of)


def _in_order(task: str, names: list[str]) -> list[str]:
    """Names in the order in which heads have them, where nothing says another: that of the text, as torchvision's."""
    ordered = sorted(names)
    if all(name.isdecimal() for name in names) and ordered != sorted(names, key=int):
        raise UserError(
            f"{task}: the classes are numbers, whose order as text ({some(ordered, MOST)}) and as numbers differ",
            "Write classes: [...], the head's in its order.",
        )
    return ordered
