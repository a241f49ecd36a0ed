"""Model-merging methods. ``get(name)`` and ``names()``; importing this imports no torch."""

from methods.core.registry import (
    LABELLED,
    UNLABELLED,
    Access,
    MergingError,
    Method,
    NotApplicable,
    UnknownName,
    broken,
    describe,
    get,
    names,
)

__all__ = [
    "LABELLED",
    "UNLABELLED",
    "Access",
    "Method",
    "MergingError",
    "NotApplicable",
    "UnknownName",
    "broken",
    "describe",
    "get",
    "names",
]
