"""Which names a function, comprehension or class body binds, and what import statements bind them to."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
Import = (ast.Import, ast.ImportFrom)
_Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Imported(NamedTuple):
    """What an import statement binds a name to: `name` of the module `dotted`, or the module itself."""

    dotted: str
    name: str | None
    level: int = 0


def read_import(node: ast.stmt) -> dict[str, Imported]:
    """The names that an import statement binds; `*` is its own name."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: Imported(
                alias.name if alias.asname else alias.name.partition(".")[0], None
            )
            for alias in node.names
        }
    if isinstance(node, ast.ImportFrom):
        return {a.asname or a.name: Imported(node.module or "", a.name, node.level) for a in node.names}
    return {}


@dataclass
class Bindings:
    """Names that some statements bind, in the scope they stand in."""

    bound: set[str] = field(default_factory=set)
    imports: dict[str, Imported] = field(default_factory=dict)
    nonlocals: set[str] = field(default_factory=set)
    globals: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, nodes: Iterable[ast.AST], parameters: Iterable[str] = ()) -> Bindings:
        bindings = cls(set(parameters))
        for node in nodes:
            bindings._add(node)
        bindings.bound -= bindings.nonlocals | bindings.globals
        return bindings

    def _add(self, node: ast.AST, targets: bool = True) -> None:
        if isinstance(node, (*Function, ast.ClassDef)):
            self.bound.add(node.name)
            inner: list[ast.AST] = list(node.decorator_list)
            if not isinstance(node, ast.ClassDef):
                inner += [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
        elif isinstance(node, ast.Lambda):
            inner = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
        elif isinstance(node, Import):
            self.imports.update(read_import(node))
            return
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            (self.globals if isinstance(node, ast.Global) else self.nonlocals).update(node.names)
            return
        elif isinstance(node, _Comprehension):
            # Its targets are its own; what it assigns by := is not.
            targets, inner = False, list(ast.iter_child_nodes(node))
        else:
            inner = list(ast.iter_child_nodes(node))
            if isinstance(node, ast.NamedExpr):
                self.bound.add(node.target.id)
            elif isinstance(node, ast.Name) and targets and not isinstance(node.ctx, ast.Load):
                self.bound.add(node.id)
            for name in ("name", "rest"):
                if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping)):
                    if isinstance(value := getattr(node, name, None), str):
                        self.bound.add(value)
        for each in inner:
            self._add(each, targets)


class Scope:
    """A function, comprehension or class body, and the numbers of its names."""

    def __init__(self, kind: str, parent: Scope | None, own: Bindings) -> None:
        self.kind, self.parent, self.own = kind, parent, own
        self.numbers: dict[str, int] = {}
