"""Text: GLUE's eight tasks on RoBERTa-base; `glue-mini`, eight tasks of their forms on MiniLM with LoRA experts; and
`llm-small`, six tasks of questions on a chat model with LoRA experts or whole fine-tunings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from benchmark.checkpoints.adapters import open_experts
from benchmark.checkpoints.families import checkpoint_folder
from benchmark.domains.text import chat_family, glue, language_model, plain, questions
from benchmark.domains.text import embedded as glue_mini
from benchmark.domains.text import family as text_families
from benchmark.domains.text.encoder import base_hashes, in_blocks, load_encoder, load_tokenizer, minilm_folder
from benchmark.domains.text.meters import METRICS, TextMeter, meter
from benchmark.domains.text.tokens import TextSource, Tokens
from benchmark.domains.vision.public import data_root as root_of
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, Bystander, Task
from methods.api import Access, Experts, Source

RESTORE = "To restore it: git checkout -- benchmark/models/mini/MiniLM-L6"


class GlueMiniBench(Bench):
    """`glue-mini`: what is merged are the blocks of MiniLM; no expert changes embeddings, which stay outside."""

    def __init__(
        self,
        suite: Suite,
        backbone: str,
        family: str,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path = text_families.FOLDER,
    ) -> None:
        self.suite, self.backbone, self.family, self.device, self.dtype = suite, backbone, family, device, dtype
        self.about = {task: glue_mini.info(task) for task in suite.tasks}
        self.outputs = {task: glue_mini.outputs_of(task) for task in suite.tasks}
        self._family = text_families.load_lora_family(folder, suite.tasks, self.outputs, base_hashes(), RESTORE)
        self.checkpoints = dict(self._family.hashes)
        self.tasks = {task: _task(task, about["metric"]) for task, about in self.about.items()}
        self.tokenizer = load_tokenizer(minilm_folder())

    def experts(self) -> Experts:
        encoder = load_encoder(minilm_folder(), "mean", self.device)
        base = {name: tensor for name, tensor in encoder.state_dict().items() if in_blocks(name)}
        return Experts.from_lora(
            base,
            self._family.adapters,
            heads=self._family.heads,
            encoder=encoder,
            kinds={task: METRICS[about["metric"]] for task, about in self.about.items()},
            device=self.device,
        )

    def fingerprint(self, content: str, split: str) -> str:
        """Of texts and labels."""
        sha256: str = self.about[content]["splits"][split]["sha256"]
        return sha256

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        return self.limited(TextSource(glue_mini.tokens_of(task, split, self.tokenizer), self.device))

    def meter(self, task: str) -> TextMeter:
        return meter(self.about[task]["metric"], task, self.outputs[task])


class QuestionsBench(Bench):
    """`llm-small`: what is merged are the blocks of a chat model. An answer's likelihood is read off the model's own
    output table, which no expert changes and which stays outside, as embeddings and the last norm do.

    Args:
        folder: the family's; None: where the suite looks for a family of this name.
        data: the questions'.
    """

    def __init__(
        self,
        suite: Suite,
        backbone: str,
        family: str,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path | None = None,
        data: Path = questions.FOLDER,
    ) -> None:
        self.suite, self.backbone, self.family, self.device, self.dtype = suite, backbone, family, device, dtype
        self.data = data
        self.about = {task: questions.info(task, data) for task in suite.tasks}
        self.base = language_model.base_folder()
        place = folder or chat_family.folder_of(family)
        self._family = chat_family.load_family(place, suite.tasks, language_model.base_hashes(), family)
        self.checkpoints = dict(self._family.hashes)
        self.tasks = {task: _task(task, about["metric"]) for task, about in self.about.items()}
        self.tokenizer = load_tokenizer(self.base)

    def experts(self) -> Experts:
        encoder = load_encoder(self.base, "last", self.device)
        state = encoder.state_dict()
        heads = {
            task: questions.head_of(state[questions.TABLE], questions.options(self.tokenizer, task, self.data))
            for task in self.tasks
        }
        base = {name: tensor for name, tensor in state.items() if in_blocks(name)}
        if self._family.whole:
            return Experts.from_state_dicts(base, self._family.whole, heads=heads, encoder=encoder, device=self.device)
        return Experts.from_lora(base, self._family.adapters, heads=heads, encoder=encoder, device=self.device)

    def fingerprint(self, content: str, split: str) -> str:
        """Of questions and labels."""
        sha256: str = self.about[content]["splits"][split]["sha256"]
        return sha256

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        return self.limited(TextSource(questions.tokens_of(task, split, self.tokenizer, self.data), self.device))

    def meter(self, task: str) -> TextMeter:
        return meter(self.about[task]["metric"], task, len(self.about[task]["classes"]))

    def bystander(self, name: str) -> Bystander:
        if name != plain.NAME:
            return super().bystander(name)
        about = plain.bystander(self.tokenizer, self.device, self.data)
        return replace(about, source=self.limited(about.source))


class GlueBench(Bench):
    """`glue` on the user's files.

    Args:
        data_root: a folder that holds `nyu-mll/glue` as `glue`, else `$SYMERGE_DATA`, else the cache of `datasets`.
        checkpoints: where families lie, else `$SYMERGE_CHECKPOINTS` or the default folder.
    """

    def __init__(
        self,
        suite: Suite,
        backbone: str,
        family: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        data_root: str | os.PathLike | None = None,
        checkpoints: str | os.PathLike | None = None,
    ) -> None:
        self.suite, self.backbone, self.family, self.device, self.dtype = suite, backbone, family, device, dtype
        self.root = glue.folder(root_of(data_root))
        self._family = text_families.load_family(
            checkpoint_folder(family, backbone, checkpoints),
            family,
            suite.tasks,
            {task: glue.TASKS[task].outputs for task in suite.tasks},
        )
        self.checkpoints = dict(self._family.hashes)
        self.notes = text_families.notes(self._family.manifest, suite.tasks)
        self.tokenizer = load_tokenizer(self._family.folder)
        self.tasks = {task: _task(task, glue.TASKS[task].metric) for task in suite.tasks}
        # Missing texts are told before anything else is done.
        self.data_of(Access())

    def experts(self) -> Experts:
        return open_experts(
            self._family.base,
            self._family.experts,
            heads=self._family.heads,
            encoder=text_families.create_encoder(self._family.folder, self.device),
            kinds={task: METRICS[glue.TASKS[task].metric] for task in self.tasks},
            device=self.device,
        )

    def fingerprint(self, content: str, split: str) -> str:
        """Of the files (of validation: of those of train)."""
        return glue.fingerprint(self.root, content, split)

    def tokens(self, task: str, split: str) -> Tokens:
        """One split, tokenised, from the cache where it is there."""
        return glue.tokens(self.root, task, split, self.tokenizer)

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        return self.limited(TextSource(self.tokens(task, split), self.device))

    def data_folders(self) -> list[Path]:
        return [self.root] if self.root is not None else []

    def meter(self, task: str) -> TextMeter:
        return meter(glue.TASKS[task].metric, task, glue.TASKS[task].outputs)


def _task(name: str, metric: str) -> Task:
    return Task(name, METRICS[metric], "accuracy" if metric == "accuracy_f1" else metric)


def bench_class(suite: Suite) -> type[Bench]:
    """The bench of a text suite: LoRA experts for the mini and the small one, whole fine-tunings for the full one."""
    kinds: dict[str, type[Bench]] = {"mini": GlueMiniBench, "small": QuestionsBench}
    return kinds.get(suite.scale, GlueBench)
