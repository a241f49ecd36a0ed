"""What the method does, in one line.

Title of the paper. Authors, year, arXiv:0000.00000.

    theta = theta0 + scale * sum_k tau_k,    scale = argmin  sum_k E_x H( softmax(h_k(f(x; theta))) ),   x unlabelled

Reference: owner/repository path/to/file.py. Say here where the code departs from the paper, and which of the two is
followed; "No code was published" where there is none.
"""

from __future__ import annotations

import torch

from methods.api import UNLABELLED, Access, Count, Experts, Merged, Stream, method
from methods.tools.adaptation import entropy
from methods.tools.vectors import per_tensor


@method(title="My Method", paper="arXiv:0000.00000", access=Access(test=UNLABELLED), needs=("classes",))
def my_method(
    experts: Experts,
    stream: Stream,
    *,
    values: Count = 5,
    batch_size: Count = 16,
    seed: int = 0,
) -> Merged:
    """Take the scale under which the merge is surest of its predictions.

    Args:
        values: how many scales between 0.1 and 0.5 are tried.
        batch_size: unlabelled samples of each task.
        seed: the stream's seed.
    """
    batches = {task: stream.draw(task, batch_size) for task in experts.tasks}

    def merged(scale: float) -> Merged:
        return Merged(experts, per_tensor(experts, lambda vectors: scale * vectors.sum(0)))

    def uncertainty(scale: float) -> float:
        candidate = merged(scale)
        with torch.no_grad():
            return sum(float(entropy(candidate.model(t)(batch.inputs)).mean()) for t, batch in batches.items())

    return merged(min(torch.linspace(0.1, 0.5, values).tolist(), key=uncertainty))
