"""What storing task vectors in few bits changes: ``python -m benchmark.assets.vision.small.rounding DIR``.

``DIR`` is a family that was made with its experts in float32 kept in ``whole/``. Numbers before and after stand side by
side: each expert's accuracy, length and lost share, cosines between experts, the energy in the leading directions of
their matrices, and, where methods are named, the accuracy of each merge and the agreement of the two rankings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from benchmark.assets.choice import norm
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision.small import make
from benchmark.checkpoints.families import read_manifest, save_json
from benchmark.common.paths import resolved
from benchmark.domains.vision import embedded as vision
from benchmark.records.spec import parse_method
from methods.api import Experts
from methods.core import registry

RANK = 32
BOTH = ("before", "after")


def compare(folder: Path, methods: Sequence[str] = (), split: str = "validation") -> dict[str, Any]:
    """Everything of the docstring above, as plain JSON; accuracies in per cent on images of ``split``."""
    from benchmark.assets.vision.small.command import settings_of

    manifest = read_manifest(folder)
    settings, tasks = make.Settings(**settings_of(manifest)), list(manifest["classes"])
    base = {n: v.float() for n, v in load_file(folder / "base.safetensors").items()}
    states = {
        "before": {t: load_file(folder / f"whole/{t}.safetensors") for t in tasks},
        "after": {t: make.load_expert(folder, t) for t in tasks},
    }
    vectors = {when: {t: {n: s[n] - base[n] for n in base} for t, s in each.items()} for when, each in states.items()}
    encoder = finetune.load_encoder(base, settings.backbone())

    def accuracy(task: str, state: Mapping[str, Tensor]) -> float:
        encoder.load_state_dict(dict(state))
        data, head = vision.load_split(task, split), make.load_head(folder / f"heads/{task}.safetensors")
        return finetune.accuracy(encoder, head, data.images, data.labels)

    by_task: dict[str, dict[str, Any]] = {}
    for task in tasks:
        first, second = vectors["before"][task], vectors["after"][task]
        by_task[task] = {
            "individual": [round(accuracy(task, states[when][task]), 2) for when in BOTH],
            "relative_norm": [round(100 * norm(vectors[when][task]) / norm(base), 4) for when in BOTH],
            "lost": round(100 * norm({n: first[n] - second[n] for n in base}) / norm(first), 2),
            f"energy_in_{RANK}": [round(100 * leading(vectors[when][task]), 2) for when in BOTH],
        }
    angles = [cosines(list(vectors[when].values())) for when in BOTH]
    report: dict[str, Any] = {
        "bits": settings.bits,
        "split": split,
        "tasks": by_task,
        "mean_individual": [round(sum(v["individual"][i] for v in by_task.values()) / len(tasks), 2) for i in (0, 1)],
        "cosines": {
            "mean": [round(float(c.mean()), 4) for c in angles],
            "largest_change": round(float((angles[0] - angles[1]).abs().max()), 4),
        },
    }
    if methods:
        scores: dict[str, list[float]] = {}
        for text in methods:
            for when in BOTH:
                experts = Experts.from_state_dicts(base, states[when], encoder=encoder)
                name, keywords = parse_method(text)
                merged = registry.get(name)(experts, **keywords)
                values = [accuracy(t, {**base, **merged.state_dict(t)}) for t in tasks]
                scores.setdefault(text, []).append(round(sum(values) / len(values), 2))
            print(f"{text}: {scores[text]}", file=sys.stderr, flush=True)
        before, after = zip(*scores.values(), strict=True)
        report |= {
            "merges": scores,
            "spearman": round(float(spearmanr(before, after).statistic), 3),
            "kendall": round(float(kendalltau(before, after).statistic), 3),
        }
    return report


def leading(vector: Mapping[str, Tensor]) -> float:
    """The share of a task vector's energy in the first ``RANK`` directions of each of its matrices."""
    matrices = [v if len(v) <= v.shape[1] else v.T for v in vector.values() if v.ndim == 2]
    energies = [torch.linalg.eigvalsh(m.double() @ m.T.double()) for m in matrices]
    return float(sum(e[-RANK:].sum() for e in energies) / sum(e.sum() for e in energies))


def cosines(vectors: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """The cosines of all pairs, ``[K * (K - 1) / 2]``."""
    rows = torch.stack([torch.cat([v.flatten() for v in vector.values()]) for vector in vectors])
    rows = torch.nn.functional.normalize(rows, dim=-1)
    upper = torch.triu_indices(len(rows), len(rows), offset=1)
    return (rows @ rows.T)[upper[0], upper[1]]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, and print or keep the report."""
    p = argparse.ArgumentParser(
        prog="python -m benchmark.assets.vision.small.rounding", description=(__doc__ or "").splitlines()[0]
    )
    p.add_argument("folder", type=resolved, metavar="DIR")
    p.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="merges without data to compare, too")
    p.add_argument("--split", default="validation", choices=vision.SPLITS)
    p.add_argument("--out", type=resolved, metavar="FILE")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    report = compare(args.folder, args.methods, args.split)
    print(json.dumps(report, indent=1))
    if args.out:
        save_json(args.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
