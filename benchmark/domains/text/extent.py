"""The size of a text suite, without its files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.domains.text import embedded as glue_mini
from benchmark.domains.text import glue, language_model, questions
from benchmark.domains.text.encoder import in_blocks, minilm_folder, outlined
from benchmark.suites import Suite
from benchmark.suites.extent import Extent

#: What the hub's roberta-base says of itself.
ROBERTA = {
    "model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


def extent(suite: Suite, backbone: str, family: str) -> Extent:
    """Encoder and texts, each as long as the longest: memory is that of the worst batch, time a bound from above.

    Raises UserError where transformers, or of glue-mini its base, is not installed.
    """
    model = encoder(suite.scale)
    longest = {"mini": glue_mini.LONGEST, "small": questions.LONGEST}.get(suite.scale, glue.LONGEST)
    samples: dict[str, int | None] = dict.fromkeys(("train", "val", "test"), 0)
    for task in suite.tasks:
        for split, count in _counts(task, suite.scale).items():
            samples[split] = (samples[split] or 0) + count

    def inputs(n: int) -> Tensor:
        return torch.ones((n, longest), dtype=torch.int64, device="meta")

    def blocks(name: str) -> bool:
        return suite.scale == "full" or in_blocks(name)

    beside = sum(4 * weight.numel() for name, weight in model.named_parameters() if not blocks(name))
    return Extent(model, inputs, samples, 4 * longest, beside, blocks)


def encoder(scale: str) -> nn.Module:
    """MiniLM as it is installed, SmolLM2 as its file says, or RoBERTa-base as it is published, on the meta device."""
    if scale == "small":
        return outlined(language_model.CONFIG, "last")
    return outlined(minilm_folder() if scale == "mini" else ROBERTA)


def _counts(task: str, scale: str) -> dict[str, int]:
    if scale != "full":
        splits = (glue_mini.info if scale == "mini" else questions.info)(task)["splits"]
        return {split: splits[split]["n"] for split in glue_mini.SPLITS}
    train, test = glue.TASKS[task].counts
    return {"train": train, "val": len(range(0, train, glue.step_of_val(train))), "test": test}
