"""Which methods can merge some experts with what is given, and why each of the others cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import methods
from benchmark.checkpoints.alignment import Aligned
from benchmark.common.tables import padded
from benchmark.merging.given import reads_texts
from methods.api import Experts

if TYPE_CHECKING:
    from benchmark.merging.data import Sight
    from benchmark.merging.given import Given


def _options(access: str, texts: bool) -> str:
    """The options that give such data."""
    if "labelled" in access.replace("unlabelled", ""):
        return "of texts not possible here" if texts else "--labelled"
    return "--texts" if texts else "--images or --labelled"


def reason(
    name: str, experts: Experts, given: Given | None = None, sight: Sight | None = None, *, texts: bool = False
) -> str:
    """Why a method cannot merge these experts with what is given, in one line; empty where it can.

    Args:
        texts: the base reads texts, so data of it would be texts.
    """
    about = methods.describe(name)
    access = about.access_for({})
    if access:
        if given is None or not given:
            return f"needs data: {access.describe()} ({_options(access.describe(), texts)})"
        if lacking := given.lacking(access, experts.tasks):
            return lacking
        if sight is not None and (without := [task for task in experts.tasks if task not in sight.heads]):
            return f"runs heads, and {without[0]} has none" if about.footprint.teacher else ""
    for need in about.needs:
        if why := experts.lacks(need):
            return why
    return ""


def table(aligned: Aligned, given: Given | None = None, sight: Sight | None = None) -> list[str]:
    """One line a method: those that can first."""
    rows, experts = [], aligned.open()
    texts = reads_texts(aligned.base.config)
    for name in methods.names():
        about = methods.describe(name)
        why = reason(name, experts, given, sight, texts=texts)
        rows.append((bool(why), [name, "no" if why else "yes", why or about.summary]))
    return padded(["method", "can", "why not, or what it does"], [row for _, row in sorted(rows)], "<<<")
