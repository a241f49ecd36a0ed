"""Karcher mean: the experts' weights averaged on a sphere.

Riemannian Center of Mass and Mollifier Smoothing. Karcher, 1977, doi:10.1002/cpa.3160300502 (no arXiv).

    theta = mean_k |theta_k| * u,    u = exp_u( mean_k log_u(theta_k / |theta_k|) )  on the unit sphere

Reference: arcee-ai/mergekit karcher.py, which we follow: every floating tensor on its own, whole weights (the base has
no part in it), equal weights; u starts at the normalised mean of the unit vectors and takes at most `steps` steps, the
last when the mean tangent is shorter than `tolerance`; angles below the tolerance and opposite vectors have no tangent,
and experts whose tensor is shorter than it have no direction. Computed in float64, for the code's float32. Ours departs
where unit vectors cancel: their mean is not unique, the code takes the first expert's direction, ours refuses.
One model is kept.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, Natural, method


@method(title="Karcher mean", paper="doi:10.1002/cpa.3160300502", footprint=Footprint(local=True, tensor=(1, 8)))
def karcher(experts: Experts, *, steps: Natural = 10, tolerance: Annotated[float, "(0, inf)"] = 1e-5) -> Merged:
    """Average directions on the unit sphere, and lengths.

    Args:
        steps: of the iteration, at most.
        tolerance: the length of the mean tangent at which it stops.

    Raises:
        MergingError: the experts' directions of a tensor cancel, so that their mean is not unique.
    """
    if steps < 0 or not tolerance > 0:
        raise MergingError(
            f"steps={steps!r}, tolerance={tolerance!r}; expected steps of 0 or more and a tolerance above 0, "
            "such as steps=10, tolerance=1e-5"
        )
    merged = {}
    for name in experts.names:
        points = torch.stack([experts.expert_tensor(name, task).flatten() for task in experts.tasks]).double()
        found = sphere_mean(points, steps, tolerance)
        if found is None:
            raise MergingError(
                f"the experts' {name} point in opposite directions, and their mean on the sphere is not unique; "
                "expected experts of one base"
            )
        merged[name] = found.view(experts.base[name].shape).float()
    return Merged(experts, merged)


def sphere_mean(points: Tensor, steps: int, tolerance: float) -> Tensor | None:
    """The mean of ``points [K, n]``; ``None`` where their directions cancel."""
    norms = points.norm(dim=1)
    units = points[norms > tolerance] / norms[norms > tolerance, None]
    if len(points) == 1 or not len(units):
        return points.mean(0) if len(points) == 1 else torch.zeros_like(points[0])
    mean = units.mean(0)
    if float(mean.norm()) < tolerance:
        return None
    mean = mean / mean.norm()
    for _ in range(steps):
        cosines = (units @ mean).clamp(-1, 1)
        angles = cosines.arccos()
        sines = angles.sin()
        stretch = (angles / sines).where((angles >= tolerance) & (sines >= tolerance), 0.0)
        tangent = (stretch[:, None] * (units - cosines[:, None] * mean)).mean(0)
        length = tangent.norm()
        if float(length) < tolerance:
            break
        mean = length.cos() * mean + length.sin() * tangent / length
        mean = mean / mean.norm()
    return norms.mean() * mean
