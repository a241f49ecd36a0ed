"""Singular value decompositions of task vectors: as few as a method needs, as truncated as it needs, kept on disk.

LAPACK takes two to three times longer for a 768 x 3072 matrix than for its transpose, and merging rarely needs all
triplets. Here

* :func:`leading` finds the largest triplets from the eigenvectors of the smaller Gram matrix;
* :func:`polar` takes the orthogonal factor from the same Gram matrix, and the directions that it does not resolve
  from a second, smaller one;
* :func:`task_svd` computes each task vector's triplets once and keeps them in a folder, bit for bit and laid out in
  memory as they were computed: what is multiplied with them comes out the same whether they were read or not.

How exact that is: a Gram matrix squares the condition, so in float32 it is trusted for singular values above 1/30 of
the largest. Beyond that :func:`leading` repeats the work in float64 and :func:`polar` projects out what is done and
goes on with the rest. The relative error (Frobenius) against float64 is then below 1e-6 for the triplets' product and
about 1e-5 for the factor, where LAPACK in float32 gives 1e-6 to 1e-4, growing with the condition. Matrices with a
side under 160 always go to LAPACK. Directions whose singular value is below ``RANK_TOLERANCE`` of the largest count
as null: they hold rounding noise, and a factor ``U V^T`` leaves them out, where LAPACK would fill in arbitrary
directions at full strength.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from methods.core.errors import MergingError
from methods.core.experts import Experts
from methods.core.states import StateFile
from methods.tools.vectors import is_matrix

RANK_TOLERANCE = 32 * torch.finfo(torch.float32).eps
_DEPENDENT = 4 * torch.finfo(torch.float32).eps
_SMALL = 160
_CONDITION = 900.0
_LAYOUT = "2"
_NAMES = ("u", "s", "vh")
Triplets = tuple[Tensor, Tensor, Tensor]


def merge_matrices(experts: Experts, scale: float, combine: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """``base + scale * combine(name)`` for 2-D tensors but text projections, ``base + scale * mean`` for others."""
    merged = {}
    for name in experts.names:
        base = experts.base_tensor(name)
        vector = combine(name) if is_matrix(name, base.shape) else mean_vector(experts, name)
        merged[name] = vector.mul_(scale).add_(base)
    return merged


def mean_vector(experts: Experts, name: str) -> Tensor:
    """The mean task vector of one tensor, ``[*shape]``."""
    return sum_vector(experts, name).div_(len(experts))


def sum_vector(experts: Experts, name: str) -> Tensor:
    """The sum of the task vectors of one tensor, added up in the order of tasks, ``[*shape]``."""
    base = experts.base_tensor(name)
    total = torch.zeros_like(base)
    for task in experts.tasks:
        total += experts.task_vector(name, task, base)
    return total


def svd(matrix: Tensor) -> Triplets:
    """The thin decomposition by LAPACK: ``U [m, r]``, ``S [r]`` falling, ``Vh [r, n]``, with r = min(m, n).

    A large wide matrix is transposed first, which is two to three times quicker.
    """
    if matrix.shape[0] >= matrix.shape[1] or len(matrix) < _SMALL:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u, s, vh
    u, s, vh = torch.linalg.svd(matrix.T.contiguous(), full_matrices=False)
    return vh.T, s, u.T


def leading(matrix: Tensor, rank: int) -> Triplets:
    """The ``rank`` largest triplets ``U [m, rank]``, ``S [rank]`` falling, ``Vh [rank, n]`` of a float32 matrix."""
    small = min(matrix.shape)
    rank = min(rank, small)
    if small < _SMALL or 3 * rank > small:
        u, s, vh = svd(matrix)
        return u[:, :rank], s[:rank], vh[:rank]
    if rank == 0 or not bool(matrix.any()):
        m, n = matrix.shape
        return matrix.new_zeros(m, rank), matrix.new_zeros(rank), matrix.new_zeros(rank, n)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = _gram(tall)
    smallest, largest, right = 0.0, 0.0, gram
    if bool(torch.isfinite(gram.diagonal()).all()):  # else its squares have left float32's range
        values, right = _top_eigenpairs(gram, rank)
        smallest, largest = float(values[0]), float(values[-1])
    if not 1e-24 < largest < min(1e24, smallest * _CONDITION):
        _, right = _top_eigenpairs(_gram(tall.double()), rank)
        right = right.float()
    left = tall @ right
    inner, turn = torch.linalg.eigh(_gram(left.double()))
    s = inner.flip(0).clamp_(min=0).sqrt_()
    turn = turn.flip(1)
    u = (left.double() @ (turn / s.clamp(min=torch.finfo(torch.float64).tiny))).float()
    u.masked_fill_((s <= RANK_TOLERANCE * s[0]).to(u.device), 0.0)
    v = right @ turn.float()
    return (u, s.float(), v.T) if tall is matrix else (v, s.float(), u.T)


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The orthogonal factor ``U V^T [m, n]``, without null directions, and the singular values, falling."""
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = _tall_polar(matrix.T, None)
        return factor.T, values
    return _tall_polar(matrix, None)


