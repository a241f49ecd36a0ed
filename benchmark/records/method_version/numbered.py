"""Everything that a method reaches as text, with numbers for the names that its authors chose."""

from __future__ import annotations

import os
from collections import deque

from benchmark.records.method_version.forms import Attribute, Chain, Keyword, Mark, Parameter, Raised
from benchmark.records.method_version.reach import HARNESS, Reach, is_dunder
from benchmark.records.method_version.sources import Key, Module, Outside, Whole

#: Attributes of the project's classes that tensors, modules, arrays or Python's own types have too: `x.copy` may be
#: either's, so that these names stay.
SHARED = frozenset(
    "_buffers _graph _modules _parameters add backward base batch_first buffers clamp copy cross device floating "
    "floor forward gradient graph index inner items linear load mean metadata modules name nbytes next number numel "
    "parameters path real resolve result run save seed size solve square start state_dict stem storage target test "
    "title trace train weight".split()
)


class Numbered:
    """Definitions, and attributes of the project's classes, numbered in the order in which they are first named."""

    def __init__(self, reach: Reach) -> None:
        self.reach, self.sources = reach, reach.sources
        texts = {text for form in reach.forms.values() for text in form.texts}
        names = {name for forms in reach.classes.values() for name in forms.names}
        fixed = SHARED | HARNESS | texts | self._replaced()
        self.renamed = {name for name in names - fixed if not is_dunder(name)}
        self.methods: dict[str, list[Key]] = {}
        for key in reach.classes:
            for method in reach.methods_of(key):
                self.methods.setdefault(method.last, []).append(method)
        self._look_at_calls()

    def text(self) -> list[str]:
        """All definitions, each when it is first named, and a method when its class and its name have been."""
        self._numbers: dict[Key | Whole, int] = {}
        self._attributes: dict[str, int] = {}
        self._met: set[str] = set(HARNESS)
        self._queue: deque[Key | Whole] = deque()
        self._running = dict(self.reach.running)
        self._out = [f"root {self._number(root)}" for root in self.reach.roots]
        left = [method for key in self.reach.classes for method in self.reach.methods_of(key)]
        while self._queue or left:
            while self._queue:
                self._definition(self._queue.popleft())
            candidates = [method for method in left if method.owner in self._numbers]
            ready = [m for m in candidates if m.last in self._met or m.last not in self.renamed]
            # What nothing names, and someone outside may call, comes last.
            for method in sorted(ready, key=self._place) or candidates[:1]:
                left.remove(method)
                self._entry(method, f"method {self._attribute(method.last)}")
            if not candidates and not self._queue:
                break
        return self._out

    def _place(self, method: Key) -> tuple[str, int, int]:
        keeps = method.last not in self.renamed
        place = -1 if keeps else self._attributes[method.last]
        return (method.last if keeps else "", place, self._numbers[method.owner])

    def _number(self, key: Key | Whole) -> str:
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._queue.append(key)
        return f"#{self._numbers[key]}"

    def _attribute(self, name: str) -> str:
        self._met.add(name)
        if name not in self.renamed:
            return f".{name}"
        return f".#{self._attributes.setdefault(name, len(self._attributes))}"

    def _definition(self, key: Key | Whole) -> None:
        if isinstance(key, Whole):
            # Whatever is looked up in it is so by name.
            text = "" if os.path.isdir(key.file) else self._all(self.sources.module(key.file))
            self._out += [f"module {self._numbers[key]}", text]
            return
        self._entry(key, "definition")
        for statement in self._running.pop(key.file, ()):
            self._entry(statement, "running")

    def _all(self, module: Module) -> str:
        return " ".join(f"{name} {self._number(Key(module.file, name))}" for name in sorted(module.definitions))

    def _entry(self, key: Key, what: str) -> None:
        form, module = self.reach.forms[key], self.sources.module(key.file)
        self._out.append(f"{what} {self._numbers.get(key.owner)}")
        self._met |= form.asked
        self._out += [part if isinstance(part, str) else self._token(key, module, part) for part in form.parts]

    def _token(self, key: Key, module: Module, mark: Mark) -> str:
        if isinstance(mark, Attribute):
            return self._attribute(mark.name)
        if isinstance(mark, Chain):
            target, rest = self.sources.resolve(module, mark)
            first = f"outside {target.name}" if isinstance(target, Outside) else self._number(target)
            return first + "".join(map(self._attribute, rest))
        if isinstance(mark, Keyword):
            return self._keyword(module, mark)
        if isinstance(mark, Parameter):
            return mark.name if self._keeps_name(key, mark) else ""
        if isinstance(mark, Raised):
            return self._raised(module, mark.chain)
        return self._all(module)

    def _raised(self, module: Module, chain: Chain) -> str:
        """An exception by those from outside, or of the registry, that it is one of.

        Nothing for what a function makes; and the class itself where the code does more with it than raise it.
        """
        target, _ = self.sources.resolve(module, chain)
        if isinstance(target, Outside):
            return target.name
        if target in self.reach.classes:
            return self._number(target)
        forms = self.sources.class_of(target) if isinstance(target, Key) else None
        if forms is None:
            return ""
        inner = self.sources.module(target.file)
        return " ".join(sorted(self._raised(inner, base) for base in forms.bases if base is not None))

    # Keywords and parameters

    def _replaced(self) -> set[str]:
        """Fields that a function from outside is given by name, such as ``dataclasses.replace``."""
        names = set()
        for key, form in self.reach.forms.items():
            module = self.sources.module(key.file)
            for mark in form.marks:
                if isinstance(mark, Keyword) and mark.name and mark.callee is not None:
                    if isinstance(mark.callee, Chain):
                        target, rest = self.sources.resolve(module, mark.callee)
                        called = rest[-1] if rest else target.name if isinstance(target, Outside) else ""
                    else:
                        called = mark.callee.name
                    if called.endswith("replace"):
                        names.add(mark.name)
        return names

    def _look_at_calls(self) -> None:
        """Which parameters may be passed by a name that only a run knows to be theirs."""
        self._by_name: set[str] = set()
        self._by_name_outside: set[str] = set()
        self._by_any_name: set[Key] = set()
        self._open = False
        self._values: set[Key] = set()
        for key, form in self.reach.forms.items():
            module = self.sources.module(key.file)
            for mark in form.marks:
                if isinstance(mark, Keyword) and mark.name is None:
                    callees, _ = self._callees(module, mark)
                    self._open = self._open or callees is None
                    self._by_any_name.update(callees or ())
                elif isinstance(mark, Keyword):
                    place, any_of_its_name = self._place_of(module, mark)
                    if any_of_its_name:
                        self._by_name.add(mark.name or "")
                    elif place is None:
                        self._by_name_outside.add(mark.name or "")
                elif isinstance(mark, Chain) and not mark.called:
                    target, rest = self.sources.resolve(module, mark)
                    if isinstance(target, Key) and not rest:
                        self._values.add(target)

    def _keeps_name(self, key: Key, parameter: Parameter) -> bool:
        if parameter.name in self._by_name or (key in self.reach.roots and parameter.owned and parameter.only_keyword):
            return True
        if parameter.name in self._by_name_outside and (not parameter.owned or key in self._values):
            # Someone outside, such as functools.partial, may pass it on.
            return True
        if not parameter.owned:
            return self._open
        return key in self._by_any_name or (self._open and ("." in key.name or key in self._values))

    def _keyword(self, module: Module, mark: Keyword) -> str:
        if mark.name is None:
            return "**"
        if self._is_field(module, mark):
            return f"{self._attribute(mark.name)}="
        place, _ = self._place_of(module, mark)
        return f"{mark.name if place is None else place}="

    def _place_of(self, module: Module, mark: Keyword) -> tuple[int | None, bool]:
        """The place of the parameter that a keyword names, where it is certain; whether it may be any of its name."""
        if self._is_field(module, mark):
            return None, False
        callees, certain = self._callees(module, mark)
        if callees is None:
            return None, True
        places = set()
        for key in callees:
            parameters = self.sources.module(key.file).parameters(key.name) or []
            places.add(parameters.index(mark.name) if mark.name in parameters else None)
        place = places.pop() if certain and len(places) == 1 else None
        return place, place is None and bool(callees)

    def _is_field(self, module: Module, mark: Keyword) -> bool:
        """Whether it names a field of a class that is made without an ``__init__`` of its own, as data classes are."""
        if not isinstance(mark.callee, Chain):
            return False
        target, rest = self.sources.resolve(module, mark.callee)
        if not isinstance(target, Key) or rest or self._makers(target):
            return False
        classes = (self.sources.class_of(each) for each in self.sources.ancestors(target))
        return any(forms is not None and mark.name in forms.fields for forms in classes)

    def _callees(self, module: Module, mark: Keyword) -> tuple[list[Key] | None, bool]:
        """The functions of the project that may be called (None: any), and whether it is one of them for certain."""
        callee = mark.callee
        if isinstance(callee, Chain):
            target, rest = self.sources.resolve(module, callee)
            if isinstance(target, Outside):
                return [], False
            if rest:
                callee = Attribute(rest[-1])
            elif isinstance(target, Key) and self.sources.class_of(target) is not None:
                heirs = [key for key in self.reach.classes if mark.by_class and target in self.sources.ancestors(key)]
                return [maker for key in (target, *heirs) for maker in self._makers(key)], True
            elif isinstance(target, Key) and self.sources.module(target.file).parameters(target.name) is not None:
                return [target], True
            else:
                return None, False
        if callee is None:
            return None, False
        renamed, callees = callee.name in self.renamed, self.methods.get(callee.name, [])
        return (None, False) if renamed and not callees else (callees, renamed)

    def _makers(self, key: Key) -> list[Key]:
        """The ``__init__`` of a class, its own or the nearest inherited one of the project."""
        for each in self.sources.ancestors(key):
            forms = self.sources.class_of(each)
            if forms is not None and "__init__" in forms.methods:
                return [each.method("__init__")]
        return []
