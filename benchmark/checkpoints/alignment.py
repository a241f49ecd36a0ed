"""Experts under the names of their base: which tensors are merged, which are a task's own, which stay the base's.

The experts of one base are seldom saved as it was: a classifier stands on top, the name of the model before all names,
a tied embedding twice or once, an adapter instead of weights. What follows from the files is settled here and said in
words; what does not is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import Weights, read_json, weights
from benchmark.checkpoints.fitting import WORDS, check_kind, check_shapes, check_vocabulary
from benchmark.checkpoints.matching import matching, of_adapter
from benchmark.checkpoints.models import LazyState, Model, open_model
from benchmark.checkpoints.peft import Adapter, read_adapter
from benchmark.common.errors import some
from methods.api import Experts
from methods.core.states import LowRankState

_STATISTIC = re.compile(r"(^|\.)running_(mean|var)$")


@dataclass
class Expert:
    """One expert: ``weights`` under the base's names, ``own`` what it has beside them, under its own names.

    ``unlike`` are tensors of the base that it has with another number of rows, and ``names`` its own names of the
    base's tensors.
    """

    name: str
    path: Path
    files: Weights
    weights: Mapping[str, Tensor]
    own: dict[str, Tensor] = field(default_factory=dict)
    factors: Adapters | None = None
    config: dict[str, Any] = field(default_factory=dict)
    unlike: frozenset[str] = frozenset()
    names: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of its file, or of the hashes of its files; an unchanged file is read once."""
        return self.files.sha256()


@dataclass
class Aligned:
    """A base and its experts.

    Attributes:
        names: tensors that are merged, in the base's order.
        statistics: running statistics of normalisations, which are averaged.
        notes: what was settled, in words.
    """

    base: Model
    experts: dict[str, Expert]
    names: list[str]
    statistics: list[str]
    notes: list[str]

    def open(self, tasks: Sequence[str] | None = None, **keywords: Any) -> Experts:
        """The experts (of ``tasks``) as methods take them, over the merged tensors alone; ``keywords`` are those of
        :class:`Experts`."""
        base = self.base.state.named({name: name for name in self.names})
        chosen = [self.experts[task] for task in (tasks or self.experts)]
        if all(expert.factors is not None and not _patched(expert) for expert in chosen):
            factors = {expert.name: expert.factors or {} for expert in chosen}
            return Experts.from_lora(base, factors, **keywords)
        return Experts.from_state_dicts(base, {e.name: Restricted(e.weights, base) for e in chosen}, **keywords)

    def hash_files(self) -> None:
        """Read the files of base and experts once for their hashes, which are then at hand."""
        for files in (self.base.weights, *(expert.files for expert in self.experts.values())):
            files.sha256()


