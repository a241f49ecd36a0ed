"""The size of a text suite, without its files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.domains.text import embedded as glue_mini
from benchmark.domains.text import glue
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
    mini = suite.scale != "full"
    model = encoder(mini)
    longest = glue_mini.LONGEST if mini else glue.LONGEST
    samples: dict[str, int | None] = dict.fromkeys(("train", "val", "test"), 0)
    for task in suite.tasks:
        for split, count in (_counts_of_mini(task) if mini else _counts(task)).items():
            samples[split] = (samples[split] or 0) + count

    def inputs(n: int) -> Tensor:
        return torch.ones((n, longest), dtype=torch.int64, device="meta")

    def blocks(name: str) -> bool:
        return not mini or in_blocks(name)

    beside = sum(4 * weight.numel() for name, weight in model.named_parameters() if not blocks(name))
    return Extent(model, inputs, samples, 4 * longest, beside, blocks)


def encoder(mini: bool) -> nn.Module:
    """MiniLM as it is installed, or RoBERTa-base as it is published, on the meta device."""
    return outlined(minilm_folder() if mini else ROBERTA)


def _counts(task: str) -> dict[str, int]:
    train, test = glue.TASKS[task].counts
    return {"train": train, "val": len(range(0, train, glue.step_of_val(train))), "test": test}


def _counts_of_mini(task: str) -> dict[str, int]:
    splits = glue_mini.info(task)["splits"]
    return {split: splits[split]["n"] for split in glue_mini.SPLITS}
