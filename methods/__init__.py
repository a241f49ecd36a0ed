"""Model-merging methods. ``get(name)`` and ``names()``; importing this imports no torch."""

from methods.registry import LABELLED, UNLABELLED, Access, Method, MergingError, NotApplicable, UnknownName
from methods.registry import describe, get, names

__all__ = ["LABELLED", "UNLABELLED", "Access", "Method", "MergingError", "NotApplicable", "UnknownName", "describe", "get", "names"]
