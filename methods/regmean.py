"""RegMean: each linear layer is the regression that best predicts every expert's outputs.

Dataless Knowledge Fusion by Merging Weights of Language Models. Jin, Ren, Preotiuc-Pietro, Cheng, ICLR 2023,
arXiv:2212.09849.

    W^T = (sum_k G_k)^-1 sum_k G_k W_k^T,    G_k = X_k^T X_k of the layer's inputs, off-diagonal entries times "reduce"

Reference: bloomberg/dataless-model-merging src/model_merge/avg_merger.py; FusionBench's regression mean is the same
with reduce = 0.95. Gram matrices of the weights of linear modules; every other tensor (biases, norms, embeddings, and
open_clip's packed ``attn.in_proj_weight``, which is no module's ``weight``) is the mean, as in the reference.
Departures: the Gram matrix of open_clip's attention output projection is collected (the reference's hook never fires
there; its merge takes it when given); the same regression is solved for task vectors, in float64, with a
pseudo-inverse: equal where the sum is invertible, and where it is not (fewer samples than features) unseen directions
stay at the base, where the code fails. Nothing is stored per task.
"""

from __future__ import annotations

from typing import Any

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, Portion, Stream, method
from methods.tools.activations import grams, layers, least_squares
from methods.tools.spectral import mean_vector
from methods.tools.vectors import fraction


@method(
    title="RegMean",
    paper="arXiv:2212.09849",
    access=Access(train=UNLABELLED),
    needs=("matrices",),
    footprint=Footprint(statistics="grams"),
)
def regmean(experts: Experts, stream: Stream, *, reduce: Portion = 0.9, examples: Count = 256) -> Merged:
    """Merge linear layers by regression on their inputs, everything else by the mean.

    Args:
        reduce: factor of the Gram matrices' off-diagonal entries, in [0, 1]; the paper's 0.9.
        examples: unlabelled training samples per task.
    """
    return from_grams(experts, grams(experts, stream, examples, layers(experts, "linear")), reduce=reduce)


def from_grams(experts: Experts, grams: Any, reduce: float = 0.9) -> Merged:
    """RegMean from Gram matrices computed elsewhere.

    Args:
        grams: ``{task: {module or tensor name: X^T X [in, in]}}``, or a list of the inner mappings in the order of
            tasks.
    """
    fitted = least_squares(experts, grams, fraction("reduce", reduce, zero=True))
    merged = {}
    for name in experts.names:
        vector = fitted.pop(name) if name in fitted else mean_vector(experts, name)
        merged[name] = vector.add_(experts.base_tensor(name))
    return Merged(experts, merged)
