"""The version of a method: a hash of the code it can reach, whatever its comments, docstrings, layout and interpreter.

Reach is followed by name, from the method's function through the top-level definitions of its package: a function, a
class or a constant counts when code that counts already names it, and a method of a plain class when its name stands
behind a dot anywhere in that code (or the harness calls it). So a change in one method's helper leaves the records of
the others valid, and a change in shared arithmetic does not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Written by no author: how a name is used, the spelling u"", and type comments.
_LEFT_OUT = {"ctx", "kind", "type_comment", "type_ignores"}
# Discovery and error messages: no result depends on them.
_NO_ARITHMETIC = {"registry.py", "__init__.py"}
# What the harness calls of an object that a method returns or is given.
_HARNESS = {"model", "load", "save"}

# Calls that reach definitions of a module by the text of their names.
_BY_TEXT = {"globals", "vars", "eval", "exec", "locals"}

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Import = (ast.Import, ast.ImportFrom)


def method_version(path: str | Path, name: str | None = None, others: Iterable[tuple[str | Path, str]] = ()) -> str:
    """First 16 hexadecimal digits of the hash of all code that the definition `name` in `path` reaches.

    `name=None` counts everything in the file. Imports are followed through modules of the folder `path` lies in (its
    package), also those inside functions and relative ones; `others` are further (file, definition) that the method
    reaches by a string only, such as an inner method from the registry.
    Raises OSError or SyntaxError for a file that cannot be read or parsed, ValueError where it has no such definition.
    """
    return hashlib.sha256(repr(sorted(_reach(path, name, others).close())).encode()).hexdigest()[:16]


def reached(path: str | Path, name: str | None = None) -> set[tuple[str, str]]:
    """The (file, definition) pairs that `method_version` counts: what a method's work is made of."""
    return {key for key, _ in _reach(path, name, ()).close()}


def _reach(path: str | Path, name: str | None, others: Iterable[tuple[str | Path, str]]) -> _Reach:
    path = Path(path).resolve()
    reach = _Reach(path.parent)
    for file, wanted in [(path, name), *((Path(p).resolve(), n) for p, n in others)]:
        module = reach.module(file)
        if wanted is not None and wanted not in module.definitions:
            raise ValueError(f"{file.name} defines no {wanted}")
        for each in [wanted] if wanted is not None else list(module.definitions):
            reach.add(module, each)
    return reach


@dataclass
class _Module:
    """One file: its top-level definitions by name, what it imports, and statements that run whenever it is used."""

    file: Path
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    running: list[ast.stmt] = field(default_factory=list)


