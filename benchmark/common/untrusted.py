"""Reading foreign pickles without running them: what is not on a reader's own list is refused."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import IO, Any

Global = tuple[str, str]


class Refused(pickle.UnpicklingError):
    """A pickle names something that is not on the reader's list: ``module`` and ``name``."""

    def __init__(self, module: str, name: str, only: str) -> None:
        super().__init__(f"refused to load {module}.{name}: only {only} may stand in this pickle")
        self.module, self.name = module, name


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows only the globals of ``allowed``, ``{(module, name): object}``.

    Nothing is imported by the pickle's names. Persistent ids are refused unless a subclass reads them.
    """

    def __init__(self, file: IO[bytes], allowed: Mapping[Global, Any], only: str) -> None:
        super().__init__(file)
        self.allowed, self.only = allowed, only

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object of this name. Raises :class:`Refused` for any other."""
        if (module, name) not in self.allowed:
            raise Refused(module, name, self.only)
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Raises ``pickle.UnpicklingError``."""
        raise pickle.UnpicklingError(f"refused a persistent id: only {self.only} may stand in this pickle")
