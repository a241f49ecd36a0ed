"""Which methods exist, and what each declares: read from the source, without importing torch.

A method is a function under ``@method(...)`` in a file of this package. Its keyword defaults are its configuration,
its decorator says its title, paper and the data it needs. ``names`` and ``describe`` read both with :mod:`ast`;
``get`` imports the file and returns the callable.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LABELLED = "labelled"
UNLABELLED = "unlabelled"
SPLITS = ("train", "val", "test")
#: What a method may need of the experts: tasks with classes; linear layers in the encoder; LoRA adapters.
NEEDS = ("classes", "matrices", "adapters")
PACKAGE = Path(__file__).parent


class MergingError(ValueError):
    """A merge that cannot be done as asked. The message says what was found, what is allowed, and what to type."""


class NotApplicable(MergingError):
    """The method does not fit these experts (say, LoRA adapters are needed); the message says why in one line."""


class UnknownName(MergingError, KeyError):
    """No such method or keyword; the nearest names are offered."""

    def __str__(self) -> str:
        return str(self.args[0])


def nearest(kind: str, name: str, known: list[str], hint: str = "") -> UnknownName:
    """The error for an unknown ``name`` of this ``kind``, with the closest known names."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    offer = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(sorted(known)) or 'none'}."
    return UnknownName(f"unknown {kind} {name!r}. {offer}{' ' + hint if hint else ''}")


@dataclass(frozen=True)
class Access:
    """The data a method is handed: for each split ``LABELLED``, ``UNLABELLED`` or ``None``."""

    train: str | None = None
    val: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        for split, level in self.items():
            if level not in (LABELLED, UNLABELLED):
                raise MergingError(f"access to {split} is {level!r}; allowed: {LABELLED!r}, {UNLABELLED!r} or None")

    def items(self) -> list[tuple[str, str]]:
        """The granted ``(split, level)`` pairs, in the order train, val, test."""
        return [(s, getattr(self, s)) for s in SPLITS if getattr(self, s) is not None]

    def __bool__(self) -> bool:
        return bool(self.items())

    def __or__(self, other: Access) -> Access:
        """The higher of two levels, split by split."""
        rank = {None: 0, UNLABELLED: 1, LABELLED: 2}
        return Access(**{s: max(getattr(self, s), getattr(other, s), key=rank.__getitem__) for s in SPLITS})

    def describe(self) -> str:
        """``"unlabelled test"``, ``"labelled val + unlabelled test"`` or ``"none"``."""
        return " + ".join(f"{level} {split}" for split, level in self.items()) or "none"


