"""Names of tensors that are another's, perhaps all with or without a leading part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.peft import Adapter


def matching(
    base: Iterable[str],
    base_shapes: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    flatten: bool = False,
) -> tuple[dict[str, str], str]:
    """``{name: name of the base}`` for names that are the base's, perhaps all with or without a leading part.

    The leading part is the one under which the most tensors have the base's shapes. ``flatten``: only tensors of equal
    shape are matched, and a weight's trailing dimensions count as one. Raises :class:`FamilyError` where two fit alike.
    """
    known = set(base)
    added: Counter[str] = Counter()
    removed: Counter[str] = Counter()

    def vote(counts: Counter[str], long: str, other: Mapping[str, Any], shape: Any) -> None:
        parts = long.split(".")
        for i in range(len(parts)):
            if other.get(".".join(parts[i:])) == shape:
                counts[".".join(parts[:i])] += 1

    for name, shape in shapes.items():
        vote(added, name, base_shapes, shape)
    for name in known:
        vote(removed, name, shapes, base_shapes[name])
    ranked = [(n, part, True) for part, n in added.items()] + [(n, p, False) for p, n in removed.items() if p]
    if not ranked:
        return {}, ""
    most = max(n for n, _, _ in ranked)
    best = [(part, longer) for n, part, longer in ranked if n == most]
    if len(best) > 1 and ("", True) not in best:
        raise FamilyError(
            f"its names fit the base's in {len(best)} ways, under {' and under '.join(repr(p) for p, _ in best[:2])}; "
            "save it with the whole names"
        )
    part, longer = ("", True) if ("", True) in best else best[0]
    ahead = f"{part}." if part else ""
    found = {}
    for name, shape in shapes.items():
        new = name.removeprefix(ahead) if longer else ahead + name
        if (longer and not name.startswith(ahead)) or new not in known or (flatten and base_shapes[new] != shape):
            continue
        found[name] = new
    words = "" if not part else f"its names are the base's {'behind' if longer else 'without'} {ahead!r}"
    return found, words


def of_adapter(
    adapter: Adapter,
    base: Mapping[str, tuple[int, ...]],
    library_names: Callable[[], Mapping[str, str]] | None = None,
) -> dict[str, str]:
    """``{name in the adapter: name of the base}`` of its factors and whole tensors, of those that fit one.

    Args:
        base: ``{name: shape}``.
        library_names: gives ``{the library's own name of a tensor: the base's}``, for an adapter that does not have the
            base's names: a library may call its modules otherwise than its files. Asked where it is needed.
    """
    shapes: dict[str, tuple[int, ...]] = {n: (len(b), a.shape[1]) for n, (a, b, _) in adapter.factors.items()}
    shapes |= {name: tuple(value.shape) for name, value in adapter.whole.items()}
    flat = {n: (s[0], torch.Size(s[1:]).numel()) if len(s) > 1 else s for n, s in base.items()}
    names, _ = matching(flat, flat, shapes, flatten=True)
    if library_names is not None and any(name not in names for name in adapter.factors):
        known = {name: there for name, there in library_names().items() if there in flat}
        library = {name: flat[there] for name, there in known.items()}
        ours, _ = matching(library, library, shapes, flatten=True)
        names = {name: known[there] for name, there in ours.items()} | names
    return names
