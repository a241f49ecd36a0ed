"""The bench of a user's own suite: any encoder that a library builds, on images as they lie; top-1 accuracy.

Opening it looks at everything once, so that what is missing or does not fit is told before anything runs: base,
experts, heads, classes and images of each task.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.checkpoints.adapters import Adapters
from benchmark.common.errors import UserError, shown
from benchmark.domains.vision.backbones import Preprocessing
from benchmark.domains.vision.bench import Accuracy, ImageSource
from benchmark.domains.vision.encoders import open_encoder
from benchmark.domains.vision.encoders.pixels import changed
from benchmark.domains.vision.own.images import Images, folders_of, open_images
from benchmark.domains.vision.own.text_heads import text_head
from benchmark.domains.vision.own.weights import Checkpoint, Found, check_width, open_checkpoint, read_head
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, Task
from methods.api import Access, Experts, Source
from methods.core.states import shapes_of

#: What boards say of encoders with batch normalisations.
AVERAGED = "Running means and variances of batch normalisations are merged as if they were weights."


class OwnBench(Bench):
    """See the module's docstring. Raises :class:`UserError` for whatever of the files is not as it should be."""

    def __init__(self, suite: Suite, backbone: str, family: str, device: torch.device, dtype: torch.dtype) -> None:
        assert suite.own is not None
        self.suite, self.backbone, self.family, self.device, self.dtype = suite, backbone, family, device, dtype
        try:
            self._open(suite)
        except UserError as error:
            raise UserError(f"{suite.typed}: {error.message}", error.hint) from None
        self.tasks = {task: Task(task, "classification", "accuracy") for task in suite.tasks}
        averaged = any(name.endswith("running_var") for name in self._base)
        self.notes = (
            *(note for images in self.images.values() for note in images.notes),
            *([AVERAGED] if averaged else []),
        )
        # Missing images are told before anything else is done.
        self.data_of(Access())

    def _open(self, suite: Suite) -> None:
        own = suite.own
        assert own is not None
        base = open_checkpoint(own.base, "base")
        classifier = any((head := own.head_of(task)).file is None and head.text is None for task in suite.tasks)
        self.encoder = open_encoder(
            own.base, base.shapes, encoder=own.encoder, features=own.features, classifier=classifier
        )
        self.pixels = changed(self.encoder.pixels, own.preprocessing.model_dump())
        self._base = base.state(self.encoder.names(base.shapes, f"base {shown(own.base)}"))
        self._experts: dict[str, Mapping[str, Tensor]] = {}
        self._adapters: dict[str, Adapters] = {}
        self.heads: dict[str, nn.Module] = {}
        self.images: dict[str, Images] = {}
        self.checkpoints = {"encoder": self.encoder.sha256, "base": base.sha256}
        width = self._features()
        opened: dict[Path, Checkpoint] = {}
        for task in suite.tasks:
            about = own.tasks[task]
            if about.expert not in opened:
                opened[about.expert] = open_checkpoint(
                    about.expert, f"expert of {task}", base, self.encoder.library_names
                )
            expert = opened[about.expert]
            names = self.encoder.names(expert.shapes, f"the expert of {task}, {shown(about.expert)},")
            self._experts[task] = expert.state(names)
            if expert.factors is not None:
                self._adapters[task] = expert.factors
            if expert.sha256 == base.sha256:
                raise UserError(
                    f"the expert of {task} is the base: there is nothing to merge", "Give the fine-tuned one."
                )
            _check_shapes(task, self._base, self._experts[task], about.expert)
            found = self._head(task, expert)
            check_width(task, found.head, width, self.encoder)
            self.heads[task] = found.head
            self.checkpoints |= {f"experts/{task}": expert.sha256, f"heads/{task}": found.sha256}
        self._encoder = self.encoder.module
        merged = [name for name, value in self._base.items() if value.is_floating_point()]
        self._encoder.load_state_dict({n: v.float() if n in merged else v for n, v in self._base.items()})

    def _head(self, task: str, expert: Checkpoint) -> Found:
        """The task's head, and its images, whose classes are held against the head's."""
        own = self.suite.own
        assert own is not None
        about, said, splits = own.tasks[task], own.head_of(task), own.splits_of(task)
        if said.text is None:
            found = read_head(task, said, expert, self.encoder)
            outputs = len(found.head.get_parameter("weight"))
            self.images[task] = open_images(task, about, splits, about.classes or found.classes, outputs)
            return found
        self.images[task] = images = open_images(task, about, splits, about.classes, None)
        text = open_checkpoint(said.text, f"text tower of {task}")
        return text_head(task, said, images.classes.names, text, own.encoder)

    @torch.no_grad()
    def _features(self) -> int:
        """How many features the encoder gives."""
        height, width = self.pixels.size
        try:
            features = self.encoder.module(torch.zeros(1, 3, height, width))
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.encoder.name} takes no images of {height} x {width}: {' '.join(str(error).split())[:200]}",
                "Write preprocessing: {size: ...}, as the model was trained.",
            ) from None
        return int(features.shape[-1])

    def fingerprint(self, content: str, split: str) -> str:
        """Of names, contents and classes of the images."""
        return self.images[content].fingerprint(split)

    def experts(self) -> Experts:
        encoder = copy.deepcopy(self._encoder).to(self.device).eval()
        if len(self._adapters) == len(self._experts) and all(
            set(a) <= set(self._base) for a in self._adapters.values()
        ):
            return Experts.from_lora(self._base, self._adapters, heads=self.heads, encoder=encoder, device=self.device)
        return Experts.from_state_dicts(
            self._base, self._experts, heads=self.heads, encoder=encoder, device=self.device
        )

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        images = self.images[task].load(split, self.pixels)
        ready = Preprocessing(self.pixels.mean, self.pixels.std, self.device, dtype)
        return self.limited(ImageSource(images, ready))

    def data_folders(self) -> list[Path]:
        return folders_of(list(self.images.values()))

    def meter(self, task: str) -> Accuracy:
        return Accuracy(task, len(self.images[task].classes.names))

    def counts(self) -> dict[str, int]:
        """Images of all tasks together by split."""
        return {
            split: sum(images.count(split) for images in self.images.values()) for split in ("train", "val", "test")
        }


def _check_shapes(task: str, base: Mapping[str, Tensor], expert: Mapping[str, Tensor], place: Path) -> None:
    shapes = [shapes_of(state) for state in (base, expert)]
    wrong = [name for name, shape in shapes[0].items() if shapes[1][name] != shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"the expert of {task}, {shown(place)}: {name} is {list(shapes[1][name])}; the base's is "
            f"{list(shapes[0][name])}",
            "Was it fine-tuned from another base, or on images of another size?",
        )
