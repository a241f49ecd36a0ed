"""Merge, score and load models from Python: ``from symerge_bench import merge, evaluate, Experts``.

>>> import torch
>>> base = {"weight": torch.zeros(2, 2)}
>>> cats, dogs = {"weight": torch.eye(2)}, {"weight": torch.ones(2, 2)}
>>> merge("task_arithmetic", base, {"cats": cats, "dogs": dogs}, scale=0.5).state_dict()["weight"]
tensor([[1.0000, 0.5000],
        [0.5000, 1.0000]])
"""

from benchmark.common.errors import UserError
from benchmark.merging.api import evaluate, load_merge, merge, write_task
from methods import describe, get, names
from methods.api import Experts, Merged, MergingError, Stream, method

__all__ = [
    "Experts",
    "Merged",
    "MergingError",
    "Stream",
    "UserError",
    "describe",
    "evaluate",
    "get",
    "load_merge",
    "merge",
    "method",
    "names",
    "write_task",
]
