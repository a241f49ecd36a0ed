"""Writes a syntax tree in its canonical form, node by node."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from benchmark.records.method_version.forms import Attribute, Chain, Everything, Form, Keyword, Mark, Parameter, Raised
from benchmark.records.method_version.scopes import Bindings, Imported, Scope, read_import

#: Of the registering decorator what a number depends on: the data that the method is handed.
DECLARED = ("access", "access_if", "grids")
# Written by no author: how a name is used, the spelling u"", and type comments; and what has no effect.
_LEFT_OUT = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "returns", "annotation"}
# Calls that reach definitions of a module by the text of their names.
_BY_TEXT = {"globals", "vars", "eval", "exec", "locals"}
# Annotations of a class's fields that are more than a type.
_FIELD_KINDS = ("ClassVar", "InitVar", "KW_ONLY")


class Writer:
    """Writes one form."""

    def __init__(self, imports: dict[str, Imported], scope: Scope | None = None) -> None:
        self.imports, self.scope = imports, scope
        self.parts: list[str | Mark] = []
        self.said: list[str] = []
        self.texts: set[str] = set()
        self.asked: set[str] = set()
        self.count = 0
        #: The parameter of a class method that is the class, and the class's name.
        self.own_class: tuple[str | None, str] = (None, "")
        self.running = False

    def form(self) -> Form:
        self._flush()
        return Form(self.parts, self.texts, self.asked)

    def put(self, text: str) -> None:
        self.said.append(text)

    def mark(self, mark: Mark) -> None:
        self._flush()
        self.parts.append(mark)

    def _flush(self) -> None:
        if self.said:
            self.parts.append("\n".join(self.said))
            self.said = []

    # Names

    def find(self, name: str) -> Scope | Imported | None:
        """The scope that binds a name, what it imports under it, or None for a name of the module or of Python."""
        scope, innermost = self.scope, True
        while scope is not None:
            if innermost or scope.kind != "class":
                if name in scope.own.globals:
                    return None
                if name in scope.own.imports:
                    return scope.own.imports[name]
                if name in scope.own.bound:
                    return scope
            scope, innermost = scope.parent, False
        return None

    def name(self, name: str) -> None:
        scope = self.find(name)
        if not isinstance(scope, Scope):
            self.mark(Chain(scope or self.imports.get(name) or name))
        elif scope.kind == "class":
            self.mark(Attribute(name))
        else:
            if name not in scope.numbers:
                scope.numbers[name], self.count = self.count, self.count + 1
            self.put(f"${scope.numbers[name]}")

    def chain(self, node: ast.expr | None, *, called: bool = False) -> Chain | None:
        """The node as a name of the module with attributes, or None where it begins with a local name or a value."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or isinstance(scope := self.find(node.id), Scope):
            return None
        return Chain(scope or self.imports.get(node.id) or node.id, tuple(attributes), called)

    # Trees

    def nodes(self, name: str, nodes: Iterable[ast.AST]) -> None:
        self.put(f"{name}[")
        for node in nodes:
            self.node(node)
        self.put("]")

    def node(self, node: ast.AST) -> None:
        """One node and all below it."""
        special = getattr(self, f"_{type(node).__name__}", None)
        if special is not None:
            special(node)
            return
        self.put(f"({type(node).__name__}")
        for name, value in ast.iter_fields(node):
            if name in _LEFT_OUT or value is None or value == []:
                continue
            self.put(f"{name}:")
            if isinstance(value, ast.AST):
                self.node(value)
            elif isinstance(value, list):
                self.put("[")
                for each in value:
                    if isinstance(each, ast.AST):
                        self.node(each)
                    else:
                        self.put(repr(each))
                self.put("]")
            else:
                self.put(repr(value))
        self.put(")")

    def _Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)
        self.put(f"{type(node.value).__name__} {node.value!r}")

    def _Name(self, node: ast.Name) -> None:
        self.name(node.id)

    def _Attribute(self, node: ast.Attribute) -> None:
        if (chain := self.chain(node)) is not None:
            self.mark(chain)
        else:
            self.put("(.")
            self.node(node.value)
            self.mark(Attribute(node.attr))
            self.put(")")

    def _Call(self, node: ast.Call) -> None:
        callee: Chain | Attribute | None = self.chain(node.func, called=True)
        self.put("(call")
        if callee is not None:
            self.mark(callee)
        else:
            self.node(node.func)
            callee = Attribute(node.func.attr) if isinstance(node.func, ast.Attribute) else None
        by_class = isinstance(node.func, ast.Name) and node.func.id == self.own_class[0]
        for argument in node.args:
            self.node(argument)
        for keyword in node.keywords:
            self.mark(Keyword(keyword.arg, Chain(self.own_class[1]) if by_class else callee, by_class))
            self.node(keyword.value)
        self.put(")")
        if isinstance(callee, Chain) and callee.base == "getattr":
            self.asked |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
        if isinstance(callee, Chain) and callee.base in _BY_TEXT and not callee.attributes:
            self.mark(Everything())

    def _Raise(self, node: ast.Raise) -> None:
        self.put("(raise")
        exception = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if (chain := self.chain(exception)) is not None:
            self.mark(Raised(chain))
        elif isinstance(exception, ast.Name):
            self.name(exception.id)
        self.put(")")

    def _Assert(self, node: ast.Assert) -> None:
        self.put("(assert")
        self.node(node.test)
        self.put(")")

    def _Expr(self, node: ast.Expr) -> None:
        warning = isinstance(node.value, ast.Call) and self.chain(node.value.func)
        if isinstance(node.value, ast.Constant) or (warning and _is_warning(warning)):
            return
        self.put("(do")
        self.node(node.value)
        self.put(")")

    def _nothing(self, node: ast.AST) -> None:
        """Has no effect, or one that other nodes show."""

    _Pass = _Global = _Nonlocal = _nothing

    def _Import(self, node: ast.stmt) -> None:
        if self.running:
            self.put(f"(import {sorted(read_import(node).items())!r})")

    _ImportFrom = _Import

    def _AnnAssign(self, node: ast.AnnAssign) -> None:
        is_field = self.scope is not None and self.scope.kind == "class"
        if node.value is None and not is_field:
            return
        self.put("(Assign")
        self.node(node.target)
        if is_field:
            self.put("field " + " ".join(kind for kind in _FIELD_KINDS if kind in ast.dump(node.annotation)))
        if node.value is not None:
            self.node(node.value)
        self.put(")")

    def _Assign(self, node: ast.Assign) -> None:
        self.put("(Assign")
        for target in node.targets:
            self.node(target)
        self.node(node.value)
        self.put(")")

    def _ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.put("(except")
        if node.type is not None:
            self.node(node.type)
        if node.name:
            self.name(node.name)
        self.nodes("body", node.body)
        self.put(")")

    def _match(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self.put(f"({type(node).__name__}")
        for value in (getattr(node, "keys", None), getattr(node, "patterns", None), getattr(node, "pattern", None)):
            for each in value if isinstance(value, list) else [value] if value is not None else []:
                self.node(each)
        if name := getattr(node, "name", None) or getattr(node, "rest", None):
            self.name(name)
        self.put(")")

    _MatchAs = _MatchStar = _MatchMapping = _match

    # Scopes

    def _FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.function(node, node.name)

    _AsyncFunctionDef = _FunctionDef

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, name: str | None, *, root: bool = False) -> None:
        """A function; `name` of one inside another, which its scope numbers."""
        self.put(f"({type(node).__name__}")
        if name is not None:
            self.name(name)
        for decorator in node.decorator_list:
            if name is not None or not _registers(decorator):
                self.put("@")
                self.node(decorator)
            elif root:
                self._declared(decorator)
        own = Bindings.of(node.body, _parameters(node.args))
        self._scoped("function", own, node.args, lambda: self.nodes("body", node.body), owned=name is None)
        self.put(")")

    def _Lambda(self, node: ast.Lambda) -> None:
        self.put("(lambda")
        own = Bindings.of([node.body], _parameters(node.args))
        self._scoped("function", own, node.args, lambda: self.node(node.body), owned=False)
        self.put(")")

    def _scoped(self, kind: str, own: Bindings, args: ast.arguments, body: Any, *, owned: bool) -> None:
        inner, outer = Scope(kind, self.scope, own), self.scope
        positional = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
        each: list[tuple[str, ast.arg | None, ast.expr | None]] = [
            *(("only" if a in args.posonlyargs else "", a, d) for a, d in zip(positional, defaults, strict=True)),
            ("*", args.vararg, None),
            *(("key", a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)),
            ("**", args.kwarg, None),
        ]
        for sort, argument, default in each:
            if argument is None:
                continue
            self.put(f"<{sort}")
            self.scope = inner
            self.name(argument.arg)
            self.scope = outer
            if sort in ("", "key"):
                self.mark(Parameter(argument.arg, sort == "key", owned))
            if default is not None:
                self.node(default)
            self.put(">")
        self.scope = inner
        body()
        self.scope = outer

    def _comprehension_of(self, node: Any) -> None:
        targets = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        outer = self.scope
        self.put(f"({type(node).__name__}")
        self.node(node.generators[0].iter)
        self.scope = Scope("comprehension", outer, Bindings(targets))
        for number, generator in enumerate(node.generators):
            self.put(f"for {generator.is_async}")
            self.node(generator.target)
            if number:
                self.node(generator.iter)
            self.nodes("if", generator.ifs)
        for part in ("key", "value", "elt"):
            if (value := getattr(node, part, None)) is not None:
                self.node(value)
        self.scope = outer
        self.put(")")

    _ListComp = _SetComp = _DictComp = _GeneratorExp = _comprehension_of

    def _ClassDef(self, node: ast.ClassDef) -> None:
        """A class inside a function, whole; its attributes keep their names."""
        self.put("(class")
        self.name(node.name)
        self.nodes("bases", node.bases)
        for keyword in node.keywords:
            self.put(f"{keyword.arg}=")
            self.node(keyword.value)
        self.nodes("decorators", node.decorator_list)
        outer, self.scope = self.scope, Scope("class", self.scope, Bindings.of(node.body))
        self.nodes("body", node.body)
        self.scope = outer
        self.put(")")

    def _declared(self, decorator: ast.expr) -> None:
        """What the registering decorator says of the data."""
        assert isinstance(decorator, ast.Call)
        for keyword in sorted(decorator.keywords, key=lambda k: k.arg or ""):
            if keyword.arg in DECLARED:
                self.put(f"{keyword.arg}:")
                self.node(keyword.value)


def _registers(decorator: ast.expr) -> bool:
    """Whether it is the decorator that makes a function a method of the registry."""
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "method"


def _parameters(args: ast.arguments) -> Iterator[str]:
    for each in (*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg):
        if each is not None:
            yield each.arg


def _is_warning(chain: Chain) -> bool:
    base = chain.base
    if isinstance(base, str):
        return False
    dotted = ".".join(filter(None, (base.dotted, base.name, *chain.attributes)))
    return dotted == "warnings.warn"
