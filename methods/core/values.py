"""What values a keyword may have. A method says it in the annotation, and a plan is refused before anything runs.

::

    def mine(experts, *, merge: Literal["sum", "mean"] = "sum", keep: Share = 0.2,
             prior: Annotated[float, "(-1, 1)"] | None = None, batch_size: Count = 16): ...

Understood are ``Literal``, ``int``, ``float``, ``bool``, ``str``, ``None``, unions and lists of these, ``Annotated``
with an interval as text, and the names below; any other annotation allows every value. They are read from the source,
so nothing is imported for it.
"""

from __future__ import annotations

import ast
import re
import types
import typing
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

#: How many, none among them: steps.
Natural = Annotated[int, "[0, inf)"]
#: How many, at least one: samples of a batch, a rank.
Count = Annotated[int, "[1, inf)"]
#: A share that is not empty.
Share = Annotated[float, "(0, 1]"]
#: A share that may be empty.
Portion = Annotated[float, "[0, 1]"]
#: A rate, a weight or a threshold that is not negative.
NonNegative = Annotated[float, "[0, inf)"]
#: The name of another method, for the keyword ``inner``.
MethodName = Annotated[str, "a method"]

NAMES = {
    "Natural": Natural,
    "Count": Count,
    "Share": Share,
    "Portion": Portion,
    "NonNegative": NonNegative,
    "MethodName": MethodName,
}

_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Any": Any}
_LISTS = ("list", "List", "tuple", "Tuple", "Sequence")
_NUMBER = r"[-+]?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?)"
_INTERVAL = re.compile(rf"\s*([\[(])\s*({_NUMBER})\s*,\s*({_NUMBER})\s*([\])])\s*")


def read(node: ast.expr | None, local: Mapping[str, ast.expr] | None = None) -> Any:
    """The type an annotation names; ``Any`` for one that is not understood.

    Args:
        node: the annotation as parsed from the source.
        local: assignments at the top level of the same file, by name, for aliases of its own.
    """
    local = local or {}
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return read(ast.parse(node.value, mode="eval").body, local)
        except SyntaxError:
            return Any
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([read(node.left, local), read(node.right, local)])
    if isinstance(node, ast.Subscript):
        return _subscript(node, local)
    name = _name(node)
    if name in local:
        return read(local[name], {key: value for key, value in local.items() if key != name})
    return _PLAIN.get(name, NAMES.get(name, Any))


def _subscript(node: ast.Subscript, local: Mapping[str, ast.expr]) -> Any:
    head = _name(node.value)
    inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head == "Literal":
        try:
            return Literal[tuple(ast.literal_eval(each) for each in inside)]
        except ValueError:
            return Any
    if head == "Annotated":
        notes = [each.value for each in inside[1:] if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        kind = read(inside[0], local)
        return Annotated[kind, *notes] if notes and kind is not Any else kind
    if head == "Optional":
        return _union([read(inside[0], local), None])
    if head == "Union":
        return _union([read(each, local) for each in inside])
    if head in _LISTS:
        return list[read(inside[0], local)]  # type: ignore[misc]
    return Any


def _union(kinds: list[Any]) -> Any:
    return Any if Any in kinds else typing.Union[tuple(kinds)]  # noqa: UP007, of types known only here


def _name(node: ast.expr | None) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def fits(value: Any, kind: Any, names: Collection[str] = ()) -> bool:
    """Whether a value is of a type that :func:`read` gave; ``names`` are those that ``MethodName`` allows."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inside)
    if origin is Annotated:
        return fits(value, inside[0], names) and all(_holds(note, value, names) for note in inside[1:])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each, names) for each in inside)
    if origin is list:
        return isinstance(value, (list, tuple)) and all(fits(each, inside[0], names) for each in value)
    if kind in (None, type(None)):
        return value is None
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _holds(note: str, value: Any, names: Collection[str]) -> bool:
    if _is_method(note):
        return value in names
    match = _INTERVAL.fullmatch(note)
    if match is None:
        return True
    low, high = float(match[2]), float(match[3])
    above = value >= low if match[1] == "[" else value > low
    return bool(above and (value <= high if match[4] == "]" else value < high))


def _is_method(note: str) -> bool:
    """Whether a note of ``Annotated`` is that of ``MethodName``."""
    return note == typing.get_args(MethodName)[1]


def takes_method(kind: Any) -> bool:
    """Whether a type is that of ``MethodName``."""
    return kind == MethodName


def choices(kind: Any, names: Collection[str] = ()) -> list[Any]:
    """The values that a type lists, ``Literal``'s and method names; none for numbers."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return list(inside)
    if origin in (typing.Union, types.UnionType):
        return [each for kind in inside for each in choices(kind, names)]
    if origin is Annotated and any(_is_method(note) for note in inside[1:]):
        return sorted(names)
    return []


def text(kind: Any) -> str:
    """What is allowed, in words: ``"sum, mean"``, ``"a number in (0, 1], or none"``; empty where every value is."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return ""
    if origin is Literal:
        return ", ".join("none" if each is None else str(each).lower() if isinstance(each, bool) else str(each)
                         for each in inside)  # fmt: skip
    if origin is Annotated:
        notes = [note for note in inside[1:] if _is_method(note) or _INTERVAL.fullmatch(note)]
        if any(_is_method(note) for note in notes):
            return "the name of another method"
        return " in ".join([text(inside[0]), *notes])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(text(each) for each in inside)
    if origin is list:
        return f"a list, each {text(inside[0])}" if inside[0] is not Any else "a list"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, "none")
