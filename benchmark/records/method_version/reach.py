"""The definitions that some roots reach: who names whom, until nothing new is named."""

from __future__ import annotations

import ast
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from benchmark.records.method_version.forms import Attribute, Chain, ClassForms, Everything, Form
from benchmark.records.method_version.sources import Key, Module, Sources, Whole

#: What the harness calls of an object that a method returns or is given.
HARNESS = {"model", "load", "save"}
#: What the harness hands to a method under these names, as the package's `api` has it: no annotation tells.
HANDED = {"experts": "Experts", "stream": "Stream"}


class Reach:
    """The forms of everything that `name` in `path` reaches, and `others` (file, definition) with it.

    Attributes:
        forms: of all definitions, methods, and statements that run when a file is used.
        classes: the classes among them.
        running: such statements by file.
    """

    def __init__(self, path: str | Path, name: str, others: Iterable[tuple[str | Path, str]] = ()) -> None:
        named = [(str(Path(file).resolve()), what) for file, what in [(path, name), *others]]
        self.sources = Sources(Path(named[0][0]))
        self.roots = [self._root(file, what) for file, what in named]
        self.roots += self._handed()
        self.forms: dict[Key, Form] = {}
        self.classes: dict[Key, ClassForms] = {}
        self.running: dict[str, list[Key]] = {}
        self._attributes = set(HARNESS)
        self._waiting: list[Key] = []
        self._new: deque[Key] = deque()
        for key in self.roots:
            self._add(key)
        self._close()

    def methods_of(self, key: Key) -> list[Key]:
        """The methods of a class that are reached, in the order of its file."""
        return [each for name in self.classes[key].methods if (each := key.method(name)) in self.forms]

    def _root(self, file: str, name: str) -> Key:
        target, _ = self.sources.meaning(self.sources.module(file), Chain(name))
        if not isinstance(target, Key):
            raise ValueError(f"{Path(file).name} defines no {name}")
        return target

    def _handed(self) -> list[Key]:
        """The classes of what the roots are handed, once each."""
        api = self.sources.root / self.sources.package / "api.py"
        names = {name for key in self.roots for name in self.sources.module(key.file).parameters(key.name) or ()}
        handed = []
        for name in HANDED if api.is_file() else ():
            target, _ = self.sources.meaning(self.sources.module(str(api)), Chain(HANDED[name]))
            if name in names and isinstance(target, Key) and target not in self.roots:
                handed.append(target)
        return handed

    def _add(self, key: Key) -> None:
        if key in self.forms:
            return
        module = self.sources.module(key.file)
        self._use(module)
        forms = module.class_of(key.name)
        if forms is None:
            self._count(key, module.form(key.name, root=key in self.roots))
            return
        self._count(key, forms.frame)
        self.classes[key] = forms
        plain = self._plain(key)
        for name, form in forms.methods.items():
            if plain and not is_dunder(name):
                self._waiting.append(key.method(name))
            else:
                self._count(key.method(name), form)

    def _plain(self, key: Key) -> bool:
        """Whether only named methods are called: nothing outside the project calls what a plain class inherits."""
        module = self.sources.module(key.file)
        forms, node = module.class_of(key.name), module.definitions[key.name][0]
        if forms is None or not isinstance(node, ast.ClassDef) or node.keywords:
            return False
        bases = [self.sources.resolve(module, base)[0] if base is not None else None for base in forms.bases]
        return all(isinstance(base, Key) and self._plain(base) for base in bases)

    def _use(self, module: Module) -> None:
        if module.file not in self.running:
            keys = [Key(module.file, f"statement {number}") for number in range(len(module.running))]
            self.running[module.file] = keys
            for key in keys:
                self._count(key, module.form(key.name))

    def _count(self, key: Key, form: Form) -> None:
        self.forms[key] = form
        self._new.append(key)

    def _close(self) -> None:
        while self._new:
            while self._new:
                key = self._new.popleft()
                self._follow(self.sources.module(key.file), self.forms[key])
            ready = [key for key in self._waiting if key.last in self._attributes]
            self._waiting = [key for key in self._waiting if key.last not in self._attributes]
            for key in ready:
                self._count(key, self.classes[key.owner].methods[key.last])

    def _follow(self, module: Module, form: Form) -> None:
        self._attributes |= form.asked
        for mark in form.marks:
            if isinstance(mark, Chain):
                target, rest = self.sources.resolve(module, mark)
                self._attributes.update(rest)
                if isinstance(target, Key):
                    self._add(target)
                elif isinstance(target, Whole) and not os.path.isdir(target.file):
                    self._add_all(self.sources.module(target.file))
            elif isinstance(mark, Attribute):
                self._attributes.add(mark.name)
            elif isinstance(mark, Everything):
                self._add_all(module)

    def _add_all(self, module: Module) -> None:
        for name in module.definitions:
            self._add(Key(module.file, name))


def is_dunder(name: str) -> bool:
    """Whether Python itself calls a method of this name."""
    return name.startswith("__") and name.endswith("__")
