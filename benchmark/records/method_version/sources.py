"""The files of a project as definitions, and what a name in one of them means."""

from __future__ import annotations

import ast
import copy
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmark.records.method_version import canonical
from benchmark.records.method_version.forms import Chain, ClassForms, Form
from benchmark.records.method_version.scopes import Function, Import, Imported, read_import

# Discovery, declarations and error messages: no result depends on what they are made of, and their names stay.
_NO_ARITHMETIC = {
    "registry.py",
    "access.py",
    "declarations.py",
    "discovery.py",
    "errors.py",
    "footprint.py",
    "values.py",
}


class Key(NamedTuple):
    """A definition; `name` is `Class.method` for a method, `statement N` for one that runs when its file is used."""

    file: str
    name: str

    @property
    def owner(self) -> Key:
        """Of a method its class; any other itself."""
        return Key(self.file, self.name.partition(".")[0])

    @property
    def last(self) -> str:
        """Of a method its own name."""
        return self.name.rpartition(".")[2]

    def method(self, name: str) -> Key:
        """The method of this class that has the name."""
        return Key(self.file, f"{self.name}.{name}")


class Outside(NamedTuple):
    """A name that leads out of the project, or to the registry."""

    name: str


class Whole(NamedTuple):
    """A module, or a folder of modules."""

    file: str


Target = Key | Outside | Whole


@dataclass
class Module:
    """One file: its top-level definitions by name, what it imports, and statements that run whenever it is used."""

    file: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Imported] = field(default_factory=dict)
    stars: list[Imported] = field(default_factory=list)
    running: list[ast.stmt] = field(default_factory=list)
    _forms: dict[tuple[str, bool], Form] = field(default_factory=dict)
    _classes: dict[str, ClassForms | None] = field(default_factory=dict)

    def form(self, name: str, *, root: bool = False) -> Form:
        """The form of a function or constant; `root`: of a method of the registry, with the data it is handed."""
        if (name, root) not in self._forms:
            running = name not in self.definitions
            statements = [self.running[int(name.partition(" ")[2])]] if running else self.definitions[name]
            self._forms[name, root] = canonical.definition(statements, self.imports, root=root, running=running)
        return self._forms[name, root]

    def class_of(self, name: str) -> ClassForms | None:
        """The forms of a class; None for any other definition."""
        if name not in self._classes:
            node = self._single(name)
            is_class = isinstance(node, ast.ClassDef)
            self._classes[name] = canonical.class_forms(node, self.imports) if is_class else None  # type: ignore
        return self._classes[name]

    def parameters(self, name: str) -> list[str] | None:
        """A function's parameters by place, as they can be passed by name; None for any other definition."""
        first, dot, rest = name.partition(".")
        node: ast.AST | None = self._single(first)
        if dot and isinstance(node, ast.ClassDef):
            node = next((n for n in node.body if isinstance(n, Function) and n.name == rest), None)
        if not isinstance(node, Function):
            return None
        return [""] * len(node.args.posonlyargs) + [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]

    def _single(self, name: str) -> ast.stmt | None:
        statements = self.definitions.get(name, [])
        return statements[0] if len(statements) == 1 else None


