"""The layers that a run adapted, saved beside its record, and placed on other merges.

``adapted.safetensors`` has the format of a saved merge without the shared encoder: ``head/<task>/<name>`` and
``layer/<task>/<name>``; ``extra/<name>`` for modules put around the model, where all they hold was trained.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.common.files import replace_file
from methods.api import Experts, Merged, NotApplicable

ADAPTED = "adapted.safetensors"


def layers_of(merged: Merged) -> Merged | None:
    """The adapted layers of a merge by themselves, or None where it has none.

    Modules around the model (``wrap``) count where every value they store was trained: the corrections of a feature
    adapter do, a router that carries task vectors does not.
    """
    trained = sum(value.numel() for value in merged.extra.values())
    around = merged.wrap is not None and trained > 0 and trained == merged.trace.get("trainable")
    if not (merged.heads or merged.layers or around):
        return None
    return Merged(
        merged.experts,
        heads=merged.heads,
        layers=merged.layers,
        extra=merged.extra if around else None,
        wrap=merged.wrap if around else None,
        needs_task=bool(merged.layers) or around,
        options=merged.options if around else None,
    )


def save(merged: Merged, path: Path) -> str | None:
    """Write the adapted layers of ``merged`` to ``path``; their sha256, or None where there are none."""
    layers = layers_of(merged)
    if layers is None:
        return None
    return replace_file(path, layers.save)


def load(path: Path, experts: Experts) -> Merged:
    """The layers that :func:`save` wrote, for the same experts."""
    return Merged.load(path, experts)


def place(recipient: Merged, layers: Merged) -> Merged:
    """``recipient`` with the adapted ``layers`` of another merge in place of its own.

    Raises:
        NotApplicable: both put modules around the model.
    """
    made = recipient.with_adapted({task: layers.adapted(task) for task in layers.experts.tasks})
    if layers.wrap is not None:
        if recipient.wrap is not None:
            raise NotApplicable("both merges put modules around the model; only one of them can be placed")
        made.wrap = layers.wrap
        made.extra = {**recipient.extra, **layers.extra}
        made.options = {**recipient.options, **layers.options}
        made.needs_task = True
    return made
