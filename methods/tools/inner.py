"""Methods that work on top of another: run the one named by the keyword ``inner``."""

from __future__ import annotations

from typing import Any

from methods.core.experts import Experts
from methods.core.merged import Merged
from methods.core.registry import MergingError, merge_with
from methods.core.states import Edit
from methods.core.stream import Stream


def run(inner: str, experts: Experts, stream: Stream | None = None, *, outer: str, **keywords: Any) -> Merged:
    """Merge with the method ``inner``, giving it those of ``keywords`` that it has.

    Raises :class:`MergingError` when ``inner`` is ``outer`` itself, ``UnknownName`` when there is no such method.
    """
    if inner == outer:
        raise MergingError(f"{outer} cannot be its own inner method; expected another, such as inner='task_arithmetic'")
    merged: Merged = merge_with(inner, experts, stream, keywords)
    return merged


def run_edited(
    inner: str, experts: Experts, edit: Edit, stream: Stream | None = None, *, outer: str, **keywords: Any
) -> Merged:
    """:func:`run` on ``experts.edited(edit)``; what comes out belongs to ``experts``."""
    if inner == "individual":
        raise MergingError(
            f"inner='individual' reads the experts as they are, and {outer} changes their task vectors; "
            "expected a method that merges, such as inner='task_arithmetic'"
        )
    merged = run(inner, experts.edited(edit), stream, outer=outer, **keywords)
    merged.experts = experts
    return merged


def shared_state(merged: Merged, outer: str, inner: str) -> Merged:
    """``merged`` if all tasks share its encoder; else an error that says why ``outer`` cannot use it."""
    if merged.rule is not None or merged.layers:
        raise MergingError(
            f"{outer} rescales one merged encoder, and inner={inner!r} gives one per task; "
            "expected a method that gives one for all, such as inner='task_arithmetic' or inner='ties'"
        )
    return merged