@dataclass(eq=False)
class Method:
    """A registered method. Call it as ``method(experts, **keywords)`` or ``method(experts, stream, **keywords)``."""

    name: str
    module: str
    title: str
    paper: str
    access: Access
    parameters: dict[str, Any]
    access_if: dict[tuple[str, Any], Access] = field(default_factory=dict)
    grids: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    summary: str = ""
    function: Callable[..., Any] | None = None
    needs: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """The ``from_...`` functions of the method's file: ``get("regmean").from_grams``."""
        if name.startswith("from_"):
            found = getattr(importlib.import_module(self.module), name, None)
            if found is not None:
                return found
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def stochastic(self) -> bool:
        """A method that has the keyword ``seed`` is stochastic; one that has not is deterministic."""
        return "seed" in self.parameters

    @property
    def path(self) -> Path:
        """The file that holds the method."""
        return PACKAGE / f"{self.module.rpartition('.')[2]}.py"

    def resolve(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, the defaults filled in. Raises :class:`UnknownName` for an unknown keyword."""
        for key in keywords:
            if key not in self.parameters:
                raise nearest(f"keyword of {self.name}", key, list(self.parameters))
        return {**self.parameters, **keywords}

    def access_for(self, keywords: Mapping[str, Any]) -> Access:
        """The access these keywords ask for: the declared one, raised where a keyword value says so."""
        access = self.access
        values = self.resolve(keywords)
        for (key, value), more in self.access_if.items():
            if values.get(key) == value and type(values.get(key)) is type(value):
                access = access | more
        if any(values.get(key) == "val" for key in self.grids):
            access = access | Access(val=LABELLED)
        inner = values.get("inner")
        if isinstance(inner, str) and inner in _files() and inner != self.name:
            access = access | describe(inner).access
        return access

    def __call__(self, experts: Any, stream: Any = None, **keywords: Any) -> Any:
        """Merge ``experts``; ``stream`` is needed exactly when the access is not none. Returns a ``Merged``."""
        if self.function is None:
            return get(self.name)(experts, stream, **keywords)
        access = self.access_for(keywords)
        chosen = [key for key in self.grids if keywords.get(key) == "val"]
        if chosen:
            raise MergingError(
                f"{chosen[0]}='val' is chosen on a validation split by the benchmark's runner; called directly, "
                f"{self.name} takes a number"
            )
        for need in self.needs:
            if why := experts.lacks(need):
                raise NotApplicable(f"{self.name} {why}")
        takes_stream = "stream" in inspect.signature(self.function).parameters
        if access and stream is None and takes_stream:
            raise MergingError(
                f"{self.name} needs data ({access.describe()}) and was given no stream; "
                f"call it as methods.get({self.name!r})(experts, stream, ...)"
            )
        if takes_stream:
            if access and set(stream.tasks) != set(experts.tasks):
                raise MergingError(
                    f"the stream has the tasks {', '.join(stream.tasks)} and the experts are of "
                    f"{', '.join(experts.tasks)}; expected the same (Experts.subset picks some)"
                )
            return self.function(experts, stream, **keywords)
        return self.function(experts, **keywords)


def method(
    *,
    title: str,
    paper: str,
    access: Access | None = None,
    access_if: Mapping[tuple[str, Any], Access] | None = None,
    grids: Mapping[str, tuple[float, float, int]] | None = None,
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Method]:
    """Register the decorated function as a method.

    Args:
        title: the method's name in the literature.
        paper: where it is described, ``"arXiv:NUMBER"`` where it has one.
        access: the data it is handed; default none. All arguments must be literals (they are read from the source).
        access_if: ``{(keyword, value): Access}`` raises the access when the keyword has that value.
        grids: ``{keyword: (first, last, count)}``: the values the paper searches on a labelled validation split. Such a
            keyword may be ``"val"``; whoever runs the method then chooses, and hands the method a number.
        needs: what the experts must have, out of ``NEEDS``; without it the method is left out, with a line saying why.
    """

    def register(function: Callable[..., Any]) -> Method:
        parameters = {
            p.name: p.default
            for p in inspect.signature(function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        made = Method(
            function.__name__,
            function.__module__,
            title,
            paper,
            access or Access(),
            parameters,
            dict(access_if or {}),
            dict(grids or {}),
            summary,
            function,
            needs,
        )
        functools.update_wrapper(made, function)
        return made

    return register


def _literal(node: ast.expr) -> Any:
    """The value of a literal expression; ``Access(...)`` and the two level names are understood as well."""
    if isinstance(node, ast.Name):
        return {"LABELLED": LABELLED, "UNLABELLED": UNLABELLED}[node.id]
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Access":
        if node.args or any(k.arg is None for k in node.keywords):
            raise ValueError("Access takes names: Access(test=UNLABELLED)")
        return Access(**{str(k.arg): _literal(k.value) for k in node.keywords})
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.Tuple):
        return tuple(_literal(e) for e in node.elts)
    return ast.literal_eval(node)


def _read(path: Path) -> list[Method]:
    """The methods one file declares. Raises :class:`MergingError` with file and line where it cannot be read."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise MergingError(f"methods/{path.name}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:  # of these UnicodeDecodeError
        raise MergingError(f"methods/{path.name} cannot be read as Python: {error}") from None
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if not (isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "method"):
                continue
            try:
                if decorator.args or any(k.arg is None for k in decorator.keywords):
                    raise ValueError("the decorator takes names")
                given = {str(k.arg): _literal(k.value) for k in decorator.keywords}
                parameters = {
                    a.arg: _literal(d)
                    for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                    if d is not None
                }
            except (ValueError, KeyError, TypeError):
                raise MergingError(
                    f"methods/{path.name}, line {node.lineno}: the decorator's arguments and the keyword "
                    f"defaults of {node.name} must be literals"
                ) from None
            missing = [a.arg for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is None]
            if missing or {"title", "paper"} - given.keys():
                raise MergingError(
                    f"methods/{path.name}, line {node.lineno}: {node.name} needs @method(title=..., "
                    f"paper=...) and a default for every keyword; missing: "
                    f"{', '.join(missing or sorted({'title', 'paper'} - given.keys()))}"
                )
            if wrong := _wrong(node, given, parameters):
                raise MergingError(f"methods/{path.name}, line {node.lineno}: {wrong}")
            found.append(
                Method(
                    node.name,
                    f"methods.{path.stem}",
                    given["title"],
                    given["paper"],
                    given.get("access", Access()),
                    parameters,
                    given.get("access_if", {}),
                    given.get("grids", {}),
                    (ast.get_docstring(node) or "").partition("\n")[0],
                    needs=given.get("needs", ()),
                )
            )
    return found


def _wrong(node: ast.FunctionDef, given: Mapping[str, Any], parameters: Mapping[str, Any]) -> str | None:
    """What is wrong with a method's declaration, in one line, or None."""
    taken = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    if taken not in (["experts"], ["experts", "stream"]) or node.args.vararg or node.args.kwarg:
        return f"{node.name} takes (experts, *, ...) or (experts, stream, *, ...): keywords follow the '*', by name"
    kinds = {"title": str, "paper": str, "access": Access, "access_if": dict, "grids": dict, "needs": tuple}
    for key, value in given.items():
        if key not in kinds:
            return f"@method knows no {key!r}; allowed: {', '.join(kinds)}"
        if not isinstance(value, kinds[key]):
            return f"{key} of {node.name} is {value!r}; expected {kinds[key].__name__}"
    access_if, grids = given.get("access_if", {}), given.get("grids", {})
    for pair, more in access_if.items():
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(more, Access)):
            return f"access_if of {node.name} holds {pair!r}: {more!r}; expected (keyword, value): Access(...)"
    if strange := [key for key in (*grids, *(pair[0] for pair in access_if)) if key not in parameters]:
        return f"grids or access_if of {node.name} name {strange[0]!r}, which is no keyword of it"
    if strange := [key for key, grid in grids.items() if not (isinstance(grid, tuple) and len(grid) == 3)]:
        return f"grids[{strange[0]!r}] of {node.name} is {grids[strange[0]]!r}; expected (first, last, count)"
    for key, value in parameters.items():
        if not _plain_value(value):
            return f"{key} of {node.name} defaults to {value!r}; expected a number, text, True, False, None or a list"
    wants = bool(given.get("access")) or bool(access_if)
    if wants and "stream" not in taken:
        return f"{node.name} declares access to data and has no stream: {node.name}(experts, stream, *, ...)"
    if not wants and "inner" not in parameters and taken == ["experts", "stream"]:
        return f"{node.name} takes a stream and declares no access: @method(access=Access(...))"
    if node.name == "all":
        return "a method cannot be called 'all', which means every method on the command line"
    return None


