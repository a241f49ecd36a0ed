"""Reading foreign pickles without running them: what is not on a reader's own list is refused."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import IO, Any

Global = tuple[str, str]


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows only the globals of ``allowed``, ``{(module, name): object}``.

    Nothing is imported by the pickle's names. Persistent ids are refused unless a subclass reads them.
    """

    def __init__(self, file: IO[bytes], allowed: Mapping[Global, Any], only: str) -> None:
        super().__init__(file)
        self.allowed, self.only = allowed, only

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object of this name. Raises ``pickle.UnpicklingError`` for any other."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: only {self.only} may stand in this pickle")
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Raises ``pickle.UnpicklingError``."""
        raise pickle.UnpicklingError(f"refused a persistent id: only {self.only} may stand in this pickle")
