"""Which methods exist, and what each declares: read from the source, without importing torch.

A method is a function under ``@method(...)`` in a file of this package. Its keyword defaults are its configuration,
their annotations say which values are allowed (:mod:`core.values`), its decorator says its title, paper and the data
it needs. The same function with other defaults is a row below it, ``name = variant(function, ...)``. ``names`` and
``describe`` read all of it with :mod:`ast`, and ``broken`` names the files that cannot be used (:mod:`core.discovery`);
``get`` imports the file and returns the callable.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.core import values
from methods.core.access import LABELLED, Access
from methods.core.errors import MergingError, NotApplicable, nearest
from methods.core.footprint import Footprint

if TYPE_CHECKING:
    from methods.core.declarations import BrokenFile
    from methods.core.discovery import Discovery

#: What a method may need of the experts: tasks with classes; linear layers in the encoder; LoRA adapters; exactly one
#: of them, or two.
NEEDS = ("classes", "matrices", "adapters", "single", "pair")
#: How many experts the last two are.
COUNTS = {"single": (1, "one expert"), "pair": (2, "two experts")}
#: The folder of the papers, one file a method.
PACKAGE = Path(__file__).parents[1]


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
    footprint: Footprint = Footprint()
    allowed: dict[str, Any] = field(default_factory=dict)
    """The types of annotated keywords, as :func:`core.values.read` gives them; in what ``describe`` returns only."""
    variant_of: str | None = None
    """Of a row the method that runs, with other defaults: the function of the same file."""

    def __getattr__(self, name: str) -> Any:
        """The ``from_...`` functions of the method's file: ``get("regmean").from_grams``."""
        if name.startswith("from_"):
            function = getattr(importlib.import_module(self.module), name, None)
            if function is not None:
                return function
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

    def allows(self, key: str, value: Any) -> bool:
        """Whether the keyword may have this value, as far as its annotation says."""
        if key in self.grids and value == "val":
            return True
        same = value == self.parameters[key] and type(value) is type(self.parameters[key])
        return same or values.fits(value, self.allowed.get(key, Any), self._others())

    def allowed_text(self, key: str) -> str:
        """What :meth:`allows`, in words; empty where the annotation does not tell."""
        text = values.text(self.allowed.get(key, Any))
        return f"{text}, or val" if text and key in self.grids else text

    def choices(self, key: str) -> list[Any]:
        """The allowed values one by one, where the annotation lists them."""
        return values.choices(self.allowed.get(key, Any), self._others())

    def takes_method(self, key: str) -> bool:
        """Whether the keyword names another method."""
        return values.takes_method(self.allowed.get(key, Any))

    def _others(self) -> set[str]:
        return set(_files().methods) - {self.name}

    def access_for(self, keywords: Mapping[str, Any]) -> Access:
        """The access these keywords ask for: the declared one, raised where a keyword value says so.

        Samples to choose a keyword on, and what an inner method is handed, count as well.
        """
        access = Access()
        for about, parameters in self.stack(keywords):
            access = access | about.handed(parameters)
        if any(self.resolve(keywords).get(key) == "val" for key in self.grids):
            access = access | Access(val=LABELLED)
        return access

    def handed(self, keywords: Mapping[str, Any]) -> Access:
        """The access of this method's own work with these keywords, without that of a method it stands on."""
        access = self.access
        resolved = self.resolve(keywords)
        for (key, value), more in self.access_if.items():
            if resolved.get(key) == value and type(resolved.get(key)) is type(value):
                access = access | more
        return access

    def stack(self, keywords: Mapping[str, Any]) -> list[tuple[Method, dict[str, Any]]]:
        """The methods that a run takes, each with its parameters: this one, and the ``inner`` one it stands on."""
        resolved = self.resolve(keywords)
        inner = resolved.get("inner")
        # An ``inner`` that lists its choices is a rule of the method's own, whatever it is called.
        own = values.choices(_files().methods.get(self.name, self).allowed.get("inner", Any))
        if not isinstance(inner, str) or inner == self.name or inner not in _files().methods or own:
            return [(self, resolved)]
        below = describe(inner)
        return [(self, resolved), (below, below.parameters)]

    def holds_vectors(self, keywords: Mapping[str, Any]) -> bool:
        """Whether a run keeps all task vectors on the device while it adapts: ``--vectors`` applies to it."""
        return any(
            about.footprint.vectors and bool(about.handed(parameters)) for about, parameters in self.stack(keywords)
        )

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


