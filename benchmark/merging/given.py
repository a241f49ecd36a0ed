"""What a user gives of data. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from methods.core.access import Access


def reads_texts(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration is that of a text encoder or a language model."""
    return "vocab_size" in config and "vision_config" not in config


@dataclass(frozen=True)
class Given:
    """What the user gave: ``{task: folder}`` of images without and with labels, or ``{task: (file, column)}`` of texts,
    and what says how they are seen.

    ``encoder`` and ``features`` are those of a suite's YAML; ``head`` is what stands before ``.weight`` of classifiers.
    """

    images: Mapping[str, Path] = field(default_factory=dict)
    labelled: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    encoder: str | None = None
    features: str | None = None
    head: str | None = None

    def __bool__(self) -> bool:
        return bool(self.images or self.labelled or self.texts)

    def lacking(self, access: Access, tasks: Sequence[str], *, texts: bool = False) -> str:
        """Which tasks lack the data of an access, in words; empty where none does. ``texts``: the base reads texts."""
        any_data = {**self.images, **self.labelled, **self.texts}
        for level, have in (("labelled", self.labelled), ("unlabelled", any_data)):
            wanted = any(given == level for _, given in access.items())
            if wanted and (missing := [task for task in tasks if task not in have]):
                option, what = ("--labelled", "FOLDER") if level == "labelled" else ("--images", "FOLDER")
                if self.texts or texts:
                    option, what = "--texts", "FILE:COLUMN"
                return f"needs {access.describe()} data: {option} {' '.join(f'{task}={what}' for task in missing)}"
        return ""