class Restricted(LowRankState):
    """The tensors of ``names`` alone of a state dict; of a low-rank one, its base tells shapes without multiplying."""

    def __init__(self, state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
        super().__init__(base, {})
        self.state = state

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.base:
            raise KeyError(name)
        return self.state[name]


class Patched(LowRankState):
    """An adapter's expert that has trained other tensors of the base whole as well (biases, norms, modules to save)."""

    def __init__(self, base: Mapping[str, Tensor], factors: Adapters, whole: Mapping[str, Tensor]) -> None:
        super().__init__(base, factors)
        self.whole = dict(whole)

    def __getitem__(self, name: str) -> Tensor:
        return self.whole[name] if name in self.whole else super().__getitem__(name)


def _patched(expert: Expert) -> bool:
    return isinstance(expert.weights, Patched) and bool(expert.weights.whole)


def align(
    base: Model,
    paths: Mapping[str, Path],
    heads: Sequence[str] = (),
    library_names: Callable[[], Mapping[str, str]] | None = None,
) -> Aligned:
    """Open experts and settle their names.

    Args:
        paths: ``{task: file or folder}`` of whole models or of PEFT adapters.
        heads: beginnings of names that are each task's own although base and experts have them alike.
        library_names: gives ``{the library's own name of a tensor: the base's}``, for an adapter that does not have the
            base's names: a library may call its modules otherwise than its files.

    Raises:
        FamilyError: files that cannot be read; experts of another architecture, size or vocabulary; an adapter that
            matches nothing; an expert equal to the base; a tied tensor that is untied.
    """
    notes: list[str] = []
    opened = {task: _open(base, task, path, notes, library_names) for task, path in paths.items()}
    unlike = set[str]().union(*(expert.unlike for expert in opened.values()))
    floating = [n for n in base.state if n in base.state.floating and n not in unlike]
    lacking = {task: [n for n in floating if n not in expert.weights] for task, expert in opened.items()}
    left = set(floating).intersection(*(set(names) for names in lacking.values()))
    for task, names in lacking.items():
        if alone := [n for n in names if n not in left]:
            raise FamilyError(
                f"expert {task!r} ({paths[task]}) lacks {len(alone)} tensors that the base and other experts have: "
                f"{', '.join(alone[:3])}. Save it whole, or leave it out"
            )
    if left:
        kept = some([n for n in floating if n in left])
        notes.append(f"{len(left)} tensors of the base are in no expert and stay as they are: {kept}")
    for task, expert in opened.items():
        if unlike and not any(name in expert.unlike or name in expert.weights for name in unlike):
            other = next(each.name for each in opened.values() if each.unlike)
            notes.append(
                f"{task}: it has no {some(sorted(unlike))}, which the base and {other} have; is it the base, and "
                f"{base.path.name} a fine-tuned one?"
            )
    own = set(_own_heads(base, opened, heads, [n for n in floating if n not in left], notes))
    for expert in opened.values():
        alike = [n for n in base.state if n in expert.weights and (n in own or n in unlike - expert.unlike)]
        expert.own.update({expert.names.get(n, n): expert.weights[n] for n in alike})
        if expert.own:
            count, listed = len(expert.own), some(list(expert.own))
            notes.append(f"{expert.name}: {count} tensors of its own, kept as its head: {listed}")
    merged = [n for n in floating if n not in left and n not in own]
    statistics = [n for n in merged if _STATISTIC.search(n)]
    if statistics:
        notes.append(
            f"{len(statistics)} running statistics of normalisations are no weights and are averaged: "
            f"{some(statistics)}. Estimate them again on data of all tasks once the model is merged"
        )
    names = [n for n in merged if n not in set(statistics)]
    _check_ties(base, opened, merged, notes)
    _check_moved(base, opened, merged)
    return Aligned(base, opened, names, statistics, notes)


def _open(
    base: Model, task: str, path: Path, notes: list[str], library_names: Callable[[], Mapping[str, str]] | None
) -> Expert:
    try:
        files = weights(path)
    except FamilyError as error:
        raise type(error)(f"expert {task!r}: {error}") from None
    if files.adapter:
        return _adapter(base, task, path, notes, library_names)
    model = open_model(path)
    state = model.state
    check_kind(base, model, task)
    check_vocabulary(base, model, task)
    names, leading = _under_names_of(base.state, state, task, path)
    matched = {new: old for old, new in names.items()}
    rest = [n for n in state if n not in names and n in state.floating]
    if leading:
        notes.append(f"{task}: {leading}")
    # A tied tensor that one of the two files holds twice and the other once.
    for name, twin in {n: _copy_of(n, state, matched.values()) for n in rest}.items():
        if twin is not None:
            rest.remove(name)
            notes.append(f"{task}: {name} is {twin} once more and is left out")
    for name in (n for n in base.state.floating if n not in matched):
        twin = _copy_of(name, base.state, matched)
        if twin is not None:
            matched[name] = matched[twin]
            notes.append(f"{task}: {name}, which it lacks, is {twin} as in the base")
    check_shapes(base, model, matched, task)
    floating = {new: old for new, old in matched.items() if new in base.state.floating}
    unlike = frozenset(new for new, old in floating.items() if state.shapes[old] != base.state.shapes[new])
    heads = {old: state[old] for old in (*rest, *(matched[new] for new in unlike))}
    chosen = {new: old for new, old in floating.items() if new not in unlike}
    return Expert(task, path, model.weights, state.named(chosen), heads, None, model.config, unlike, matched)


def _adapter(
    base: Model, task: str, path: Path, notes: list[str], library_names: Callable[[], Mapping[str, str]] | None
) -> Expert:
    """An adapter over the base. Raises :class:`FamilyError` where it matches nothing of it."""
    files = weights(path)
    adapter: Adapter = read_adapter(files, None, biases=True)
    names = of_adapter(adapter, base.state.shapes, library_names)
    unmatched = [name for name in adapter.factors if name not in names]
    if unmatched:
        a, b, _ = adapter.factors[unmatched[0]]
        shape = [len(b), a.shape[1]]
        raise FamilyError(
            f"{path}: the adapter changes {unmatched[0]} {shape}{_more(len(unmatched))}; the base {base.path} has no "
            f"such matrix of this shape, but e.g. {_nearest(unmatched[0], base.state)}. Is it of another base?"
        )
    factors = {names[n]: value for n, value in adapter.factors.items()}
    # Modules that were trained whole are heads, but for embeddings, which tasks share.
    heads = {n for n in adapter.whole if set(n.split(".")) & set(adapter.saved) and not WORDS.search(n)}
    own = {n: adapter.whole[n] for n in adapter.whole if n not in names or n in heads}
    whole = {names[n]: adapter.whole[n] for n in adapter.whole if n not in own}
    unlike = frozenset(names[n] for n in own if n in names)
    if not any(bool(b.any()) and bool(a.any()) and scale for a, b, scale in factors.values()) and not whole:
        raise FamilyError(f"{path}: the adapter of {task!r} changes nothing (B is 0), so it equals the base")
    if adapter.base and adapter.base.rstrip("/").rpartition("/")[2].lower() != base.path.name.lower():
        notes.append(f"{task}: the adapter says that its base is {adapter.base}; used on {base.path.name}")
    notes.append(f"{task}: a LoRA adapter of {len(factors)} weights")
    config = path / "config.json"
    return Expert(
        task, path, files, Patched(base.state, factors, whole), own, factors,
        read_json(config) if config.is_file() else {}, unlike,
    )  # fmt: skip


def _under_names_of(base: LazyState, state: LazyState, task: str, path: Path) -> tuple[dict[str, str], str]:
    """``{expert's name: base's name}`` and how they differ. Raises :class:`FamilyError` where nothing matches."""
    names, leading = matching(base, base.shapes, state.shapes)
    if not any(name in base.floating and len(base.shapes[name]) > 1 for name in names.values()):
        ours = next((n for n in base if len(base.shapes[n]) > 1), "no matrix")
        theirs = next((n for n in state if len(state.shapes[n]) > 1), "no matrix")
        raise FamilyError(
            f"expert {task!r} ({path}) has no weight of the base's names and shapes: the base has {ours} "
            f"{list(base.shapes.get(ours, ()))}, ..., the expert {theirs} {list(state.shapes.get(theirs, ()))}, ... "
            "Expected fine-tunings of one base, saved by one library"
        )
    return names, leading


def _copy_of(name: str, state: LazyState, among: Iterable[str]) -> str | None:
    """The tensor among others that this one is a copy of, as tied embeddings are; only matrices are looked at."""
    shape = state.shapes[name]
    if len(shape) != 2 or not WORDS.search(name):
        return None
    for other in among:
        if other != name and state.shapes.get(other) == shape and WORDS.search(other):
            if torch.equal(state[name], state[other]):
                return other
    return None


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _own_heads(
    base: Model, experts: Mapping[str, Expert], heads: Sequence[str], names: Sequence[str], notes: list[str]
) -> list[str]:
    """Tensors that are each task's own though all have them alike: named in ``heads``, of another shape in some
    expert, or of a classifier whose configurations name other classes."""
    for beginning in heads:
        if not any(n == beginning or n.startswith(f"{beginning}.") for n in names) and not any(
            n == beginning or n.startswith(f"{beginning}.") for e in experts.values() for n in e.own
        ):
            raise FamilyError(f"no tensor begins with the head {beginning!r}; there are {some(names)}")
    own = {n for n in names for h in heads if n == h or n.startswith(f"{h}.")}
    classes = {tuple(sorted(map(str, labels.values()))) for labels in map(_labels, experts.values()) if labels}
    if len(classes) > 1:
        found = [n for n in names if re.match(r"(classifier|score|head|fc)(\.|$)", n)]
        own.update(found)
        if found:
            notes.append(f"{some(found)}: each task's own, since the experts' configurations name other classes")
    return [n for n in names if n in own]


def _labels(expert: Expert) -> dict[str, Any]:
    labels = expert.config.get("id2label")
    return labels if isinstance(labels, dict) else {}


def _check_ties(base: Model, experts: Mapping[str, Expert], names: Sequence[str], notes: list[str]) -> None:
    """Raises :class:`FamilyError` where tensors that are one in the base are two in an expert."""
    groups = [tuple(n for n in group if n in names) for group in base.shared]
    if base.tied:
        words = [n for n in names if WORDS.search(n) and len(base.state.shapes[n]) == 2]
        groups += [
            (first, second) for i, first in enumerate(words) for second in words[i + 1 :]
            if base.state.shapes[first] == base.state.shapes[second]
            and torch.equal(base.state[first], base.state[second])
        ]  # fmt: skip
    for group in groups:
        for first, second in zip(group, group[1:], strict=False):
            for task, expert in experts.items():
                if not torch.equal(expert.weights[first], expert.weights[second]):
                    raise FamilyError(
                        f"expert {task!r}: {first} and {second} are one tensor in the base and differ here. A merge "
                        "that keeps them tied would lose one: untie the base, or tie the expert"
                    )
        if len(group) > 1:
            notes.append(f"{' and '.join(group)} are one tensor and stay so")


def _check_moved(base: Model, experts: Mapping[str, Expert], names: Sequence[str]) -> None:
    """Raises :class:`FamilyError` for an expert that equals the base in all that is merged."""
    for task, expert in experts.items():
        if expert.factors is None and all(torch.equal(expert.weights[n], base.state[n]) for n in names):
            raise FamilyError(
                f"expert {task!r} ({expert.path}) equals the base in all {len(names)} tensors that are merged: is it "
                "the base itself? Leave it out, or give the fine-tuned one"
            )


def _nearest(name: str, state: Mapping[str, Any]) -> str:
    end = name.rpartition(".")[0].rpartition(".")[2]
    return next((n for n in state if n.endswith(f"{end}.weight")), next(iter(state)))
