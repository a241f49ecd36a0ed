"""What one file of methods declares, read from its source with :mod:`ast`: nothing of it is imported or run.

A method is a function under ``@method(...)``, or a row under it: ``name = variant(function, ...)``.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from methods.core import values
from methods.core.access import LABELLED, UNLABELLED, Access
from methods.core.errors import MergingError, nearest
from methods.core.footprint import Footprint
from methods.core.registry import Method

_DECLARATIONS: dict[str, Any] = {"Access": Access, "Footprint": Footprint}
_FUNCTION = re.compile(r"^@method\b.*?^def +(\w+)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^(\w+)[^=\n]*= *variant\(", re.MULTILINE)


class BrokenFile(MergingError):
    """A file of methods that cannot be used: ``methods/FILE, line N: why``; ``names`` are those it would declare."""

    def __init__(self, path: Path, line: int | None, why: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(f"methods/{path.name}{f', line {line}' if line else ''}: {why}")
        self.path, self.line, self.why = path, line, why
        self.names = names


def bindings(path: Path) -> set[str] | None:
    """The names that a module's top level binds; None where the source does not tell."""
    status = path.stat()
    return _bindings(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _bindings(path: Path, _mtime: int, _size: int) -> set[str] | None:
    names: set[str] = set()
    for node in statements(parsed(path).body, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return None if {"*", "__getattr__"} & names else names


def statements(body: Iterable[ast.stmt], closed: tuple[type[ast.stmt], ...] = ()) -> Iterator[ast.stmt]:
    """The statements of ``body`` and those inside them, but for what stands inside one of the ``closed`` kinds.

    Expressions, which hold no statement, are not walked: they are most of a file.
    """
    waiting: deque[ast.AST] = deque(body)
    while waiting:
        node = waiting.popleft()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, closed):
            waiting.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))


