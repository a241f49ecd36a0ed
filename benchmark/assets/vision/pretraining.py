"""The base of the mini suites: a tiny CLIP, pre-trained by contrast between images and class-name prompts.

The pool overlaps the suites only in part: other scripts, symbols and textures, and a few training images of every class
of every suite, so that each class name has an embedding. The names of the suites' classes were therefore seen here:
heads built from them are prompt-built heads, not zero-shot transfer to unseen classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP

from benchmark.assets.training import Schedule, generator, shift, train
from benchmark.domains.vision.backbones import Backbone, get_backbone, preprocess
from benchmark.domains.vision.heads import prompts_of
from benchmark.domains.vision.vocabulary import CompactTokenizer, create_clip

SEED = 0
SHIFT = 2  # pixels of random translation
SCHEDULE = Schedule(steps=1500, lr=2e-3, warmup=100, batch=256, weight_decay=0.1)
# per_class: the share of each class's training images that the base sees; others: images of classes outside the suites
POOL = {"per_class": 0.05, "others": 18000, "seed": 0}
MAX_LOGIT_SCALE = 100.0  # as CLIP


@dataclass(frozen=True)
class Pool:
    """Images with class names: ``images`` uint8 ``[N, 28, 28, 3]``, ``labels`` int64 ``[N]`` into ``names``.

    ``prompts[c]`` are the filled templates of class ``c``; one is drawn each time the class is seen.
    """

    images: torch.Tensor
    labels: torch.Tensor
    prompts: list[list[str]]

    def sha256(self) -> str:
        """Of images, labels and prompts."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        digest.update(repr(self.prompts).encode())
        return digest.hexdigest()


def gather(parts: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str], Sequence[str]]]) -> Pool:
    """One pool of ``(images, labels, classes, templates)`` parts; grey images are repeated to three channels."""
    images, labels = [], []
    prompts: list[list[str]] = []
    for pictures, classes, names, templates in parts:
        x = torch.from_numpy(np.array(pictures))
        images.append(x.unsqueeze(-1).expand(*x.shape, 3) if x.ndim == 3 else x)
        labels.append(torch.from_numpy(np.array(classes, dtype=np.int64)) + len(prompts))
        prompts += [prompts_of(name, templates) for name in names]
    return Pool(torch.cat(images).contiguous(), torch.cat(labels), prompts)


def suite_pool(per_class: float, others: int, seed: int, sources: Path | None = None) -> Pool:
    """The pool made from the pinned packages: unpacked under ``sources``, or fetched there (``None``: the cache).

    Images are those of :func:`assets.vision.build.pool.pool_arrays`; prompts are the tasks' own templates, and for
    classes outside the suites that module's.
    """
    from benchmark.assets.vision.build import pool
    from benchmark.domains.vision import embedded as vision

    where: dict[str, Any] = {"sources_dir": sources} if sources else {}
    images, labels, names, source = pool.pool_arrays(per_class, seed, others=others, **where)
    templates = {**pool.TEMPLATES, **{t: vision.info(t).templates for t in vision.tasks()}}
    return Pool(
        torch.from_numpy(np.array(images)),
        torch.from_numpy(np.array(labels)),
        [prompts_of(name, templates[s]) for name, s in zip(names, source, strict=True)],
    )


def pretrain(
    pool: Pool,
    *,
    backbone: str | Backbone = "ViT-mini",
    schedule: Schedule = SCHEDULE,
    seed: int = SEED,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    stop_at: int | None = None,
) -> tuple[CLIP, CompactTokenizer, list[float]]:
    """Train both towers on ``pool``; returns the CLIP, its tokenizer and the loss of every step.

    A step draws images at random, and for each class present one of its prompts; classes whose prompts read the same
    are one class, so that equal names are never false negatives. ``checkpoint`` and ``stop_at``: see
    :func:`benchmark.assets.training.train`.
    """
    backbone = get_backbone(backbone)
    tokenizer = CompactTokenizer.of(
        [p for prompts in pool.prompts for p in prompts], backbone.text_cfg["context_length"]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = create_clip(backbone, len(tokenizer)).to(device)
    tokens = [tokenizer(prompts).to(device) for prompts in pool.prompts]

    def loss_at(step: int) -> torch.Tensor:
        random = generator(seed, "pretrain", step)
        chosen = torch.randint(len(pool.images), (schedule.batch,), generator=random)
        batch = shift(pool.images[chosen], SHIFT, random)
        classes = pool.labels[chosen].tolist()
        drawn: dict[int, int] = {}
        texts: dict[str, int] = {}
        rows: list[torch.Tensor] = []
        for c in sorted(set(classes)):
            pick = int(torch.randint(len(pool.prompts[c]), (1,), generator=random))
            prompt = pool.prompts[c][pick]
            if prompt not in texts:
                texts[prompt] = len(rows)
                rows.append(tokens[c][pick])
            drawn[c] = texts[prompt]
        target = torch.tensor([drawn[c] for c in classes], device=device)
        x = preprocess(batch, backbone.mean, backbone.std, device, torch.float32)
        image = F.normalize(clip.encode_image(x), dim=-1)
        text = F.normalize(clip.encode_text(torch.stack(rows)), dim=-1)
        logits = clip.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE) * image @ text.T
        return 0.5 * (F.cross_entropy(logits, target) + caption_loss(logits, target))

    losses = train(
        clip,
        loss_at,
        schedule,
        title="base",
        checkpoint=checkpoint,
        stop_at=stop_at,
        identity={"pool": pool.sha256(), "seed": seed, "backbone": backbone.name},
    )
    with torch.no_grad():
        clip.logit_scale.clamp_(max=float(np.log(MAX_LOGIT_SCALE)))
    return clip, tokenizer, losses


def caption_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """CLIP's text-to-image half, ``logits`` ``[B, T]``: all images of a text are its positives, weighted alike."""
    positive = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return -((F.log_softmax(logits, dim=0) * positive).sum(0) / positive.sum(0)).mean()