class _Reach:
    """The definitions reached so far, and their hashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: dict[Path, _Module] = {}
        self.found: dict[tuple[str, str], str] = {}
        self.attributes: set[str] = set(_HARNESS)
        self.waiting: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, _Module]] = []

    def module(self, file: Path) -> _Module:
        """The parsed file; what runs at its import counts from then on."""
        if file not in self.modules:
            made = self.modules[file] = _read(file, self.folder.name, file.read_text(encoding="utf-8"))
            for number, statement in enumerate(made.running):
                self._count(made, f"statement {number}", statement)
        return self.modules[file]

    def add(self, module: _Module, name: str) -> None:
        """Count the definition, or what it is imported from; names from elsewhere are none of ours."""
        if name in module.definitions:
            node = module.definitions[name]
            if (self._key(module), name) in self.found:
                return
            if isinstance(node, ast.ClassDef) and self._plain_class(module, node):
                kept, methods = _split_class(node)
                self._count(module, name, kept)
                self.waiting += [(f"{name}.{m.name}", m, module) for m in methods]
            else:
                self._count(module, name, node)
        elif name in module.imports:
            self._imported(*module.imports[name])
        else:
            for dotted in [key for key in module.imports if key.startswith(f"{name}.")]:  # import package.module
                self._imported(*module.imports[dotted])

    def close(self) -> list[tuple[tuple[str, str], str]]:
        """Add methods of plain classes until no further one is named; then everything found."""
        while ready := [entry for entry in self.waiting if entry[1].name in self.attributes]:
            self.waiting = [entry for entry in self.waiting if entry not in ready]
            for name, node, module in ready:
                self._count(module, name, node)
        return list(self.found.items())

    def _imported(self, dotted: str, name: str | None) -> None:
        file = _file(self.folder, dotted)
        if name is not None and (inner := _file(self.folder, f"{dotted}.{name}" if dotted else name)):
            file, name = inner, None
        if file is None or (file.parent == self.folder and file.name in _NO_ARITHMETIC):
            return
        module = self.module(file)
        for each in [name] if name is not None else list(module.definitions):
            self.add(module, each)

    def _count(self, module: _Module, name: str, node: ast.AST) -> None:
        self.found[self._key(module), name] = _digest(node)
        inside = _Module(module.file, imports=dict(module.imports), definitions=module.definitions)
        for each in ast.walk(node):
            if isinstance(each, _Import):
                _read_import(each, inside.imports, self.folder.name)
        for each in ast.walk(node):
            if isinstance(each, ast.Attribute):
                self.attributes.add(each.attr)
            elif isinstance(each, ast.Name):
                self.add(inside, each.id)
                if each.id in _BY_TEXT:
                    for other in module.definitions:
                        self.add(inside, other)
            elif isinstance(each, ast.Call) and getattr(each.func, "id", "") == "getattr":
                self.attributes |= {str(a.value) for a in each.args if isinstance(a, ast.Constant)}
        for target in inside.imports.keys() - module.imports.keys():
            self._imported(*inside.imports[target])

    def _plain_class(self, module: _Module, node: ast.ClassDef) -> bool:
        """Whether only named methods are called: nothing outside the package calls what a plain class inherits."""
        return not node.keywords and all(
            isinstance(b, ast.Name) and isinstance(c := module.definitions.get(b.id), ast.ClassDef)
            and self._plain_class(module, c) for b in node.bases
        )  # fmt: skip

    def _key(self, module: _Module) -> str:
        file = module.file
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else file.name


@functools.lru_cache(maxsize=256)
def _read(file: Path, package: str, text: str) -> _Module:
    made = _Module(file)
    _sort_statements(ast.parse(text).body, made, package)
    return made


@functools.lru_cache(maxsize=8192)
def _digest(node: ast.AST) -> str:
    return hashlib.sha256(repr(_plain(node)).encode()).hexdigest()


def _sort_statements(body: list[ast.stmt], module: _Module, package: str) -> None:
    for number, node in enumerate(body):
        if isinstance(node, (*_Function, ast.ClassDef)):
            _define(module, node.name, node)
        elif isinstance(node, _Import):
            _read_import(node, module.imports, package)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            _sort_statements(node.body, module, package)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in _targets(node):
                _define(module, target, node)
        elif not (number == 0 and _is_text(node)):
            module.running.append(node)


def _define(module: _Module, name: str, node: ast.stmt) -> None:
    """A definition of a name; with earlier ones, which it may build upon, it counts together."""
    before = module.definitions.get(name)
    if before is not None and not isinstance(before, ast.If):
        before = ast.If(ast.Constant(True), [before], [])
    if isinstance(before, ast.If):
        node = ast.If(ast.Constant(True), [*before.body, node], [])
    module.definitions[name] = node


def _targets(node: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


@functools.lru_cache(maxsize=256)
def _split_class(node: ast.ClassDef) -> tuple[ast.ClassDef, list[Any]]:
    """The class without its ordinary methods, and these; what Python itself calls (``__init__``, ...) stays."""
    methods = [n for n in node.body if isinstance(n, _Function) and not n.name.startswith("__")]
    kept = ast.ClassDef(node.name, node.bases, node.keywords, [n for n in node.body if n not in methods],
                        node.decorator_list)  # fmt: skip
    return kept, methods


def _plain(node: Any) -> Any:
    """The tree as nested tuples of what is set, as `ast.dump` writes it differently from one Python to the next."""
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, *_Function)):
                value = value[1:] if value and _is_text(value[0]) else value
            if name not in _LEFT_OUT and value is not None and value != []:
                fields.append((name, _plain(value)))
        return (type(node).__name__, *fields)
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _read_import(node: ast.AST, into: dict[str, tuple[str, str | None]], package: str) -> None:
    """Names that an import statement binds to modules and definitions below the package; modules lie directly in it."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.startswith(package + "."):
                into[alias.asname or alias.name] = alias.name[len(package) + 1 :], None
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level == 0 and module != package and not module.startswith(package + "."):
            return
        base = module if node.level else module[len(package) + 1 :]
        for alias in node.names:
            into[alias.asname or alias.name] = base, None if alias.name == "*" else alias.name


def _file(folder: Path, dotted: str) -> Path | None:
    stem = folder.joinpath(*dotted.split("."))
    for file in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
        if dotted and file.is_file():
            return file
    return None
