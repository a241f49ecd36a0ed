"""Base and experts of a user's, opened and aligned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.checkpoints.alignment import Aligned, align
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.models import Model, open_model
from benchmark.common.errors import UserError


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What is wrong with a file, whenever it is read, as the user's error."""
    try:
        yield
    except FamilyError as error:
        raise UserError(str(error)) from None


def open_aligned(base: Path | str, experts: Mapping[str, Path], heads: Sequence[str] = ()) -> Aligned:
    """See :func:`align`, whose errors it raises."""
    model = open_model(base)
    return align(model, experts, heads, lambda: library_names(model))


def library_names(base: Model) -> Mapping[str, str]:
    """What the library at hand calls the tensors of an image encoder, ``{its name: the base's}``; empty for others."""
    if base.folder is None or not base.config:
        return {}
    from benchmark.domains.vision.encoders import open_encoder

    try:
        return open_encoder(base.path, base.state.shapes).library_names
    except UserError:
        return {}
