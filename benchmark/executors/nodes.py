"""The nodes of a Ray cluster: whether they see this code, what their workers are sent, what their GPUs hold."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.budget.estimate import Machine, amount
from benchmark.common.errors import UserError
from benchmark.common.project import ROOT
from benchmark.harness import provenance

#: What a worker without this folder is sent: the code with its embedded data and experts.
SHIPPED = ("benchmark", "methods")
#: Seconds that a node gets to answer; one that does not is taken to have nothing in common with this machine.
ANSWER = 120.0


@dataclass(frozen=True)
class Node:
    """One machine, or what Ray takes for one."""

    id: str
    name: str
    resources: dict[str, float]
    same: bool = False
    """Whether it sees this very code under the same path."""
    gpu_bytes: float = 0.0
    """Memory of one of its GPUs; 0 where it has none or does not say."""


def names(ray: Any) -> dict[str, str]:
    """``{node id: name}``: the node's own name or address, numbered where several share it."""
    pairs = sorted((node["NodeName"] or node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes())
    often, seen, named = Counter(name for name, _ in pairs), Counter[str](), {}
    for name, identity in pairs:
        seen[name] += 1
        named[identity] = name if often[name] == 1 else f"{name}#{seen[name]}"
    return named


def _prober() -> Callable[[str, Sequence[str], bool], tuple[str, float]]:
    """What looks at a node. It stands inside a function so that Ray sends it whole: the node may lack this module."""

    def probe(root: str, parts: Sequence[str], cuda: bool) -> tuple[str, float]:
        import hashlib
        import pathlib

        digest = hashlib.sha256()
        for part in parts:
            for path in sorted(pathlib.Path(root, part).rglob("*")):
                if "__pycache__" in path.parts or not path.is_file():
                    continue
                # Data are large; their hashes stand in manifests, and are compared when they are read.
                code = path.suffix in (".py", ".yaml", ".json")
                content = hashlib.sha256(path.read_bytes()).hexdigest() if code else str(path.stat().st_size)
                digest.update(f"{path.relative_to(root)} {content}\n".encode())
        if not cuda:
            return digest.hexdigest(), 0.0
        import torch

        return digest.hexdigest(), float(torch.cuda.get_device_properties(0).total_memory)

    return probe


def look(ray: Any, cuda: bool) -> list[Node]:
    """The nodes that are there now, each asked for this code and, with ``cuda``, for its GPUs' memory."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe, named = _prober(), names(ray)
    mine, _ = probe(str(ROOT), SHIPPED, False)
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = {}
    for node in alive:
        gpu = cuda and node["Resources"].get("GPU", 0) > 0
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(probe).options(num_cpus=0, num_gpus=0.01 if gpu else 0, scheduling_strategy=there)
        asked[node["NodeID"]] = remote.remote(str(ROOT), SHIPPED, gpu)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER)
    nodes = []
    for node in alive:
        try:
            theirs, memory = ray.get(asked[node["NodeID"]], timeout=0)
        except ray.exceptions.RayError:
            theirs, memory = "", 0.0
        identity = node["NodeID"]
        nodes.append(Node(identity, named[identity], dict(node["Resources"]), theirs == mine, memory))
    return nodes


def largest(there: Sequence[Node]) -> Machine:
    """The most that any node has; what does not say its memory has all one could want."""
    gpus = [node.gpu_bytes or math.inf for node in there if node.resources.get("GPU")]
    host = max((node.resources.get("memory", math.inf) for node in there), default=0.0)
    return Machine(device=max(gpus, default=0.0), host=host, disk=math.inf, cache=math.inf)


def smallest_gpu(there: Sequence[Node]) -> float:
    """Bytes of the smallest GPU, 0 where one does not say. Raises UserError where no node has a GPU."""
    sizes = [node.gpu_bytes for node in there if node.resources.get("GPU")]
    if not sizes:
        raise UserError(
            f"no node of the cluster has a GPU; there are {', '.join(sorted(node.name for node in there))}",
            "Type --device cpu, or start a node with ray start --num-gpus N.",
        )
    return min(sizes)


def unmet(demands: Iterable[tuple[int, float, float]], there: Sequence[Node]) -> list[str]:
    """A line for each demand (CPU cores, GPUs, bytes) that no present node could ever meet."""
    lines = []
    for cpus, gpus, memory in sorted(demands):
        wanted = {"CPU": cpus, "GPU": gpus, "memory": memory}
        if not any(all(node.resources.get(k, 0.0) >= v for k, v in wanted.items()) for node in there):
            lines.append(
                f"no node has {cpus} CPU cores, {gpus:g} GPU and {amount(memory)} GiB for a run; it waits until one "
                "joins (fewer --threads?)"
            )
    return lines


def environment(shared: bool, threads: int) -> dict[str, Any]:
    """Ray's ``runtime_env`` of the workers.

    Args:
        shared: all nodes see this code under the same path. Otherwise Ray sends it to each node once, named by its
            content, with the embedded data and experts.
    """
    ours = {k: v for k, v in os.environ.items() if k.startswith(("SYMERGE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_"))}
    variables = {**ours, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if shared:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {"env_vars": variables}
    # A copy has no history to ask which commit it is.
    variables |= provenance.as_variable()
    others = [f"/{path.name}" for path in ROOT.iterdir() if path.name not in SHIPPED]
    return {"env_vars": variables, "working_dir": str(ROOT), "excludes": [*others, "__pycache__", "*.pyc"]}
