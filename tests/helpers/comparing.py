"""Which tests compare numbers: those that the build runs again under other kernels (``-m numbers``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

TESTS = Path(__file__).parents[1]
#: What a test calls that holds one number against another.
COMPARISONS = {
    "abs", "allclose", "approx", "array_equal", "assert_allclose", "assert_close", "assert_same_but_for_rounding",
    "assert_same_files", "assert_state", "equal", "isclose",
}  # fmt: skip


def names(code: CodeType) -> Iterator[str]:
    """The names that a function's code asks for, those of the functions inside it included."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names(inner)


def compares_numbers(function: Callable[..., Any] | None, depth: int = 3) -> bool:
    """Whether a test compares numbers, itself or through functions of the tests, ``depth`` calls deep."""
    if (given := getattr(function, "hypothesis", None)) is not None:
        function = given.inner_test
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, FunctionType):
        return False
    called = set(names(function.__code__))
    if called & COMPARISONS:
        return True
    near = (function.__globals__.get(name) for name in called) if depth else ()
    return any(
        isinstance(each, FunctionType)
        and TESTS in Path(each.__code__.co_filename).parents
        and compares_numbers(each, depth - 1)
        for each in near
    )
