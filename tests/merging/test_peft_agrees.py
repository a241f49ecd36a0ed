"""A merge of a language model's LoRA adapters is what PEFT makes of the same adapters, and PEFT takes it as a base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models
from helpers.lacking import lacks_package

try:
    import peft
    import transformers
except ImportError:
    pytest.skip(lacks_package("peft", "dev"), allow_module_level=True)

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS = {"a": 0.5, "b": 1.0}


@pytest.fixture
def base(tmp_path: Path) -> Any:
    """A random Llama, with two adapters of unlike rank beside it, as PEFT saves them."""
    torch.manual_seed(0)
    model = own_models.llama()
    model.save_pretrained(tmp_path / "base")
    for seed, (name, rank) in enumerate((("a", 2), ("b", 3)), 1):
        torch.manual_seed(seed)
        about = peft.LoraConfig(target_modules=LINEAR, r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM")
        tuned = peft.get_peft_model(copy.deepcopy(model), about)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        tuned.save_pretrained(tmp_path / name)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    words = torch.arange(24).reshape(3, 8)
    with torch.inference_mode():
        return model.eval()(input_ids=words).logits


def merged(tmp_path: Path) -> Path:
    """The weighted sum of both adapters, written by `merge`."""
    words = ("--weights", *map(str, WEIGHTS.values()))
    paths = {name: tmp_path / name for name in WEIGHTS}
    assert own_models.merge("task_arithmetic", tmp_path / "base", paths, tmp_path / "out", *words) == 0
    return tmp_path / "out"


def test_a_weighted_sum_of_adapters_has_the_logits_of_pefts_own(base: Any, tmp_path: Path) -> None:
    ours = transformers.AutoModelForCausalLM.from_pretrained(merged(tmp_path))
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "a"), adapter_name="a")
    theirs.load_adapter(str(tmp_path / "b"), adapter_name="b")
    # The one combination of PEFT that is exact for unlike ranks.
    theirs.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "sum", combination_type="cat")
    theirs.set_adapter("sum")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)
    assert (logits(ours) - logits(base)).abs().max() > 1e-2, "the merge is the base"


def test_peft_puts_an_adapter_onto_a_merge_as_onto_its_base(base: Any, tmp_path: Path) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(merged(tmp_path))
    with_adapter = peft.PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / "a"))
    expert = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "a")).merge_and_unload()
    start, more = base.state_dict(), expert.state_dict()
    state = {name: value + more[name] - start[name] for name, value in plain.state_dict().items()}
    plain.load_state_dict(state)
    torch.testing.assert_close(logits(with_adapter), logits(plain), atol=1e-5, rtol=1e-4)