def wrong_number(count: int, need: str) -> str | None:
    """Why so many experts are not as many as a need of ``COUNTS`` says, in one line; ``None`` where they are."""
    wanted, words = COUNTS[need]
    return None if count == wanted else f"merges {words} and these are {count}"


def method(
    *,
    title: str,
    paper: str,
    access: Access | None = None,
    access_if: Mapping[tuple[str, Any], Access] | None = None,
    grids: Mapping[str, tuple[float, float, int]] | None = None,
    needs: tuple[str, ...] = (),
    footprint: Footprint | None = None,
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
        footprint: what it takes, where it does more than stream the experts' tensors once or twice.
    """

    def register(function: Callable[..., Any]) -> Method:
        parameters = {
            p.name: p.default
            for p in inspect.signature(function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        entry = Method(
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
            footprint or Footprint(),
        )
        functools.update_wrapper(entry, function)
        return entry

    return register


def variant(method: Method, *, title: str, paper: str, summary: str, **defaults: Any) -> Method:
    """A row: another method of the literature, which is ``method`` with other ``defaults``. Stands in the same file.

    ``get`` gives it the name that it is assigned to. The version of its maths is that of the function with the row's
    defaults. Raises :class:`UnknownName` for a default of no keyword of it.
    """
    assert method.function is not None
    row = dataclasses.replace(
        method,
        title=title,
        paper=paper,
        summary=summary,
        parameters=method.resolve(defaults),
        function=functools.partial(method.function, **defaults),
        variant_of=method.variant_of or method.name,
    )
    row.__doc__ = summary
    return row


@functools.lru_cache(maxsize=1)
def _files() -> Discovery:
    """What the files of this package declare."""
    from methods.core.discovery import discover

    return discover(PACKAGE)


def names() -> list[str]:
    """The names of all registered methods, sorted."""
    return sorted(_files().methods)


def broken() -> list[BrokenFile]:
    """The files that cannot be used, each with its line and what is wrong; their methods are in no other list."""
    return list(_files().broken)


def describe(name: str) -> Method:
    """What ``name`` declares, without importing it.

    Raises :class:`UnknownName` with the nearest names, or :class:`MergingError` where its file is broken.
    """
    entries = _files().methods
    if name in entries:
        return entries[name]
    if faults := [str(fault) for fault in broken() if name in fault.names]:
        raise MergingError(f"{name} cannot be used: {'; '.join(faults)}. Mend that line; other methods need none of it")
    if (PACKAGE / f"{name}.py").is_file():
        raise MergingError(f"methods/{name}.py declares no method: a function under @method(title=..., paper=...)")
    raise nearest("method", name, list(entries), "Type ./run_all.sh list to see all.")


def get(name: str) -> Method:
    """The method itself, ready to call (imports its file). Raises :class:`UnknownName` with the nearest names."""
    about = describe(name)
    entry: Method = getattr(importlib.import_module(about.module), name)
    entry.name = name  # a row does not know what it is assigned to
    for what in ("title", "paper", "access", "access_if", "grids", "parameters", "needs", "footprint", "variant_of"):
        source, runtime = getattr(about, what), getattr(entry, what)
        if source != runtime:
            raise MergingError(
                f"methods/{about.path.name}: {what} of {name} is {runtime!r} once imported, and {source!r} as written; "
                "the decorator's arguments and keyword defaults must be literals"
            )
    return entry


def merge_with(name: str, experts: Any, stream: Any, keywords: Mapping[str, Any]) -> Any:
    """Merge with the method ``name``, which gets those of the ``keywords`` that it has."""
    chosen = get(name)
    return chosen(experts, stream, **{key: value for key, value in keywords.items() if key in chosen.parameters})


def rule_name(rule: Callable[..., Any] | None) -> str | None:
    """``"file:function"`` of a module-level function of this package, by which a saved merge names its rule.

    The file is named with its folder: ``"tools.masks:masked"``.
    """
    if rule is None:
        return None
    package, _, stem = rule.__module__.partition(".")
    if package != PACKAGE.name or not stem or not rule.__qualname__.isidentifier():
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
    parts = stem.split(".")
    named = all(part.isidentifier() for part in (*parts, function))
    if not (named and PACKAGE.joinpath(*parts).with_suffix(".py").is_file()):
        raise MergingError(f"the saved merge names the rule {name!r}, which is not in methods/")
    rule: Callable[..., Any] = getattr(importlib.import_module(f"methods.{stem}"), function)
    return rule
