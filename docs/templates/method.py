"""What the method does, in one line.

Title of the paper. Authors, year, arXiv:0000.00000.

    theta = theta0 + scale * sum_k |tau_k| tau_k / sum_k |tau_k|,    tau_k = theta_k - theta0

Reference: owner/repository path/to/file.py. Say here where the code departs from the paper, and which of the two is
followed; "No code was published" where there is none.
"""

from __future__ import annotations

from torch import Tensor

from methods.api import Experts, Merged, method
from methods.tools.vectors import per_tensor


@method(title="My Method", paper="arXiv:0000.00000")
def my_method(experts: Experts, *, scale: float = 1.0) -> Merged:
    """Weigh each task vector by its norm, tensor by tensor.

    Args:
        scale: coefficient of the merged vector, on all tensors.
    """

    def combine(vectors: Tensor) -> Tensor:  # [K, *shape], float32: one parameter's task vectors
        norms = vectors.flatten(1).norm(dim=1)
        weights = norms / norms.sum().clamp_min(1e-12)
        return scale * (weights.view(-1, *[1] * (vectors.ndim - 1)) * vectors).sum(0)

    return Merged(experts, per_tensor(experts, combine))
