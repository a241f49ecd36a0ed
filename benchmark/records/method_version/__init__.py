"""The version of a method: a hash of the arithmetic it reaches, whatever its parts are called and wherever they stand.

From the method's function every definition of the project that it names is followed, through imports and packages: a
function, a class or a constant counts when code that counts already names it, and a method of a plain class when its
name stands behind a dot anywhere in that code (or the harness calls it). What is reached is numbered in the order in
which it is first named, and each definition is written in its canonical form with these numbers for names. So a version
survives a moved file, another name of a helper, a class, a module, an attribute or a variable, another order of
definitions, a reworded error or warning, a docstring, an annotation and a reformat. It changes with a constant, an
operator, a default, an order of operations, another function, another exception, and a method's own keyword. A change
in one method's helper leaves the versions of the others.

What keeps its name, so that no change of meaning goes unseen: what comes from outside the project, or from the
registry; an attribute that objects from outside have as well (`numbered.SHARED`) or whose name also stands in the code
as text; a parameter that may be passed by name where only a run knows what is called. Renaming one of these makes a new
version, and so do a text that is no part of an error, a check that may raise one, and code that makes an error's text
beforehand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmark.records.method_version.numbered import Numbered
from benchmark.records.method_version.reach import Reach
from benchmark.records.method_version.sources import top_package


def method_version(path: str | Path, name: str, others: Iterable[tuple[str | Path, str]] = ()) -> str:
    """First 16 hexadecimal digits of the hash of all arithmetic that the definition `name` in `path` reaches.

    `others` are further (file, definition) that count as well: what the method reaches by a string only, such as an
    inner method from the registry.
    Raises OSError or SyntaxError for a file that cannot be read or parsed, ValueError where it has no such definition.
    """
    text = "\0".join(Numbered(Reach(path, name, others)).text())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def reached(path: str | Path, name: str) -> set[tuple[str, str]]:
    """The (file, definition) pairs that `method_version` counts: what a method's work is made of."""
    package = top_package(Path(path).resolve())
    return {(Path(key.file).relative_to(package).as_posix(), key.name) for key in Reach(path, name).forms}
