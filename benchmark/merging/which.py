"""Which methods can merge some experts, and why each of the others cannot."""

from __future__ import annotations

import methods
from benchmark.checkpoints.alignment import Aligned
from benchmark.common.tables import padded


def reason(name: str, aligned: Aligned) -> str:
    """Why a method cannot merge these experts with what is given, in one line; empty where it can."""
    about = methods.describe(name)
    if about.access_for({}):
        return f"needs data: {about.access_for({}).describe()}"
    experts = aligned.open()
    for need in about.needs:
        if why := experts.lacks(need):
            return why
    return ""


def table(aligned: Aligned) -> list[str]:
    """One line a method: those that can first."""
    rows = []
    for name in methods.names():
        about = methods.describe(name)
        why = reason(name, aligned)
        rows.append((bool(why), [name, "no" if why else "yes", why or about.summary]))
    return padded(["method", "can", "why not, or what it does"], [row for _, row in sorted(rows)], "<<<")
