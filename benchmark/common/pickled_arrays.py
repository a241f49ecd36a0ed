"""Reading foreign pickles of numbers: numpy arrays are rebuilt, everything else is refused."""

from __future__ import annotations

import codecs
import io
import pickle
from typing import Any

import numpy as np

from benchmark.common.untrusted import Global, RestrictedUnpickler

_RECONSTRUCT = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
_ALLOWED: dict[Global, Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): codecs.encode,
}


def load_array(blob: bytes) -> np.ndarray:
    """The numpy array (of numbers) in a pickle. Raises `pickle.UnpicklingError` for anything else."""
    value = RestrictedUnpickler(io.BytesIO(blob), _ALLOWED, "numpy arrays").load()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise pickle.UnpicklingError(f"the pickle holds a {type(value).__name__}, not an array of numbers")
    return value


def load_table(blob: bytes) -> dict[str, Any]:
    """The dictionary of arrays, lists, numbers and texts in a pickle, also in one that Python 2 wrote.

    Its texts are bytes there and stay so, except for the keys. Raises `pickle.UnpicklingError` for anything else.
    """
    unpickler = RestrictedUnpickler(io.BytesIO(blob), _ALLOWED, "numpy arrays")
    unpickler.encoding = "bytes"
    value = unpickler.load()
    if not isinstance(value, dict):
        raise pickle.UnpicklingError(f"the pickle holds a {type(value).__name__}, not a dictionary")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): item for key, item in value.items()}


def load_list(blob: bytes) -> list[Any]:
    """The list of dictionaries, numbers, texts and bytes in a pickle. Raises `pickle.UnpicklingError` for another."""
    value = RestrictedUnpickler(io.BytesIO(blob), _ALLOWED, "numpy arrays").load()
    if not isinstance(value, list):
        raise pickle.UnpicklingError(f"the pickle holds a {type(value).__name__}, not a list")
    return value