class Sources:
    """The files of the project that holds `path`: its topmost package, and the packages beside that."""

    def __init__(self, path: Path) -> None:
        package = top_package(path)
        self.root, self.package = package.parent, package.name
        self._modules: dict[str, Module] = {}
        self._meanings: dict[tuple[str, Chain], tuple[Target, tuple[str, ...]]] = {}

    def module(self, file: str) -> Module:
        """The parsed file."""
        if file not in self._modules:
            self._modules[file] = _read(file, Path(file).read_text(encoding="utf-8"))
        return self._modules[file]

    def class_of(self, key: Key) -> ClassForms | None:
        """The forms of a class; None for any other definition."""
        return self.module(key.file).class_of(key.name)

    def ancestors(self, key: Key) -> Iterator[Key]:
        """A class and those of the project that it inherits from; nothing for another definition."""
        if (forms := self.class_of(key)) is not None:
            yield key
            for base in forms.bases:
                target = self.resolve(self.module(key.file), base)[0] if base is not None else None
                if isinstance(target, Key):
                    yield from self.ancestors(target)

    def resolve(self, module: Module, chain: Chain) -> tuple[Target, tuple[str, ...]]:
        """What a chain means, and those of its attributes that only a run knows."""
        if (module.file, chain) not in self._meanings:
            target, rest = self.meaning(module, chain)
            if isinstance(target, Key) and Path(target.file).name in _NO_ARITHMETIC:
                target, rest = Outside(".".join(("registry", target.name, *rest))), ()
            self._meanings[module.file, chain] = target, rest
        return self._meanings[module.file, chain]

    def meaning(self, module: Module, chain: Chain) -> tuple[Target, tuple[str, ...]]:
        """The same, and where a name of the registry stands."""
        if isinstance(chain.base, Imported):
            target: Target = self._imported(module.file, chain.base, set())
        else:
            target = self._name(module, chain.base, set()) or Outside(chain.base)
        rest = chain.attributes
        while rest:
            if isinstance(target, Outside):
                return Outside(".".join((target.name, *rest))), ()
            inner = self._member(target.file, rest[0], set()) if isinstance(target, Whole) else None
            if inner is None:
                break
            target, rest = inner, rest[1:]
        return target, rest

    def _name(self, module: Module, name: str, seen: set[Key]) -> Target | None:
        key = Key(module.file, name)
        if key in seen:
            return None
        seen.add(key)
        if name in module.definitions:
            return key
        if name in module.imports:
            return self._imported(module.file, module.imports[name], seen)
        for star in module.stars:
            target = self._imported(module.file, star._replace(name=name), seen)
            if not isinstance(target, Outside):
                return target
        return None

    def _imported(self, file: str, what: Imported, seen: set[Key]) -> Target:
        parts = [part for part in what.dotted.split(".") if part]
        home = None
        if what.level:
            home = _at(Path(file).parents[what.level - 1], parts)
        elif parts and (parts[0] == self.package or (self.root / parts[0] / "__init__.py").is_file()):
            home = _at(self.root, parts)
        if home is None:
            return Outside(".".join(filter(None, (what.dotted, what.name))))
        if what.name is None:
            return Whole(str(home))
        return self._member(str(home), what.name, seen) or Outside(f"{what.dotted}.{what.name}")

    def _member(self, home: str, name: str, seen: set[Key]) -> Target | None:
        """A name of a module, or a module of a folder."""
        file = Path(home, "__init__.py") if os.path.isdir(home) else Path(home)
        if file.is_file() and (target := self._name(self.module(str(file)), name, seen)) is not None:
            return target
        inner = _at(file.parent, [name]) if file.name == "__init__.py" else None
        return None if inner is None else Whole(str(inner))


def top_package(file: Path) -> Path:
    """The folder of the topmost package that the file lies in."""
    package = file.parent
    while (package.parent / "__init__.py").is_file():
        package = package.parent
    return package


def _at(folder: Path, parts: list[str]) -> Path | None:
    """The module, or folder of modules, of a dotted name."""
    stem = folder.joinpath(*parts)
    if parts and (file := stem.with_name(f"{stem.name}.py")).is_file():
        return file
    return stem if stem.is_dir() else None


@functools.lru_cache(maxsize=512)
def _read(file: str, text: str) -> Module:
    module = Module(file)
    _sort_statements(ast.parse(text).body, module)
    for name, statements in module.definitions.items():
        module.definitions[name] = [_as_function(each, module) for each in statements]
    return module


def _as_function(node: ast.stmt, module: Module) -> ast.stmt:
    """A row of the registry, ``name = variant(function, ...)``, as the function with the row's defaults."""
    call = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "variant" and call.args):
        return node
    above = module.definitions.get(call.args[0].id, []) if isinstance(call.args[0], ast.Name) else []
    if len(above) != 1 or not isinstance(function := above[0], ast.FunctionDef):
        return node
    row, arguments = {keyword.arg: keyword.value for keyword in call.keywords}, function.args
    own = [row.get(a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    changed = copy.copy(function)
    changed.args = copy.copy(arguments)
    changed.args.kw_defaults = own
    return changed


def _sort_statements(body: list[ast.stmt], module: Module) -> None:
    for node in body:
        if isinstance(node, (*Function, ast.ClassDef)):
            module.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, Import):
            for name, what in read_import(node).items():
                if name == "*":
                    module.stars.append(what)
                else:
                    module.imports[name] = what
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            _sort_statements(node.body, module)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for name in _targets(node):
                module.definitions.setdefault(name, []).append(node)
        elif not canonical.without_effect(node):
            module.running.append(node)
            for each in ast.walk(node):
                if isinstance(each, Import):
                    module.imports.update({n: w for n, w in read_import(each).items() if n not in module.imports})


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names that a statement defines, or adds to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return list(dict.fromkeys(n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)))
