"""What a definition in its canonical form is made of: text, and marks where a name leads out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmark.records.method_version.scopes import Imported


class Chain(NamedTuple):
    """A name of the module's own, or an imported one, with the attributes behind it: `np.linalg.norm`."""

    base: str | Imported
    attributes: tuple[str, ...] = ()
    called: bool = False


class Attribute(NamedTuple):
    """A name behind a dot, of an object that only a run knows."""

    name: str


class Keyword(NamedTuple):
    """A keyword of a call, or `**` (name None); `callee` is None where only a run knows what is called.

    `by_class`: it is the class of a class method, or a subclass.
    """

    name: str | None
    callee: Chain | Attribute | None
    by_class: bool = False


class Parameter(NamedTuple):
    """A parameter, by the name under which a caller may pass it; `owned` by a definition of the module."""

    name: str
    only_keyword: bool
    owned: bool


class Raised(NamedTuple):
    """The exception that is raised; its text is left out."""

    chain: Chain


class Everything(NamedTuple):
    """All definitions of the module, reached by the text of their names."""


Mark = Chain | Attribute | Keyword | Parameter | Raised | Everything


@dataclass
class Form:
    """A definition as text and marks, in the order of its tree.

    `texts` are its string constants, `asked` those that `getattr` is given: names that a run looks up.
    """

    parts: list[str | Mark] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)

    @property
    def marks(self) -> Iterator[Mark]:
        """The marks alone."""
        return (part for part in self.parts if not isinstance(part, str))


@dataclass
class ClassForms:
    """A class: its frame (bases, decorators, fields), its methods by name, the names it gives to attributes."""

    frame: Form
    methods: dict[str, Form]
    names: set[str]
    fields: set[str]
    bases: list[Chain | None]
