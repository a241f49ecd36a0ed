"""What the manifest measures of a task's arrays: near-duplicates across splits, majority and linear-probe scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.optimize import minimize
from scipy.special import log_softmax

from benchmark.assets.vision.build.recipes import Arrays

NEAR = 4


def perceptual_hash(images: np.ndarray) -> np.ndarray:
    """63 bits per image [N, 63]: signs of the low 8x8 cosine coefficients (without the mean) about their median."""
    grey = images if images.ndim == 3 else images.astype(np.float64).mean(axis=3)
    small = np.stack(
        [np.asarray(Image.fromarray(g.astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey]
    )
    low = dctn(small.astype(np.float64), axes=(1, 2))[:, :8, :8].reshape(len(small), 64)[:, 1:]
    return low > np.median(low, axis=1, keepdims=True)


def near_duplicates(arrays: Arrays) -> dict[str, Any]:
    """Validation and test images within `NEAR` of 63 bits of one of train, and how many of them share its label."""
    train = perceptual_hash(arrays["train"][0]).astype(np.float32)
    report: dict[str, Any] = {"method": f"63-bit DCT hash, at most {NEAR} bits from an image of train"}
    for split in arrays:
        if split == "train":
            continue
        bits = perceptual_hash(arrays[split][0]).astype(np.float32)
        distance = bits.sum(1)[:, None] + train.sum(1)[None] - 2 * bits @ train.T
        nearest = distance.argmin(axis=1)
        near = distance.min(axis=1) <= NEAR
        same = arrays[split][1] == arrays["train"][1][nearest]
        report[split] = {"n": int(near.sum()), "same_label": int((near & same).sum())}
    return report


def scores(arrays: Arrays) -> dict[str, float]:
    """Share of test's commonest class, and accuracy on test of a linear probe on the raw pixels."""
    (x, y), (tx, ty) = arrays["train"], arrays["test"]
    return {
        "majority": round(float(np.bincount(ty).max() / len(ty)), 4),
        "linear_probe": round(linear_probe(x, y, tx, ty), 4),
    }


def linear_probe(x: np.ndarray, y: np.ndarray, tx: np.ndarray, ty: np.ndarray, decay: float = 1e-3) -> float:
    """Test accuracy of multinomial logistic regression (L-BFGS, 100 iterations) on centred pixels in 0..1."""
    train, test = (a.reshape(len(a), -1).astype(np.float64) / 255 for a in (x, tx))
    centre = train.mean(axis=0)
    train, test = train - centre, test - centre
    classes = int(y.max()) + 1
    target = np.eye(classes)[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(-1, classes)
        logp = log_softmax(train @ w[:-1] + w[-1], axis=1)
        error = (np.exp(logp) - target) / len(y)
        slope = np.vstack([train.T @ error + 2 * decay * w[:-1], error.sum(0)])
        return float(-(logp * target).sum() / len(y) + decay * (w[:-1] ** 2).sum()), slope.ravel()

    start = np.zeros((train.shape[1] + 1) * classes)
    w = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x.reshape(-1, classes)
    return float(np.mean((test @ w[:-1] + w[-1]).argmax(axis=1) == ty))
