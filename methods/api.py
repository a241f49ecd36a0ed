"""The map of this package on one page: everything a method file imports.

A method is one file with one decorated function (see ``task_arithmetic.py`` for the shortest)::

    from methods.api import Experts, Merged, method

    @method(title="My Merging", paper="arXiv:0000.00000")
    def mine(experts: Experts, *, scale: float = 0.3) -> Merged:
        ...
        return Merged(experts, {name: tensor for every tensor that changed})

=============  =======================================================================================
``method``     registers the function; its keyword defaults are its configuration
``variant``    a row below it: the same function as another method of the paper, with other defaults
``Access``     the data it is handed, ``Access(test=UNLABELLED)``; default none, then there is no stream
``Footprint``  what it takes, ``Footprint(vectors=True)``; default: it streams the experts' tensors
``Experts``    ``tasks``, ``names``, ``base[name]``, ``expert(task)[name]``, ``task_vectors(name)``,
               ``head(task)``, ``kind(task)``, ``adaptable(task)``, ``forward(state, task, inputs)``
``Stream``     ``draw(task, n)`` -> ``Batch(inputs, index, labels)``, ``rounds(steps)``
``Merged``     ``model(task)``, ``state_dict(task)``, ``head(task)``, ``storage``, ``trace``
=============  =======================================================================================

What a keyword may be is said by its annotation and checked before anything runs: ``Literal["sum", "mean"]``, ``Share``,
``Portion``, ``NonNegative``, ``Natural``, ``Count``, ``MethodName``, ``Annotated[float, "(-1, 1)"]`` (``values.py``).

Shared arithmetic: ``vectors`` (thresholds, election, decompositions), ``coefficients`` (the differentiable merge),
``adaptation`` (the loop of every method that adapts on a stream).
"""

from methods.core.access import LABELLED, UNLABELLED, Access
from methods.core.blocks import last_block
from methods.core.errors import MergingError, NotApplicable, UnknownName
from methods.core.experts import Experts
from methods.core.footprint import Footprint
from methods.core.merged import Merged, TaskModel, pack_mask, unpack_mask
from methods.core.registry import method, variant
from methods.core.states import LowRankState, StateFile
from methods.core.stream import Batch, Source, Stream, TimeLimit, place
from methods.core.values import Count, MethodName, Natural, NonNegative, Portion, Share

__all__ = [
    "LABELLED",
    "UNLABELLED",
    "Access",
    "Batch",
    "Count",
    "Experts",
    "Footprint",
    "LowRankState",
    "Merged",
    "MergingError",
    "MethodName",
    "Natural",
    "NonNegative",
    "NotApplicable",
    "Portion",
    "Share",
    "Source",
    "StateFile",
    "Stream",
    "TaskModel",
    "TimeLimit",
    "UnknownName",
    "last_block",
    "method",
    "pack_mask",
    "place",
    "unpack_mask",
    "variant",
]
