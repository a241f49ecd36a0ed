"""Model-merging methods. ``get(name)`` and ``names()``; importing this imports no torch."""

from methods.core.access import LABELLED, UNLABELLED, Access
from methods.core.errors import MergingError, NotApplicable, UnknownName
from methods.core.registry import Method, broken, describe, get, names

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
