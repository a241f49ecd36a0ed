"""An image encoder of a user's: built from what lies beside its weights by the library that it is of, and never by code
that came with it.

:func:`open_encoder` gives the module, whose state dict has the names of the checkpoint, and how pictures become what
it takes. The libraries: transformers (a folder with ``config.json``), open_clip, timm, torchvision (by name, or a
folder with open_clip's or timm's configuration).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.checkpoints.kinds import OPEN_CLIP_CONFIG
from benchmark.common.errors import UserError, some, unknown
from benchmark.common.files import read_object

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchmark.domains.vision.encoders.pixels import Pixels

LIBRARIES = ("transformers", "open_clip", "timm", "torchvision")
FEATURES = ("pooled", "cls", "mean", "projected", "classifier")


@dataclass(frozen=True)
class Encoder:
    """An encoder that is ready to be run.

    Attributes:
        name: for boards, e.g. ``ViT-B-32``.
        module: images ``[B, 3, H, W]`` to features ``[B, D]``, in evaluation mode, its weights those of the library's
            start. Its state dict has the names of the checkpoint.
        head: what stands before ``weight`` and ``bias`` of the library's classifier, under the checkpoint's names;
            None where it has none.
        pixels: how pictures are made ready, None where nothing beside the weights says it.
        about: what decides what the module computes, as JSON.
        library_names: ``{the library's own name of a tensor: the checkpoint's}``: adapters may have the library's.
    """

    name: str
    module: nn.Module
    head: str | None
    pixels: Pixels | None
    about: Mapping[str, Any] = field(repr=False)
    library_names: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def sha256(self) -> str:
        """Of the description."""
        return hashlib.sha256(json.dumps(dict(self.about), sort_keys=True).encode()).hexdigest()

    def names(self, stored: Iterable[str], what: str) -> dict[str, str]:
        """``{tensor of the module: its name in a checkpoint}`` of another checkpoint of this encoder.

        Args:
            what: the checkpoint, for messages.

        Raises :class:`UserError` where tensors are missing.
        """
        from benchmark.domains.vision.encoders.names import aligned

        listed = list(stored)
        wanted = list(self.module.state_dict())
        pairs = aligned(wanted, listed)
        if not pairs:
            missing = sorted(set(wanted) - set(listed)) or wanted
            raise UserError(
                f"{what} is no {self.name}: it lacks {some(missing)}; it has {some(listed)}",
                "Give a checkpoint of the base's architecture, under the base's names.",
            )
        return pairs


def open_encoder(
    source: Path,
    stored: Mapping[str, torch.Size | tuple[int, ...]],
    *,
    encoder: str | None = None,
    features: str | None = None,
    classifier: bool = False,
) -> Encoder:
    """The encoder of a checkpoint.

    Args:
        source: the checkpoint: a model's folder, or a file of weights.
        stored: ``{tensor: shape}`` of the checkpoint.
        encoder: ``LIBRARY/NAME`` for weights without a configuration, e.g. ``open_clip/ViT-B-32``.
        features: one of :data:`FEATURES`, of a transformers model; default: what its classifier takes where
            ``classifier``, else the projection, the pooled output or the first token, whichever it has.
        classifier: whether the heads are classifiers of the library's own image classification model.

    Raises:
        UserError: no or an unknown library or name, a library that is not installed, tensors that are missing.
    """
    library, name = library_of(source, encoder)
    if features is not None and features not in FEATURES:
        raise unknown("kind of features", features, FEATURES)
    if library == "transformers":
        from benchmark.domains.vision.encoders import huggingface

        return huggingface.build(source, stored, "classifier" if classifier and features is None else features)
    if features is not None:
        raise UserError(f"features: {features} is of transformers' models", f"Leave it out with {library}.")
    from benchmark.domains.vision.encoders import towers

    return towers.BUILDERS[library](source, stored, name)


def library_of(source: Path, encoder: str | None) -> tuple[str, str]:
    """The library that a checkpoint is of, and the name of the architecture there, empty where a folder says it.

    Importing nothing. Raises :class:`UserError` where neither the folder nor ``encoder`` says it.
    """
    library, slash, name = (encoder or "").partition("/")
    if encoder is not None:
        if library not in LIBRARIES:
            raise unknown("library of encoders", library, LIBRARIES, "Write LIBRARY/NAME, e.g. open_clip/ViT-B-32")
        if library == "transformers" and not (source / "config.json").is_file():
            raise UserError(f"{source} has no config.json, which transformers builds from", "Give the model's folder.")
        if library != "transformers" and (not slash or not name) and library != described(source):
            raise UserError(
                f"encoder: {encoder} names no architecture", f"Write it, e.g. {library}/{EXAMPLES[library]}"
            )
        return library, name
    said = described(source)
    if said is None:
        raise UserError(
            f"{source} does not say what it is: there is no config.json beside the weights",
            "Give the model's folder, or write encoder: LIBRARY/NAME, e.g. "
            + ", ".join(f"{library}/{name}" for library, name in EXAMPLES.items()),
        )
    return said, ""


EXAMPLES = {"open_clip": "ViT-B-32", "timm": "vit_base_patch16_224", "torchvision": "resnet50"}


def described(source: Path) -> str | None:
    """The library that a folder's configuration is of; None where nothing in it says one."""
    if (source / OPEN_CLIP_CONFIG).is_file():
        return "open_clip"
    if not (source / "config.json").is_file():
        return None
    return "transformers" if "model_type" in configuration(source / "config.json") else "timm"


def configuration(path: Path) -> dict[str, Any]:
    """A configuration beside weights. Raises :class:`UserError`."""
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {said}", "Fetch or copy it again.") from None


def lacks(library: str, error: ImportError, extra: str) -> UserError:
    """The error for a library that is not installed."""
    return UserError(f"this encoder is of {library}, which is not installed ({error})", f"Type pip install {extra}")
