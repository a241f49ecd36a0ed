"""Public checkpoints made into families of safetensors: read without running them, checked, hashed.

``families.yaml`` says what each family is. Importing this imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmark.common.errors import UserError, unknown

OWN_TEXT, FROM_BASE = "from-own-text", "from-base"
#: What --head may be, for an expert whose text side is not the base's: its head from that, or as if it were the base's.
HEADS = (OWN_TEXT, FROM_BASE)
REGISTRY = Path(__file__).with_name("families.yaml")


class Definition(BaseModel):
    """One checkpoint family as ``families.yaml`` has it; ``{task}``, ``{backbone}`` and ``{hub}`` are filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="its name on the command line and on boards")
    title: str = Field(description="who trained the experts")
    layout: Literal["openclip", "huggingface", "local"] = Field(description="how its files are stored")
    quick_gelu: bool | None = Field(description="the activation it was trained with; None: the files' owner says")
    backbones: list[str] = Field(description="backbones there are experts for")
    tasks: list[str] | None = Field(default=None, description="tasks there are experts for; None: all twenty, or yours")
    folders: list[str] = Field(default_factory=list, description="where under PATH a backbone's files may lie")
    base: list[str] = Field(description="possible names of the base")
    expert: str = Field(description="name of an expert")
    head: str | None = Field(default=None, description="name of a head; None: heads are made from prompts")
    names: dict[str, str] = Field(default_factory=dict, description="the family's own names of tasks")
    where: str = Field(description="where the files come from, for people")
    hub: list[str] = Field(default_factory=list, description="repositories on the hub that hold them")
    other_hubs: list[str] = Field(default_factory=list, description="repositories that --repo may name instead")
    hub_names: dict[str, str] = Field(default_factory=dict, description="the backbones' names on the hub")
    patterns: list[str] = Field(default_factory=list, description="which files of a repository are fetched")
    revisions: dict[str, str] = Field(default_factory=dict, description="pinned commits by repository")

    def fill(self, text: str, backbone: str, task: str = "") -> str:
        """``text`` with its names filled in."""
        named = self.names.get(task, task)
        return text.format(backbone=backbone, task=named, hub=self.hub_names.get(backbone, backbone))

    def known_tasks(self) -> list[str]:
        """The tasks this family has experts for, as far as is known: in the order of ``vision-20``."""
        from benchmark import suites

        return self.tasks or suites.load("vision-20").tasks


@functools.cache
def definitions() -> dict[str, Definition]:
    """All families by name."""
    entries = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))
    return {name: Definition.model_validate({"name": name, **entry}) for name, entry in entries.items()}


def get(name: str) -> Definition:
    """The family of this name. Raises :class:`UserError` with the nearest names."""
    if name not in definitions():
        raise unknown("family", name, definitions())
    return definitions()[name]


def check_choice(family: Definition, backbone: str, tasks: Sequence[str]) -> None:
    """Raises :class:`UserError` for a backbone or a task that the family has no experts for."""
    if backbone not in family.backbones:
        raise unknown(f"backbone of the family {family.name}", backbone, family.backbones)
    available = family.tasks or tasks
    if absent := [task for task in tasks if task not in available]:
        raise UserError(
            f"the family {family.name} has no experts for {', '.join(absent)}; it has {', '.join(available)}",
            "Choose --tasks, or another family.",
        )
