"""The methods that a folder's files declare, read from the source: one file that is broken stops no other.

Broken is a file that is no Python, declares a method wrongly, imports what is not there or is broken itself, or
declares a method that is another file's. What only goes wrong at its import is seen when one of its methods runs.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from methods.core.declarations import BrokenFile, bindings, parsed, read, statements
from methods.core.registry import Method


@dataclass
class Discovery:
    """What the files declare: methods by name, in the order of their files, and the files that are broken."""

    methods: dict[str, Method] = field(default_factory=dict)
    broken: list[BrokenFile] = field(default_factory=list)


def discover(folder: Path) -> Discovery:
    """Read every file of ``folder`` whose name does not start with a dot or an underscore."""
    paths = [p for p in sorted(folder.glob("*.py")) if not p.stem.startswith(("_", ".")) and p.is_file()]
    declared: dict[Path, list[tuple[Method, int]]] = {}
    broken: dict[Path, BrokenFile] = {}
    for path in paths:
        try:
            declared[path] = read(path)
        except BrokenFile as error:
            broken[path] = error
    _leave_out(declared, broken, _import_faults(declared, broken))
    _leave_out(declared, broken, _double(declared))
    discovery = Discovery(broken=[broken[path] for path in paths if path in broken])
    seen: dict[str, tuple[Path, int]] = {}
    for path, each in declared.items():
        for method, line in each:
            if method.name in seen:
                there, first = seen[method.name]
                why = f"{method.name} is declared in methods/{there.name}, line {first}, too; rename one of them"
                discovery.broken.append(BrokenFile(path, line, why, (method.name,)))
                discovery.methods.pop(method.name, None)
            else:
                seen[method.name] = path, line
                discovery.methods[method.name] = method
    return discovery


def _leave_out(
    declared: dict[Path, list[tuple[Method, int]]], broken: dict[Path, BrokenFile], faults: list[BrokenFile]
) -> None:
    for fault in faults:
        gone = declared.pop(fault.path, [])
        fault.names = (fault.path.stem, *(method.name for method, _ in gone))
        broken[fault.path] = fault


def _double(declared: Mapping[Path, list[tuple[Method, int]]]) -> list[BrokenFile]:
    """Files that declare a name twice, or one that is another file's by its file name."""
    homes = {method.name: path for path, each in declared.items() for method, _ in each if method.name == path.stem}
    faults = []
    for path, each in declared.items():
        lines: dict[str, int] = {}
        for method, line in each:
            home = homes.get(method.name, path)
            if method.name in lines:
                why = f"{method.name} is declared in line {lines[method.name]} already; rename one of them"
            elif home != path:
                why = f"{method.name} is the method of methods/{home.name}; give yours another name"
            else:
                lines[method.name] = line
                continue
            faults.append(BrokenFile(path, line, why))
            break
    return faults


def _import_faults(declared: Mapping[Path, Any], broken: Mapping[Path, BrokenFile]) -> list[BrokenFile]:
    """Files that import what is not there, or a broken file; those that import them too."""
    faults: dict[Path, BrokenFile] = {}
    file_of = functools.cache(_file_of)
    while True:
        bad = {path.resolve(): fault for path, fault in {**broken, **faults}.items()}
        new = {path: fault for path in declared if path not in faults and (fault := _import_fault(path, bad, file_of))}
        if not new:
            return list(faults.values())
        faults |= new


def _import_fault(
    path: Path, broken: Mapping[Path, BrokenFile], file_of: Callable[[str, Path], Path | None]
) -> BrokenFile | None:
    for line, module, name in _imports(path):
        top = module.split(".")[0]
        if top != _PACKAGE:
            if not _exists(top):
                return BrokenFile(path, line, f"no package called {top} is installed")
            continue
        file, inner = file_of(module, path.parent), file_of(f"{module}.{name}", path.parent) if name else None
        if file is None:
            return BrokenFile(path, line, f"there is no {module}")
        for each in filter(None, (file, inner)):
            if each in broken and each != path.resolve():
                return BrokenFile(path, line, f"imports a broken file ({broken[each]})")
        if name and inner is None and (names := bindings(file)) is not None and name not in names:
            return BrokenFile(path, line, f"{module} has no {name}")
    return None


_PACKAGE = __name__.partition(".")[0]


def _imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """``(line, module, name)`` of what a file imports: of this package anywhere, of others where it always runs."""
    tree = parsed(path)
    always = set(map(id, tree.body))
    for node in statements(tree.body):
        if isinstance(node, ast.Import):
            pairs: list[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [_PACKAGE if node.level else "", node.module]))
            pairs = [(module, alias.name if alias.name != "*" else None) for alias in node.names]
        else:
            continue
        for module, name in pairs:
            if module.split(".")[0] == _PACKAGE or id(node) in always:
                yield node.lineno, module, name


def _file_of(module: str, folder: Path) -> Path | None:
    """The file of a module of this package, which lies in ``folder`` or beside this file."""
    for place in (folder, Path(__file__).parents[1]):
        stem = place.joinpath(*module.split(".")[1:])
        for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if file.is_file() and file.resolve().is_relative_to(place.resolve()):
                return file.resolve()
    return None


@functools.lru_cache(maxsize=256)
def _exists(name: str) -> bool:
    """Whether there is a package or module of this name, which is not imported for it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return name in sys.modules