def parsed(path: Path) -> ast.Module:
    status = path.stat()
    return _parse(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _parse(path: Path, _mtime: int, _size: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def read(path: Path) -> list[tuple[Method, int]]:
    """The methods one file declares, each with its line. Raises :class:`BrokenFile` where it cannot be read."""
    try:
        tree = parsed(path)
    except (OSError, SyntaxError, ValueError) as error:  # of these UnicodeDecodeError
        line = error.lineno if isinstance(error, SyntaxError) else None
        why = error.msg if isinstance(error, SyntaxError) and line else f"cannot be read as Python: {error}"
        raise BrokenFile(path, line, why, _names_in(path)) from None
    local = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    methods: dict[str, Method] = {}
    lines: list[tuple[Method, int]] = []
    for node in tree.body:
        try:
            for method in _declared(path, node, local, methods):
                methods[method.name] = method
                lines.append((method, node.lineno))
        except BrokenFile:
            raise
        except ValueError as error:
            raise BrokenFile(path, node.lineno, str(error), _names_in(path)) from None
    return lines


def _declared(
    path: Path, node: ast.stmt, local: Mapping[str, ast.expr], above: Mapping[str, Method]
) -> Iterator[Method]:
    """The methods that a statement declares: none or one. Raises ValueError, saying what is wrong."""
    if isinstance(node, ast.FunctionDef):
        for decorator in node.decorator_list:
            _bound(path, decorator, "@method")
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "method":
                yield _function(path, node, decorator, local)
            elif getattr(decorator, "id", None) == "method":
                raise ValueError(f"{node.name} needs @method(title=..., paper=...)")
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
        call, targets = node.value, node.targets if isinstance(node, ast.Assign) else [node.target]
        if isinstance(call.func, ast.Name):
            _bound(path, call.func, "variant")
            if call.func.id == "variant":
                if len(targets) != 1 or not isinstance(targets[0], ast.Name):
                    raise ValueError("a row is written name = variant(function, ...), with one name")
                yield _row(targets[0].id, call, above)


def _bound(path: Path, node: ast.expr, meant: str) -> None:
    """Raises BrokenFile where the first name in ``node`` is none of its file's or of Python's."""
    name, names = next((each.id for each in ast.walk(node) if isinstance(each, ast.Name)), ""), bindings(path)
    if names is not None and name not in names and not hasattr(builtins, name):
        why = f"nothing is called {name}; {meant} comes from methods.api"
        raise BrokenFile(path, node.lineno, why, _names_in(path))


def _names_in(path: Path) -> tuple[str, ...]:
    """What a file that cannot be read would declare, as far as its text shows; its own name among them."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return tuple(dict.fromkeys([path.stem, *_FUNCTION.findall(text), *_ROW.findall(text)]))


def _function(path: Path, node: ast.FunctionDef, decorator: ast.Call, local: Mapping[str, ast.expr]) -> Method:
    """The method that a decorated function declares. Raises ValueError, saying what is wrong."""
    try:
        if decorator.args or any(k.arg is None for k in decorator.keywords):
            raise ValueError("the decorator takes names")
        declared = {str(k.arg): _literal(k.value) for k in decorator.keywords}
        keywords = list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
        parameters = {a.arg: _literal(d) for a, d in keywords if d is not None}
    except MergingError:
        raise
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"the decorator's arguments and the keyword defaults of {node.name} must be literals"
        ) from None
    missing = [a.arg for a, d in keywords if d is None] or sorted({"title", "paper"} - declared.keys())
    if missing:
        raise ValueError(
            f"{node.name} needs @method(title=..., paper=...) and a default for every keyword; missing: "
            f"{', '.join(missing)}"
        )
    allowed = {a.arg: values.read(a.annotation, local) for a, _ in keywords}
    if wrong := _wrong(node, declared, parameters, allowed):
        raise ValueError(wrong)
    return Method(
        node.name,
        f"methods.{path.stem}",
        declared["title"],
        declared["paper"],
        declared.get("access", Access()),
        parameters,
        declared.get("access_if", {}),
        declared.get("grids", {}),
        (ast.get_docstring(node) or "").partition("\n")[0],
        needs=declared.get("needs", ()),
        footprint=declared.get("footprint", Footprint()),
        allowed={key: kind for key, kind in allowed.items() if kind is not Any},
    )


def _row(name: str, call: ast.Call, above: Mapping[str, Method]) -> Method:
    """The method that ``name = variant(function, ...)`` declares. Raises ValueError, saying what is wrong."""
    function = call.args[0].id if len(call.args) == 1 and isinstance(call.args[0], ast.Name) else ""
    if function not in above:
        raise ValueError(f"{name} = variant(function, ...) takes one method that stands above it in this file")
    try:
        if any(k.arg is None for k in call.keywords):
            raise ValueError("a row takes names")
        row = {str(k.arg): _literal(k.value) for k in call.keywords}
    except MergingError:
        raise
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"what {name} = variant({function}, ...) says must be literals") from None
    texts: dict[str, Any] = {key: row.pop(key) for key in ("title", "paper", "summary") if key in row}
    if len(texts) < 3 or not row:
        raise ValueError(f"{name} needs variant({function}, title=..., paper=..., summary=..., KEYWORD=...)")
    of = above[function]
    method = dataclasses.replace(
        of, name=name, parameters=of.resolve(row), variant_of=of.variant_of or function, **texts
    )
    if wrong := _wrong_text(name, texts) or _wrong_values(name, method.parameters, method.allowed):
        raise ValueError(wrong)
    return method


def _literal(node: ast.expr) -> Any:
    """The value of a literal expression; ``Access(...)``, its two levels and ``Footprint(...)`` are understood too."""
    if isinstance(node, ast.Name):
        return {"LABELLED": LABELLED, "UNLABELLED": UNLABELLED}[node.id]
    if isinstance(node, ast.Call) and (kind := _DECLARATIONS.get(getattr(node.func, "id", ""))):
        if node.args or any(k.arg is None for k in node.keywords):
            raise ValueError(f"{kind.__name__} takes names")
        said, fields = [str(k.arg) for k in node.keywords], [each.name for each in dataclasses.fields(kind)]
        if strange := [key for key in said if key not in fields]:
            raise nearest(f"field of {kind.__name__}", strange[0], fields)
        return kind(**{key: _literal(k.value) for key, k in zip(said, node.keywords, strict=True)})
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.Tuple):
        return tuple(_literal(e) for e in node.elts)
    return ast.literal_eval(node)


def _wrong(
    node: ast.FunctionDef, declared: Mapping[str, Any], parameters: Mapping[str, Any], allowed: Mapping[str, Any]
) -> str | None:
    """What is wrong with a method's declaration, in one line, or None."""
    positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    if positional not in (["experts"], ["experts", "stream"]) or node.args.vararg or node.args.kwarg:
        return f"{node.name} takes (experts, *, ...) or (experts, stream, *, ...): keywords follow the '*', by name"
    kinds = {"title": str, "paper": str, "access": Access, "access_if": dict, "grids": dict, "needs": tuple,
             "footprint": Footprint}  # fmt: skip
    for key, value in declared.items():
        if key not in kinds:
            return f"@method knows no {key!r}; allowed: {', '.join(kinds)}"
        if not isinstance(value, kinds[key]):
            return f"{key} of {node.name} is {value!r}; expected {kinds[key].__name__}"
    access_if, grids = declared.get("access_if", {}), declared.get("grids", {})
    for pair, more in access_if.items():
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(more, Access)):
            return f"access_if of {node.name} holds {pair!r}: {more!r}; expected (keyword, value): Access(...)"
    if strange := [key for key in (*grids, *(pair[0] for pair in access_if)) if key not in parameters]:
        return f"grids or access_if of {node.name} name {strange[0]!r}, which is no keyword of it"
    if strange := declared.get("footprint", Footprint()).missing(parameters):
        return f"the footprint of {node.name} names {strange[0]!r}, which is no keyword of it"
    if strange := [key for key, grid in grids.items() if not (isinstance(grid, tuple) and len(grid) == 3)]:
        return f"grids[{strange[0]!r}] of {node.name} is {grids[strange[0]]!r}; expected (first, last, count)"
    if wrong := _wrong_values(node.name, parameters, allowed):
        return wrong
    wants = bool(declared.get("access")) or bool(access_if)
    if wants and "stream" not in positional:
        return f"{node.name} declares access to data and has no stream: {node.name}(experts, stream, *, ...)"
    if not wants and "inner" not in parameters and positional == ["experts", "stream"]:
        return f"{node.name} takes a stream and declares no access: @method(access=Access(...))"
    return None


def _wrong_text(name: str, texts: Mapping[str, Any]) -> str | None:
    """What is wrong with a row's title, paper and summary."""
    wrong = next((key for key, value in texts.items() if not isinstance(value, str)), None)
    return f"{wrong} of {name} is {texts[wrong]!r}; expected str" if wrong else None


def _wrong_values(name: str, parameters: Mapping[str, Any], allowed: Mapping[str, Any]) -> str | None:
    """What is wrong with a method's name and the defaults of its keywords."""
    if name == "all":
        return "a method cannot be called 'all', which means every method on the command line"
    for key, value in parameters.items():
        kind = allowed.get(key, Any)
        if not _plain_value(value):
            return f"{key} of {name} defaults to {value!r}; expected a number, text, True, False, None or a list"
        if not values.fits(value, kind, [str(value)]) and value is not None:
            return f"{key} of {name} defaults to {value!r}; its annotation allows: {values.text(kind)}"
    return None


def _plain_value(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain_value(each) for each in value)
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
