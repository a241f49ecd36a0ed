"""Running statistics of batch normalisations, estimated again on a merged model."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from methods.api import Merged, Source

BATCH = 50


def reestimate(merged: Merged, source: Source, images: int) -> Merged:
    """``merged`` with the statistics of its experts (``Experts.statistics``) estimated on the first ``images`` inputs.

    Means and variances are averaged over batches of 50 (one smaller one where there are fewer inputs, none otherwise),
    in order, each normalised by itself: torch's ``update_bn``. Merges whose tasks have encoders of their own get
    statistics for each task, others one set. No label is read.
    """
    experts = merged.experts
    if not experts.statistics:
        return merged
    assert experts.encoder is not None
    count = min(images, len(source))
    index = torch.arange(count)
    parts = list(index.split(BATCH)) if count < BATCH else list(index[: count - count % BATCH].split(BATCH))
    batches = _Inputs(source, parts)
    statistics: dict[str, dict[str, Tensor]] = {}
    for owner in experts.tasks if merged.differs else ("all",):
        encoder = copy.deepcopy(experts.encoder).to(experts.device, torch.float32)
        state = merged.state_dict(None if owner == "all" else owner)
        names = encoder.state_dict()
        encoder.load_state_dict({n: t for n, t in state.items() if n in names}, strict=False)
        with torch.no_grad():
            update_bn(batches, encoder, experts.device)
        estimated = encoder.state_dict()
        statistics[owner] = {n: estimated[n].detach().clone() for n in experts.statistics}
    new = copy.copy(merged)
    new.statistics, new._encoder = statistics, None
    return new


class _Inputs:
    """The inputs of a source, batch by batch, as often as they are asked for."""

    def __init__(self, source: Source, parts: list[Tensor]) -> None:
        self.source, self.parts = source, parts

    def __iter__(self) -> Iterator[Tensor]:
        return (self.source[part][0] for part in self.parts)
