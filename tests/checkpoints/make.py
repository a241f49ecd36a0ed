"""Checkpoints as the public ones are stored, written by the open_clip of their time.

Usage, once per version, here with torch 2.14.1:
    pip download --no-deps open_clip_torch==2.0.2 -d old && unzip old/*.whl -d old/open_clip-2.0.2
    PYTHONPATH=old/open_clip-2.0.2 python tests/checkpoints/make.py tests/checkpoints/open_clip-2.0.2

The classes are those of the merging repositories (``src.modeling``): an encoder that holds open_clip's CLIP without its
text transformer, and a head. The tower is tiny and random; every file of a version holds the same weights.
"""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


class ImageEncoder(nn.Module):
    """As ``src/modeling.py`` of mlfoundations/task_vectors saves it."""

    def __init__(self, clip: nn.Module, preprocess: object) -> None:
        super().__init__()
        self.model = clip
        self.train_preprocess = self.val_preprocess = preprocess
        self.cache_dir = None
        if hasattr(self.model, "transformer"):
            delattr(self.model, "transformer")


class ClassificationHead(nn.Linear):
    """As ``src/modeling.py`` of mlfoundations/task_vectors saves it."""

    def __init__(self, normalize: bool, weights: torch.Tensor) -> None:
        super().__init__(weights.shape[1], weights.shape[0])
        self.normalize = normalize
        self.weight, self.bias = nn.Parameter(weights.clone()), nn.Parameter(torch.zeros(len(weights)))


def pickled_as(name: str) -> None:
    """Let the two classes be pickled under this module's name, which exists nowhere else."""
    module = types.ModuleType(name)
    for part in range(1, name.count(".") + 2):
        sys.modules.setdefault(".".join(name.split(".")[:part]), types.ModuleType(name))
    sys.modules[name] = module
    for each in (ImageEncoder, ClassificationHead):
        each.__module__ = name
        setattr(module, each.__name__, each)


def main(out: Path) -> None:
    """Write zip, legacy and plain pickles of one encoder, its state dict, a head, and the weights as safetensors."""
    from open_clip import model
    from open_clip.transform import image_transform

    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    pickled_as("src.modeling")
    vision = model.CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=4, image_size=8)
    text = model.CLIPTextCfg(context_length=8, vocab_size=10, width=8, heads=1, layers=1)
    encoder = ImageEncoder(model.CLIP(8, vision, text, quick_gelu=True), image_transform(8, is_train=False))
    torch.save(encoder, out / "zip.pt")
    torch.save(encoder.state_dict(), out / "state_dict.pt")
    # The legacy format carries the source of every class; a word stands for it.
    torch.serialization.get_source_lines_and_file = lambda kind: (["source of a class"], 1, f"{kind.__module__}.py")
    torch.save(encoder, out / "legacy.pt", _use_new_zipfile_serialization=False)
    for name, protocol in (("plain.pt", 4), ("plain2.pt", 2)):
        with open(out / name, "wb") as file:
            pickle.dump(encoder, file, protocol)
    head = ClassificationHead(True, torch.randn(3, 8))
    torch.save(head, out / "head.pt")
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    save_file({**state, **{f"head.{n}": v.clone() for n, v in head.state_dict().items()}}, out / "truth.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
