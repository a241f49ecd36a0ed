"""A merge of some experts, taken over to all tasks of a suite."""

from __future__ import annotations

from pathlib import Path

from methods.api import Experts, Merged, NotApplicable

FILE = Path(__file__)


def over_all(merged: Merged, experts: Experts) -> Merged:
    """The one encoder of ``merged`` for all tasks of ``experts``; tasks that it has not seen keep their own heads.

    Raises:
        NotApplicable: its tasks have encoders of their own, so there is none for a new task.
    """
    if merged.differs or merged.wrap is not None:
        raise NotApplicable("this merge has an encoder or modules for each task, and none for a task it has not seen")
    return Merged(experts, merged.shared, heads=merged.heads, statistics=merged.statistics)
