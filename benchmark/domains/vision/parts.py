"""What a run of a full vision suite needs of the user's files: images of each task, base, experts and heads."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmark.checkpoints.families import FamilyError, checkpoint_folder, told
from benchmark.common.errors import UserError, shown
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import create_encoder, get_backbone
from benchmark.domains.vision.family import checks
from benchmark.suites import Suite
from benchmark.suites.parts import Part


def parts(
    suite: Suite,
    backbone: str,
    family: str,
    splits: Sequence[str],
    *,
    data_root: Path | None = None,
    checkpoints: Path | None = None,
) -> list[Part]:
    """Each data set with the splits that are read, then base, experts and heads."""
    return [
        *(_images(task, family, splits, data_root) for task in suite.tasks),
        *_weights(suite, backbone, family, checkpoints),
    ]


def _images(task: str, family: str, splits: Sequence[str], data_root: Path | None) -> Part:
    about = full.info(task, family)

    def check() -> None:
        for split in splits:
            full.usable(task, split, root=data_root, family=family)

    try:
        place: Path | None = full.data_root(data_root) / about.folder
    except UserError:
        place = None
    named = data_root or (place and place.parent)
    root = shlex.quote(shown(named)) if named else "DIR"
    mend = full.fetch_command(about, root, "main") if about.hub else full.convert_command(about, root)
    if named and not Path(named).is_dir():
        mend = f"mkdir -p {root} && {mend}"
    elif place is not None and place.exists():
        # Neither command replaces what is there.
        mend = f"mv {shlex.quote(shown(place))} {shlex.quote(shown(place) + '.before')} && {mend}"
    size = None if about.download is None else int(about.download.gib * 2**30)
    return Part("data", task, check, mend, place, size, size)


def _weights(suite: Suite, backbone: str, family: str, checkpoints: Path | None) -> list[Part]:
    shape = get_backbone(backbone)
    counts = {task: len(full.info(task, family).classes) for task in suite.tasks}
    folder = checkpoint_folder(family, backbone, checkpoints)

    def check(file: str) -> None:
        try:
            checks(folder, shape, suite.tasks, class_counts=counts, name=family, mend="")[file]()
        except FamilyError as error:
            raise told(error) from None

    tower = 4 * sum(weight.numel() for weight in create_encoder(shape, device="meta").state_dict().values())
    every: list[tuple[str, str, str, int]] = [("base", "", "base.safetensors", tower)]
    every += [("expert", task, f"{task}.safetensors", tower) for task in suite.tasks]
    every += [
        ("head", task, f"heads/{task}.safetensors", 4 * counts[task] * (shape.embed_dim + 1)) for task in suite.tasks
    ]
    test: Callable[[str], Callable[[], None]] = lambda file: partial(check, file)  # noqa: E731
    return [
        Part(kind, name, test(file), "", folder / file, size, size)  # type: ignore[arg-type]
        for kind, name, file, size in every
    ]
