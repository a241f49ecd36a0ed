"""Golden vectors and tiny experts for tests. tests/golden/README.md says where the vectors come from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import methods
from methods.api import Experts, Merged, Stream

GOLDEN = Path(__file__).parents[1] / "golden"
#: What :func:`proved` was told of each method: the largest difference, its tolerance, the golden files behind it.
MEASURED: dict[str, dict[str, Any]] = {}
#: The golden files that each test read.
_READ: dict[str, list[str]] = {}


def golden(stem: str) -> dict[str, Tensor]:
    """All tensors of one golden file."""
    _READ.setdefault(_running(), []).append(stem)
    return load_file(GOLDEN / f"{stem}.safetensors")


def about(stem: str) -> dict[str, Any]:
    """Its sidecar: hyper-parameters, source, notes."""
    found: dict[str, Any] = json.loads((GOLDEN / f"{stem}.json").read_text())
    return found


class Encoder(nn.Module):
    """The visual tower of the golden inputs, under the names of the task-arithmetic family."""

    def __init__(self) -> None:
        super().__init__()
        cfg = about("inputs_seed0")["vision_cfg"]
        vision = open_clip.model.CLIPVisionCfg(
            layers=cfg["layers"],
            width=cfg["width"],
            head_width=cfg["head_width"],
            mlp_ratio=cfg["mlp_ratio"],
            patch_size=cfg["patch_size"],
            image_size=cfg["image_size"],
        )
        self.model = nn.Module()
        self.model.visual = open_clip.model._build_vision_tower(about("inputs_seed0")["embed_dim"], vision)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.visual(images)
        return features


class Head(nn.Module):
    """A linear head on normalised features."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(torch.zeros(len(weight)))

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features / features.norm(dim=-1, keepdim=True), self.weight, self.bias)


def golden_states(
    stem: str = "inputs_seed0", dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Base and experts ``t0`` .. of the golden inputs, in state-dict order."""
    stored, order = golden(stem), about(stem)["names_in_state_dict_order"]
    count = len({k.split("/")[0] for k in stored if k.startswith("ft")})
    base = {n: stored[f"pre/{n}"].to(dtype) for n in order}
    return base, {f"t{k}": {n: stored[f"ft{k}/{n}"].to(dtype) for n in order} for k in range(count)}


def golden_experts(
    stem: str = "inputs_seed0",
    heads: dict[str, Tensor] | None = None,
    encoder: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Experts:
    """The golden inputs as Experts; ``heads``: ``{task: weight}``."""
    base, tuned = golden_states(stem, dtype)
    return Experts.from_state_dicts(
        base,
        tuned,
        heads={t: Head(w) for t, w in (heads or {}).items()},
        encoder=Encoder() if encoder or heads else None,
    )


def golden_stream(method: str) -> Stream:
    """The batches that the golden adaptations of ``"adamerging"`` or ``"symerge"`` consumed, in their order."""
    return Stream.from_batches(golden(f"batches_{method}_seed0"), shuffle=False)


def random_experts(
    tasks: int = 3, seed: int = 0, classes: int = 5, dtype: torch.dtype = torch.float32, **keywords: Any
) -> Experts:
    """Random experts around a random tower, with heads and an encoder that runs."""
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder()
    base = {
        n: torch.randn(t.shape, generator=generator) * 0.05 + (1.0 if ".ln_" in n and n.endswith("weight") else 0.0)
        for n, t in encoder.state_dict().items()
    }
    tuned = {
        f"t{k}": {n: (t + 0.1 * torch.randn(t.shape, generator=generator)).to(dtype) for n, t in base.items()}
        for k in range(tasks)
    }
    heads = {
        t: Head(10 * nn.functional.normalize(torch.randn(classes, 16, generator=generator), dim=-1)) for t in tuned
    }
    return Experts.from_state_dicts(
        {n: t.to(dtype) for n, t in base.items()}, tuned, heads=heads, encoder=encoder, **keywords
    )


def random_stream(
    tasks: Iterable[str], draws: int = 8, size: int = 8, seed: int = 0, classes: int | None = None
) -> Stream:
    """Random images, and labels where ``classes`` is given."""
    generator = torch.Generator().manual_seed(seed)
    tasks = list(tasks)
    images = {t: torch.randn(draws, size, 3, 16, 16, generator=generator) for t in tasks}
    labels = {t: torch.randint(classes, (draws, size), generator=generator) for t in tasks} if classes else None
    return Stream.from_batches(images, labels=labels)


def assert_state(
    found: dict[str, Tensor] | Merged,
    expected: dict[str, Tensor],
    start: dict[str, Tensor] | None,
    atol: float,
    budget: float = 0.0,
) -> float:
    """Equal to ``atol`` except a share ``budget`` of entries, and moved from ``start`` by more than ten times ``atol``.

    Returns the largest difference among the entries that count.
    """
    state = found.state_dict() if isinstance(found, Merged) else found
    wrong = total = 0
    largest = moved = 0.0
    for name, value in expected.items():
        gap = (state[name].float() - value.float()).abs()
        assert torch.isfinite(gap).all(), f"{name} is not finite"
        wrong, total = wrong + int((gap > atol).sum()), total + gap.numel()
        largest = max(largest, float(gap[gap <= atol].max()) if bool((gap <= atol).any()) else 0.0)
        if start is not None:
            moved = max(moved, float((state[name].float() - start[name].float()).abs().max()))
    assert wrong <= budget * total, f"{wrong} of {total} entries differ by more than {atol}"
    assert start is None or moved > 10 * atol, f"the result moved by {moved} only: the comparison would be vacuous"
    _keep(largest, atol)
    return largest


def assert_same_files(found: Path, expected: Path, names: Iterable[str]) -> None:
    """The same tensors in both folders, to the last digit of half precision."""
    for name in names:
        one, other = load_file(found / name), load_file(expected / name)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6, msg=lambda said, name=name: f"{name}: {said}")


def proved(name: str, difference: float, tolerance: float) -> None:
    """Note how far a method is from its authors' code in the golden files that the running test has read."""
    read = _READ.get(_running(), [])
    note = MEASURED.setdefault(name, {"difference": 0.0, "tolerance": 0.0, "sources": []})
    note["difference"] = max(note["difference"], difference)
    note["tolerance"] = max(note["tolerance"], tolerance)
    sources = [about(stem).get("source") for stem in read if (GOLDEN / f"{stem}.json").is_file()]
    told = {f"{s['repo']}@{s['commit'][:8]}" for s in sources if s and s.get("commit")}
    note["sources"] = sorted({*note["sources"], *told})


def _running() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]


def _keep(largest: float, atol: float) -> None:
    """Note a difference under the method in the test's parameters, or else the longest method name in its own."""
    function, _, parameters = _running().rpartition("::")[2].partition("[")
    known = methods.names()
    named = [p for p in re.split(r"[\[\]\-: ]", parameters) if p in known]
    named = named or sorted((n for n in known if f"_{n}_" in f"{function}_"), key=len, reverse=True)
    if named:
        proved(named[0], largest, atol)


def wide_experts() -> Experts:
    """Three experts with one tensor that the merge does not count as small, and one that it does; no encoder."""
    torch.manual_seed(0)
    base = {"w": torch.randn(96, 96), "b": torch.randn(96)}
    return Experts.from_state_dicts(
        base, {f"t{k}": {n: t + 0.01 * torch.randn_like(t) for n, t in base.items()} for k in range(3)}
    )


def merge(name: str, experts: Experts, **keywords: Any) -> Merged:
    found: Merged = methods.get(name)(experts, **keywords)
    return found


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), atol=atol, rtol=1e-5, msg=name)