def _plain_value(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain_value(each) for each in value)
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


@functools.lru_cache(maxsize=1)
def _files() -> dict[str, Method]:
    """All declared methods by name, in the order of their files. A name declared twice is an error."""
    known: dict[str, Method] = {}
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem.startswith(("_", ".")) or not path.is_file():
            continue
        for made in _read(path):
            if made.name in known:
                raise MergingError(
                    f"two methods are called {made.name!r}: in {known[made.name].module} and {made.module}"
                )
            known[made.name] = made
    return known


def names() -> list[str]:
    """The names of all registered methods, sorted."""
    return sorted(_files())


def describe(name: str) -> Method:
    """What ``name`` declares, without importing it. Raises :class:`UnknownName` with the nearest names."""
    known = _files()
    if name not in known:
        raise nearest("method", name, list(known), "Type ./run_all.sh list to see all.")
    return known[name]


def get(name: str) -> Method:
    """The method itself, ready to call (imports its file). Raises :class:`UnknownName` with the nearest names."""
    about = describe(name)
    found: Method = getattr(importlib.import_module(about.module), name)
    for what in ("title", "paper", "access", "access_if", "grids", "parameters", "needs"):
        said, made = getattr(about, what), getattr(found, what)
        if said != made:
            raise MergingError(
                f"methods/{about.path.name}: {what} of {name} is {made!r} once imported, and {said!r} as written; the "
                "decorator's arguments and keyword defaults must be literals"
            )
    return found


def merge_with(name: str, experts: Any, stream: Any, given: Mapping[str, Any]) -> Any:
    """Merge with the method ``name``, which gets those of the keywords ``given`` that it has."""
    chosen = get(name)
    return chosen(experts, stream, **{key: value for key, value in given.items() if key in chosen.parameters})


def rule_name(rule: Callable[..., Any] | None) -> str | None:
    """``"file:function"`` of a module-level function of this package, by which a saved merge names its rule."""
    if rule is None:
        return None
    package, _, stem = rule.__module__.rpartition(".")
    if package != PACKAGE.name or not rule.__qualname__.isidentifier():
        raise MergingError(
            f"{rule.__module__}.{rule.__qualname__} cannot be stored with a merge; expected a module-level "
            "function in a file of methods/"
        )
    return f"{stem}:{rule.__qualname__}"


def rule_of(name: str | None) -> Callable[..., Any] | None:
    """The function of which :func:`rule_name` gave the name."""
    if name is None:
        return None
    stem, _, function = name.partition(":")
    if not (stem.isidentifier() and function.isidentifier() and (PACKAGE / f"{stem}.py").is_file()):
        raise MergingError(f"the saved merge names the rule {name!r}, which is not in methods/")
    found: Callable[..., Any] = getattr(importlib.import_module(f"methods.{stem}"), function)
    return found
