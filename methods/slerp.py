"""SLERP: two experts interpolated along the arc between them.

Animating Rotation with Quaternion Curves. Shoemake, SIGGRAPH 1985, doi:10.1145/325165.325242 (no arXiv).

    theta = (sin((1 - t) phi) theta_1 + sin(t phi) theta_2) / sin(phi),    phi the angle of theta_1 and theta_2

Reference: arcee-ai/mergekit slerp.py, which we follow: every floating tensor on its own, whole weights, the angle of
the unit vectors applied to the weights as they are; where the cosine's magnitude is above 0.9995 (as it is of most
weights of two experts of one base) it interpolates linearly. The base has no part in it. Angles are taken in float64,
the code's in float32. No other departures. One model is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Portion, method
from methods.tools.vectors import fraction

#: Above this cosine two vectors count as parallel; shorter ones than that have no direction.
PARALLEL, SHORT = 0.9995, 1e-8


@method(title="SLERP", paper="doi:10.1145/325165.325242", needs=("pair",), footprint=Footprint(local=True))
def slerp(experts: Experts, *, t: Portion = 0.5) -> Merged:
    """Interpolate two experts on the sphere, tensor by tensor.

    Args:
        t: where between the first expert (0) and the second (1).
    """
    fraction("t", t, zero=True)
    first, second = experts.tasks
    return Merged(
        experts, {n: arc(experts.expert_tensor(n, first), experts.expert_tensor(n, second), t) for n in experts.names}
    )


def arc(first: Tensor, second: Tensor, t: float) -> Tensor:
    """The point at ``t`` between two tensors of one shape."""
    units = []
    for end in (first.double(), second.double()):
        norm = end.norm()
        units.append(end / norm if float(norm) > SHORT else end)
    cosine = float((units[0] * units[1]).sum())
    if abs(cosine) > PARALLEL:
        return torch.lerp(first, second, t)
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * first + math.sin(t * angle) * second) / math.sin(angle)
