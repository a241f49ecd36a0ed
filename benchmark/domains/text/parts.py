"""What a run of `glue` needs of the user's files: the texts of each task, base, experts and heads."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmark.checkpoints.families import checkpoint_folder
from benchmark.common.errors import UserError, shown
from benchmark.domains.text import glue
from benchmark.domains.text.encoder import load_tokenizer
from benchmark.domains.text.extent import encoder
from benchmark.domains.text.family import BASE, checks
from benchmark.domains.vision.public import data_root as root_of
from benchmark.suites import Suite
from benchmark.suites.parts import Part

WIDTH = 768


def parts(
    suite: Suite,
    backbone: str,
    family: str,
    splits: Sequence[str],
    *,
    data_root: Path | None = None,
    checkpoints: Path | None = None,
) -> list[Part]:
    """Each task's texts with the splits that are read, then base, experts and heads."""
    folder = checkpoint_folder(family, backbone, checkpoints)
    outputs = {task: glue.TASKS[task].outputs for task in suite.tasks}
    out = f" --out {shlex.quote(shown(checkpoints))}" if checkpoints else ""
    mend = f"./run_all.sh assets checkpoints import {family} PATH --backbone {backbone}{out}"

    def check(file: str) -> None:
        checks(folder, family, suite.tasks, outputs)[file]()
        if file == BASE:
            load_tokenizer(folder)

    test: Callable[[str], Callable[[], None]] = lambda file: partial(check, file)  # noqa: E731
    try:
        tower: int | None = sum(4 * weight.numel() for weight in encoder("full").parameters())
    except UserError:
        tower = None
    return [
        *(_texts(task, splits, data_root) for task in suite.tasks),
        Part("base", "", test(BASE), mend, folder / BASE, tower, tower),
        *(
            Part("expert", task, test(file), mend, folder / file, tower, tower)
            for task in suite.tasks
            for file in (f"{task}.safetensors",)
        ),
        *(
            # A layer of the encoder's width, then one to the outputs; it comes within the expert's file.
            Part("head", task, test(file), mend, folder / file, 4 * (WIDTH + 1) * (WIDTH + outputs[task]), 0)
            for task in suite.tasks
            for file in (f"heads/{task}.safetensors",)
        ),
    ]


def _texts(task: str, splits: Sequence[str], data_root: Path | None) -> Part:
    def check() -> None:
        root = glue.folder(root_of(data_root))
        for split in splits:
            glue.load(root, task, split)

    try:
        named: Path | None = root_of(data_root)
    except UserError:
        named = data_root
    place = None
    if named is not None:
        home = named / "glue" if (named / "glue").is_dir() or not (named / glue.TASKS[task].config).is_dir() else named
        place = home / glue.TASKS[task].config
    where = shlex.quote(shown(named / "glue")) if named else "DIR/glue"
    fetch = f"huggingface-cli download {glue.HUB} --repo-type dataset --local-dir {where}"
    return Part("data", task, check, fetch, place, glue.SIZES[task], glue.SIZES[task])
