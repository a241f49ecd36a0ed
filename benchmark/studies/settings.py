"""Ablations as their YAML files say: a question, settings of a suite, and variants of methods. No torch."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmark import suites
from benchmark.studies import FOLDER


class Setting(BaseModel):
    """One way to change a suite. Without any field it is the suite itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str | None = Field(default=None, description="another suite than the study's")
    tasks: int | None = Field(default=None, ge=2, description="only the suite's first tasks")
    unseen: int | None = Field(default=None, ge=1, description="the last tasks are tested but not merged")
    adapt_on: Literal["train", "val"] | None = Field(default=None, description="adaptation draws from another split")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="adaptation draws from this share of images")
    corruption: str | None = Field(default=None, description="test images, also those adapted on, are corrupted")
    severity: int = Field(default=3, ge=1, le=5, description="of the corruption")
    block: int | None = Field(default=None, ge=0, description="adapt=last_block means the block of this number")
    expert_steps: int | None = Field(default=None, ge=1, description="experts fine-tuned again with so many steps")
    label_noise: float | None = Field(default=None, gt=0, le=1, description="share of wrong labels in that fine-tuning")
    weak: int | None = Field(default=None, ge=1, description="how many experts that concerns; default all")

    def chosen(self, tasks: Sequence[str]) -> list[str]:
        """The tasks that are tested, of all those of the suite."""
        return list(tasks)[: self.tasks] if self.tasks else list(tasks)

    def label(self, tasks: Sequence[str]) -> str:
        """What stands behind ``<suite>+`` in the suite's name of a run; empty for the suite itself."""
        parts = []
        if self.tasks and self.tasks < len(tasks):
            parts.append(subset_label(self.chosen(tasks)))
        if self.adapt_on or self.fraction:
            parts.append(f"on-{self.adapt_on or 'test'}" + (f"-{100 * self.fraction:g}pc" if self.fraction else ""))
        if self.corruption:
            parts.append(f"{self.corruption}-{self.severity}")
        if self.block is not None:
            parts.append(f"block-{self.block}")
        if self.expert_steps or self.label_noise:
            noise = f"-noise-{100 * self.label_noise:g}pc" if self.label_noise else ""
            parts.append(f"experts-{self.expert_steps or 'full'}{noise}" + (f"-of-{self.weak}" if self.weak else ""))
        if self.unseen:
            parts.append(f"unseen-{self.unseen}")
        return "+".join(parts)

    def say(self) -> str:
        """For a table: the fields that are set."""
        said = self.model_dump(exclude_none=True, exclude_defaults=True)
        if self.corruption:
            said["severity"] = self.severity
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in said.items()) or "as the suite is"


def subset_label(tasks: Sequence[str]) -> str:
    """A short name for a set of tasks."""
    return f"{len(tasks)}-{hashlib.sha256('/'.join(tasks).encode()).hexdigest()[:6]}"


class Ablation(BaseModel):
    """One study: every variant in every setting, for every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="equals the file's name")
    question: str = Field(description="what it asks, in one sentence")
    suite: str = Field(default="vision-mini-8", description="the suite, where --suite names none")
    seeds: list[int] = Field(default=[0], description="where --seeds names none")
    settings: list[Setting] = Field(default=[Setting()])
    variants: list[str] = Field(description="as records' variants read; the first is the baseline")
    notes: str = Field(default="", description="what was left out, and why")

    def places(self, suite: str | None = None) -> list[tuple[Setting, str]]:
        """Each setting with the suite's name its records have."""
        pairs = []
        for setting in self.settings:
            loaded = suites.load(suite or setting.suite or self.suite)
            label = setting.label(loaded.tasks)
            pairs.append((setting, f"{loaded.name}+{label}" if label else loaded.name))
        return pairs


def names() -> list[str]:
    """All ablations, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@functools.lru_cache(maxsize=64)
def load(name: str) -> Ablation:
    """The ablation of this name. Raises :class:`UserError` for an unknown one or an invalid file."""
    return suites.read_named(Ablation, "ablation", FOLDER, name, names(), example="parts")
