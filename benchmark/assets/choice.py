"""How a family's base and experts are chosen: a rule about a few numbers, which was fixed before any was looked at.

A trial is a family made with some settings. Every trial stays in the log, ``choice.json``, beside the chosen family.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.checkpoints.families import save_json
from benchmark.common.errors import UserError
from benchmark.common.files import replacing
from benchmark.common.paths import resolved


@dataclass(frozen=True)
class Wanted:
    """One number's public value, and how far a trial's may lie from it."""

    value: float
    tolerance: float
    what: str


@dataclass(frozen=True)
class Rule:
    """Which of several trials is chosen.

    Attributes:
        wanted: the numbers that are looked at, by name.
        tie_break: in words, what decides among trials that keep all tolerances: ``rank``, then the least distance.
        judged_on: in words, the data and files that the numbers are of.
        rank: of a trial's settings; less is better.
    """

    wanted: Mapping[str, Wanted]
    tie_break: str
    judged_on: str
    rank: Callable[[Mapping[str, Any]], tuple[Any, ...]]

    def distance(self, numbers: Mapping[str, float]) -> float:
        """Root mean square, over the numbers, of their distance from the public value in tolerances."""
        parts = [((numbers[n] - w.value) / w.tolerance) ** 2 for n, w in self.wanted.items()]
        return math.sqrt(sum(parts) / len(parts))

    def broken(self, numbers: Mapping[str, float]) -> list[str]:
        """Which of the numbers lie outside their tolerance."""
        return [
            name for name, wanted in self.wanted.items() if not abs(numbers[name] - wanted.value) <= wanted.tolerance
        ]

    def decide(self, trials: Sequence[Mapping[str, Any]]) -> str | None:
        """The chosen trial's name by rule and tie-break; ``None`` where no trial keeps the rule."""
        kept = [t for t in trials if t.get("numbers", {}).keys() >= self.wanted.keys()]
        kept = [t for t in kept if not self.broken(t["numbers"])]
        if not kept:
            return None
        best = min(kept, key=lambda t: (*self.rank(t["settings"]), self.distance(t["numbers"]), t["trial"]))
        return str(best["trial"])

    def judged(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's entry with its distance, and what of it lies outside."""
        numbers = entry["numbers"]
        return {**entry, "distance": round(self.distance(numbers), 3), "outside": self.broken(numbers)}

    def logged(self, log: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
        """The log with this trial in it, and the choice made over all."""
        trials = [t for t in log.get("trials", []) if t["trial"] != entry["trial"]] + [dict(entry)]
        return {
            "rule": {name: vars(wanted) for name, wanted in self.wanted.items()},
            "tie_break": self.tie_break,
            "judged_on": self.judged_on,
            "chosen": self.decide(trials),
            "trials": trials,
        }


def added(base: Mapping[str, Tensor], vector: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """``base + scale * vector``."""
    return {k: base[k] + scale * vector[k] for k in base}


def norm(state: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all tensors together."""
    return math.sqrt(sum(float(v.double().square().sum()) for v in state.values()))


def chosen_trial(log: Mapping[str, Any], manifest: Callable[[str], Mapping[str, Any]], again: str) -> dict[str, Any]:
    """The chosen trial's entry, once the family that is to be adopted is known to be it.

    Args:
        manifest: that of the family of a trial's name.
        again: the command that makes trials.

    Raises:
        UserError: no trial keeps the rule, or the family was made with other settings.
    """
    name = log.get("chosen")
    if not name:
        raise UserError("no trial keeps the rule, so there is nothing to adopt", "Run another trial, or add one")
    trial: dict[str, Any] = next(t for t in log["trials"] if t["trial"] == name)
    if manifest(name)["settings"] != trial["settings"]:
        raise UserError(
            f"the family of {name!r} was made with other settings than the trial {name!r} in the log",
            f"Type: {again.format(name)}",
        )
    return trial


def copy_files(names: Iterable[str], folder: Path, out: Path) -> None:
    """Copy these files of a family, in this order."""
    for file in names:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        with replacing(out / file) as temporary:
            shutil.copyfile(folder / file, temporary)


def parser(program: str, description: str | None, trials: Iterable[str], log: Path) -> argparse.ArgumentParser:
    """The command line of a choice."""
    p = argparse.ArgumentParser(prog=program, description=(description or "").splitlines()[0])
    p.add_argument("trials", nargs="*", metavar="TRIAL", help=", ".join(trials))
    p.add_argument("--out", type=resolved, required=True, metavar="DIR", help="a folder for the trials' files")
    p.add_argument("--log", type=resolved, default=log, help="default: beside the committed family")
    p.add_argument("--adopt", action="store_true", help="put the chosen trial's files where the suites read them")
    return p


def check_trials(p: argparse.ArgumentParser, names: Sequence[str], known: Iterable[str]) -> None:
    """Leave with the parser's error for a trial that is not ``known``."""
    if missing := [name for name in names if name not in known]:
        p.error(f"unknown trial {missing[0]!r}; known: {', '.join(known)}")


def run(
    names: Sequence[str],
    log: Path,
    rule: Rule,
    trial: Callable[[str], Mapping[str, Any]],
    adopt: Callable[[Mapping[str, Any]], str] | None,
) -> int:
    """Run trials, print their numbers, keep them in the log, and adopt the chosen one where that is asked for."""

    def read() -> dict[str, Any]:
        return json.loads(log.read_text(encoding="utf-8")) if log.exists() else {}

    for name in names:
        entry = trial(name)
        save_json(log, rule.logged(read(), entry))
        print(json.dumps({k: entry[k] for k in ("trial", "numbers", "outside", "distance")}))
    print(f"chosen: {read().get('chosen')}")
    if adopt:
        print(f"adopted: {adopt(read())}")
    return 0


def five_numbers(
    scores: Mapping[str, Mapping[str, float]],
    norms: Mapping[str, float],
    average: Callable[[Mapping[str, float]], Mapping[str, float]],
) -> dict[str, Any]:
    """What a trial is judged by, with the scores behind it: by row and task, and each task vector's relative norm.

    ``average`` says what is looked at of the weight average, from each row's mean over the tasks.
    """
    means = {row: sum(values.values()) / len(values) for row, values in scores.items()}
    numbers = {
        "pretrained": means["pretrained"],
        "individual": means["individual"],
        **average(means),
        "gain": means["arithmetic"] - means["average"],
        "relative_norm": sum(norms.values()) / len(norms),
    }
    return {
        "numbers": {name: round(value, 3) for name, value in numbers.items()},
        "validation": dict(scores),
        "relative_norms": {task: round(value, 3) for task, value in norms.items()},
    }