def _tall_polar(tall: Tensor, floor: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`polar` for m >= n. Directions of values up to ``floor`` (default: noise beside the largest) count as null.

    ``A (A^T A)^(-1/2)`` on the directions that the Gram matrix resolves; the remaining ones are a smaller, better
    conditioned problem, taken after projecting out what is done.
    """
    gram = _gram(tall) if tall.shape[1] >= _SMALL else None
    if gram is None or not 1e-24 < float(gram.diagonal().amax()) < 1e24:
        u, s, vh = torch.linalg.svd(tall, full_matrices=False)
        top = significant(s) if floor is None else s > floor
        return u[:, top] @ vh[top], s
    values, vectors = torch.linalg.eigh(gram)
    values.clamp_(min=0)
    floor = values[-1].sqrt() * RANK_TOLERANCE if floor is None else floor
    resolved = values[-1] / _CONDITION
    first = int(torch.searchsorted(values, torch.maximum(resolved, floor.square()), right=True))
    done, rest, top = vectors[:, first:], vectors[:, :first], values[first:]
    root = (done * top.rsqrt()) @ done.T
    factor = tall @ root if tall.is_contiguous() else (root @ tall.T).T  # so that a wide matrix's factor is contiguous
    values = values.sqrt().flip(0)
    if not first or bool(floor.square() >= resolved):
        return factor, values
    left = tall @ rest
    left -= tall @ (done @ ((done.T @ (tall.T @ left)) / top[:, None]))
    inner, smaller = _tall_polar(left, floor)
    return factor.addmm_(inner, rest.T), torch.cat([values[: len(top)], smaller])


def orthogonal(vectors: Tensor) -> Tensor:
    """The orthogonal factor of stacked unit vectors ``[m, n]``, its rows or its columns, without dependent directions.

    Many unit vectors may all but miss a direction and still say which it is, down to their own rounding: of the 96
    rows ``[V_1 .. V_8]`` of a layer of width 96 the smallest singular value was 1e-6 of the largest.
    """
    tall = vectors.T if vectors.shape[0] < vectors.shape[1] else vectors
    floor = tall.new_tensor(_DEPENDENT, dtype=torch.float64)
    factor = _tall_polar(tall.double(), floor)[0].to(vectors.dtype)
    return factor if tall is vectors else factor.T


def inverse_root(vectors: Tensor) -> Tensor:
    """``B [r, r]`` with ``V B`` the orthogonal factor of stacked unit vectors ``V [m, r]``, that of :func:`orthogonal`.

    Float64. A Gram matrix squares the condition; where that costs more than half of the digits, V itself is decomposed.
    """
    values, turn = torch.linalg.eigh(vectors.T @ vectors)
    if bool(values[0] > 1e-8 * values[-1]):
        return (turn * values.rsqrt()) @ turn.T
    _, values, turned = torch.linalg.svd(torch.linalg.qr(vectors)[1])
    top = values > _DEPENDENT * values[0]
    return (turned[top].T / values[top]) @ turned[top]


def significant(values: Tensor) -> Tensor:
    """Which singular values are more than rounding noise beside the largest, bool ``[r]``."""
    if not len(values):
        return values > 0
    return (values > RANK_TOLERANCE * values.max()) & (values > 0)


def _gram(tall: Tensor, block: int = 256) -> Tensor:
    """The lower triangle (and some more) of ``A^T A``, which is all that a symmetric eigensolver reads."""
    size = tall.shape[1]
    if size < 2 * block:
        return tall.T @ tall
    out = tall.new_zeros(size, size)
    for start in range(0, size, block):
        stop = min(start + block, size)
        torch.mm(tall[:, start:stop].T, tall[:, :stop], out=out[start:stop, :stop])
    return out


def _top_eigenpairs(gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest eigenvalues, rising, and their vectors; only these are computed on a CPU."""
    if gram.device.type == "cpu":
        wanted = [len(gram) - rank, len(gram) - 1]
        try:
            values, vectors = scipy.linalg.eigh(gram.numpy(), lower=True, subset_by_index=wanted, check_finite=False)
            return torch.from_numpy(values), torch.from_numpy(np.ascontiguousarray(vectors))
        except np.linalg.LinAlgError:
            pass
    values, vectors = torch.linalg.eigh(gram)
    return values[-rank:], vectors[:, -rank:]


def task_svd(
    experts: Experts, name: str, task: str, rank: int | None = None, *, vector: Tensor | None = None
) -> Triplets:
    """The ``rank`` largest triplets (default: all) of one task vector, float32 on the experts' device; kept on disk.

    Args:
        name: a 2-D tensor ``[m, n]``.
        vector: the task vector itself, where the caller has it at hand.

    Returns:
        ``U [m, rank]``, ``S [rank]`` falling, ``Vh [rank, n]``. A zero task vector has zero singular values.
    """
    matrix = experts.task_vector(name, task) if vector is None else vector
    wanted = min(*matrix.shape, matrix.numel() if rank is None else rank)
    folder = cache_folder(experts, matrix)
    if folder is None:
        return leading(matrix, wanted)
    path = folder / f"{_digest(matrix, wanted)}.safetensors"
    triplets = _read(path, matrix.device)
    if triplets is None:
        triplets = leading(matrix, wanted)
        _write(path, triplets)
    return triplets


def cache_folder(experts: Experts, matrix: Tensor) -> Path | None:
    """Where the triplets of a task vector are kept, or ``None``.

    The folder in the environment variable SYMERGE_CACHE (empty: none). Without it, ``~/.cache/symerge-bench`` for
    experts that are read from files, and for matrices large enough that reading is quicker than computing.
    """
    setting = os.environ.get("SYMERGE_CACHE")
    try:
        if setting is not None:
            return Path(setting).expanduser() / "svd" if setting else None
        if not isinstance(experts.base, StateFile) or min(matrix.shape) < _SMALL:
            return None
        return Path.home() / ".cache" / "symerge-bench" / "svd"
    except RuntimeError:  # a user without a home folder
        return None


def _digest(matrix: Tensor, rank: int) -> str:
    """The name of a task vector's triplets: a hash of its entries, the rank, and what decides rounding.

    Neither the triplets of a larger rank nor those of another device, library or number of threads are the same bits.
    """
    device = matrix.device
    kernels = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    chosen = {k: v for k, v in os.environ.items() if k.startswith(("ATEN_", "MKL_", "OMP_", "OPENBLAS_"))}
    by = (torch.__version__, scipy.__version__, device.type, kernels, torch.get_num_threads(), sorted(chosen.items()))
    digest = hashlib.sha256(repr((_LAYOUT, tuple(matrix.shape), matrix.stride(), rank, by)).encode())
    digest.update(matrix.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path, device: torch.device) -> Triplets | None:
    """The triplets of a file, with the strides they had; ``None`` where it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        stored = StateFile(path)
        strides = json.loads(stored.metadata["strides"])
        # Not the mapped memory itself: products also depend on how far from a cache line it begins.
        tensors = [torch.empty_strided(stored.shapes[n], strides[n], device=device).copy_(stored[n]) for n in _NAMES]
    except (MergingError, KeyError, ValueError, TypeError, RuntimeError):
        return None
    u, s, vh = tensors
    return u, s, vh


def _write(path: Path, triplets: Triplets) -> None:
    """Write and rename, so that a reader sees a whole file or none. A full disk is no error."""
    named = dict(zip(_NAMES, triplets, strict=True))
    strides = json.dumps({name: tensor.stride() for name, tensor in named.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            draft = Path(part.name)
        try:
            save_file({n: t.cpu().contiguous() for n, t in named.items()}, str(draft), metadata={"strides": strides})
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, SafetensorError):
        return
