"""Reading foreign pickles: numpy arrays are rebuilt, everything else is refused."""

from __future__ import annotations

import io
import pickle

import numpy as np

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: only numpy arrays may stand in this pickle")
        if name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        return super().find_class(module, name)

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("refused a persistent id: only numpy arrays may stand in this pickle")


def load_array(blob: bytes) -> np.ndarray:
    """The numpy array (of numbers) in a pickle. Raises `pickle.UnpicklingError` for anything else."""
    value = _ArrayUnpickler(io.BytesIO(blob)).load()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise pickle.UnpicklingError(f"the pickle holds a {type(value).__name__}, not an array of numbers")
    return value
