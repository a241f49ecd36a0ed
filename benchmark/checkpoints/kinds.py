"""What a foreign file is that cannot be read, told from its first bytes or from what its pickle names, and what to do.

Nothing here reads a file's content; the readers ask with what they have met. Importing this imports no torch.
"""

from __future__ import annotations

from typing import NamedTuple

#: The configuration that open_clip writes beside its weights.
OPEN_CLIP_CONFIG = "open_clip_config.json"
ALONE = (
    "where it was written, save the tensors alone: safetensors.torch.save_file(model.state_dict(), FILE), or "
    "torch.save(model.state_dict(), FILE)"
)
AGAIN = "fetch it again"
TORCHSCRIPT = "a TorchScript archive, which holds code beside its weights"
MERGED = (
    "merge it into its base where PEFT is installed, PeftModel.merge_and_unload() and save_pretrained, and import that"
)


class Kind(NamedTuple):
    """What something is, and what to do about it."""

    what: str
    mend: str


class Unsuitable(ValueError):
    """A file of a known kind that is not read: ``str()`` says which, ``mend`` what to do."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


_BEGINNINGS = {
    b"<!doctype": Kind("a web page", "fetch the file itself: of a page on the hub, its link 'download'"),
    b"<html": Kind("a web page", "fetch the file itself: of a page on the hub, its link 'download'"),
    b"\x1f\x8b": Kind("a gzip archive", "unpack it"),
    b"BZh": Kind("a bzip2 archive", "unpack it"),
    b"\xfd7zXZ": Kind("an xz archive", "unpack it"),
    b"7z\xbc\xaf": Kind("a 7z archive", "unpack it"),
    b"\x89HDF": Kind("an HDF5 file, such as Keras writes", "fetch the PyTorch or safetensors weights"),
    b"GGUF": Kind("a GGUF file, whose weights are quantised", "fetch the PyTorch or safetensors weights"),
    b"\x93NUMPY": Kind("a numpy array", ALONE),
    b"{": Kind("a text in JSON", "give the file of the weights beside it"),
}
_PACKAGES = {
    "argparse": Kind("the settings of a training run (argparse.Namespace) beside its tensors", ALONE),
    "numpy": Kind("numpy scalars or arrays", ALONE),
    "pathlib": Kind("paths of files beside its tensors", ALONE),
    "omegaconf": Kind("the settings of a training run (OmegaConf) beside its tensors", ALONE),
    "peft": Kind("objects of PEFT", "save the adapter with save_pretrained, and give the folder"),
}
_REBUILT = {
    "_rebuild_tensor_v3": Kind("tensors of a dtype that is not merged (float8, uint16, ...)", "save them as float32"),
    "_rebuild_sparse_tensor": Kind("sparse tensors", "save them dense, tensor.to_dense()"),
    "_rebuild_qtensor": Kind("quantised tensors", "save them dequantised, tensor.dequantize()"),
    "_rebuild_meta_tensor_no_storage": Kind("tensors without values (device meta)", "save the model once it is loaded"),
}


def of_bytes(start: bytes, safetensors: bool = False) -> Kind | None:
    """The kind of a file that begins with ``start`` (some 64 bytes); None where nothing known does.

    ``safetensors``: whether its name says that it is one.
    """
    if not safetensors and start[8:9] == b"{" and start[7:8] == b"\0":
        return Kind("a safetensors file under another name", "rename it to end in .safetensors")
    if safetensors and start.startswith((b"PK\3\4", b"\x80")):
        return Kind("a PyTorch checkpoint under another name", "rename it to end in .pt, or .bin in a model's folder")
    lowered = start.lstrip().lower()
    return next((k for b, k in _BEGINNINGS.items() if start.startswith(b) or lowered.startswith(b)), None)


def of_global(module: str, name: str) -> Kind:
    """What a pickle holds that names ``module.name``."""
    if module == "torch._utils" and name in _REBUILT:
        return _REBUILT[name]
    return _PACKAGES.get(module.partition(".")[0], Kind(f"objects of {module}", ALONE))
