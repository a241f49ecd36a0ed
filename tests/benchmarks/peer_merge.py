"""One merge by this project, FusionBench or mergekit, as a process of its own: start, reading and writing included.

    python peer_merge.py symerge-bench|fusionbench|mergekit METHOD FOLDER TASKS STEPS OUT

FOLDER holds `base`, `t0` .. and, for RegMean, `grams-t0` .. as safetensors. The peers are called by their own entry
points: FusionBench's algorithms on modules that have these tensors as parameters, mergekit's `merge_state_dicts`. Runs
in the environment of whoever is asked; imports nothing of the others. AdaMerging takes `ADAPTED` of its steps on
open_clip's ViT-B-32, the same random images and heads for both; FusionBench's model pool fetches data sets, so its own
model, loss and order of a step are called without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

State = dict[str, Tensor]
ADAPTED, IMAGES, CLASSES = 2, 16, 10


class Tower(nn.Module):
    """open_clip's ViT-B-32 under the names of the files, without weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        import open_clip

        self.encoder = nn.Module()
        self.encoder.visual = open_clip.create_model("ViT-B-32", pretrained=None).visual

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder.visual(images)
        return features


def images_and_head(task: str) -> tuple[Tensor, nn.Linear]:
    """A task's random images `[ADAPTED IMAGES, 3, 224, 224]`, in the order of the steps, and its head."""
    torch.manual_seed(int(task[1:]))
    return torch.randn(ADAPTED * IMAGES, 3, 224, 224), nn.Linear(512, CLASSES).requires_grad_(False)


def this_project(method: str, folder: str, tasks: list[str], steps: int) -> Mapping[str, Tensor]:
    import methods
    from methods.api import Experts

    experts = Experts.from_state_dicts(
        f"{folder}/base.safetensors", {task: f"{folder}/{task}.safetensors" for task in tasks}
    )
    if method == "regmean":
        from methods import regmean

        grams = {task: load_file(f"{folder}/grams-{task}.safetensors") for task in tasks}
        return regmean.from_grams(experts, grams, reduce=0.9).state_dict()
    if method == "adamerging":
        return adapted_here(folder, tasks)
    keywords: dict[str, Any] = {
        "wudi": {"steps": steps, "tensors": "matrices"},
        "doge": {"steps": steps},
        "breadcrumbs": {"keep": 0.85, "remove": 0.01},
    }.get(method, {})
    merged = methods.get(method)(experts, **keywords)
    if method == "emr":
        return {n: experts.base_tensor(n) + merged.extra[f"vector/{n}"] for n in experts.names}
    return merged.state_dict()


def adapted_here(folder: str, tasks: list[str]) -> Mapping[str, Tensor]:
    import methods
    from methods.api import UNLABELLED, Access, Experts
    from methods.core.stream import Stream

    class Images:
        def __init__(self, images: Tensor) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: Tensor) -> tuple[Tensor, None]:
            return self.images[index], None

    given = {task: images_and_head(task) for task in tasks}
    experts = Experts.from_state_dicts(
        f"{folder}/base.safetensors",
        {task: f"{folder}/{task}.safetensors" for task in tasks},
        heads={task: head for task, (_, head) in given.items()},
        encoder=Tower().eval(),
    )
    sources = {"test": {task: Images(images) for task, (images, _) in given.items()}}
    stream = Stream(sources, Access(test=UNLABELLED), seed=0, shuffle=False)
    merged = methods.get("adamerging")(experts, stream, steps=ADAPTED, batch_size=IMAGES, batches_per_task=1)
    return merged.state_dict()


def adapted_there(folder: str, tasks: list[str]) -> Mapping[str, Tensor]:
    from fusion_bench.method.adamerging.entropy_loss import entropy_loss
    from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel

    def tower(file: str) -> nn.Module:
        model = Tower().eval()
        model.load_state_dict(load_file(f"{folder}/{file}.safetensors"))
        return model

    given = {task: images_and_head(task) for task in tasks}
    base = tower("base")
    weights = torch.full((len(tasks), len(list(base.parameters()))), 0.3)
    module: Any = LayerWiseMergedModel(weights, base, [tower(task) for task in tasks])
    optimiser = torch.optim.Adam([module.merge_weight], lr=1e-3)
    module.merge_weights()
    for step in range(ADAPTED):
        for images, head in given.values():
            logits = head(module(images[step * IMAGES : (step + 1) * IMAGES]))
            entropy_loss(logits).backward(retain_graph=True)
        optimiser.step()
        optimiser.zero_grad()
        module.merge_weights()
    return module.merge_and_unload().state_dict()


def fusionbench(method: str, folder: str, tasks: list[str], steps: int) -> Mapping[str, Tensor]:
    import fusion_bench.method as library
    from fusion_bench import BaseModelPool

    def states() -> list[State]:
        return [load_file(f"{folder}/{task}.safetensors") for task in tasks]

    if method == "adamerging":
        return adapted_there(folder, tasks)
    base = load_file(f"{folder}/base.safetensors")
    if method == "emr":
        from fusion_bench.method.emr_merging.utils import emr_merge

        vector = emr_merge([{n: t - base[n] for n, t in state.items()} for state in states()])[0]
        return {n: t + vector[n] for n, t in base.items()}
    if method == "regmean":
        from fusion_bench.method.regmean.regmean import merging_with_regmean_weights

        grams = [load_file(f"{folder}/grams-{task}.safetensors") for task in tasks]
        each = states()
        return merging_with_regmean_weights({n: [state[n] for state in each] for n in base}, grams, 0.9)
    algorithms: dict[str, Callable[[], Any]] = {
        "task_arithmetic": lambda: library.TaskArithmeticAlgorithm(scaling_factor=0.3),
        "ties": lambda: library.TiesMergingAlgorithm(
            scaling_factor=0.3, threshold=20, remove_keys=[], merge_func="sum"
        ),
        "dare": lambda: library.DareTaskArithmetic(
            scaling_factor=0.3, sparsity_ratio=0.9, only_on_linear_weights=False, rescale=True
        ),
        "tsv_m": lambda: library.TaskSingularVectorMerging(),
        "iso_c": lambda: library.ISO_C_Merge(scaling_factor=1.0),
        "iso_cts": lambda: library.ISO_CTS_Merge(scaling_factor=1.0, common_space_fraction=0.8),
        "wudi": lambda: library.WUDIMerging(iter_num=steps),
        "doge": lambda: library.DOGE_TA_Algorithm(subspace=6, K=30, lamda=0.07),
        "model_stock": lambda: library.ModelStock(),
        "slerp": lambda: library.SlerpMergeAlgorithm(t=0.5),
    }
    first = {} if method == "slerp" else {"_pretrained_": holder(base)}
    pool = BaseModelPool({**first, **{task: holder(state) for task, state in zip(tasks, states(), strict=True)}})
    merged = algorithms[method]().run(pool)
    return merged.state_dict()


def holder(state: State) -> nn.Module:
    """A module whose parameters have these names."""
    root = nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(tensor))
    return root


def mergekit(method: str, folder: str, tasks: list[str], steps: int) -> Mapping[str, Tensor]:
    from mergekit.merge_methods import merge_state_dicts

    sums = {"weight": 0.3, "normalize": False}
    called: dict[str, tuple[str, dict[str, Any], bool]] = {
        "task_arithmetic": ("task_arithmetic", sums, True),
        "ties": ("ties", {**sums, "density": 0.2}, True),
        "dare": ("dare_linear", {**sums, "density": 0.1, "rescale": True}, True),
        "breadcrumbs": ("breadcrumbs", {**sums, "density": 0.84, "gamma": 0.01}, True),
        "model_stock": ("model_stock", {}, True),
        "slerp": ("slerp", {"t": 0.5}, False),
        "karcher": ("karcher", {"max_iter": 10, "tol": 1e-5}, False),
    }
    name, parameters, needs_base = called[method]
    models = {task: load_file(f"{folder}/{task}.safetensors") for task in tasks}
    if needs_base:
        models = {"base": load_file(f"{folder}/base.safetensors"), **models}
    # It takes two models, and wants to know of one that t counts from it.
    base = "base" if needs_base else tasks[0] if name == "slerp" else None
    with torch.no_grad():
        return merge_state_dicts(models, name, parameters=parameters, base=base, dtype=torch.float32)


def main(who: str, method: str, folder: str, tasks: str, steps: str, out: str) -> None:
    """Merge and write."""
    merge = {"symerge-bench": this_project, "fusionbench": fusionbench, "mergekit": mergekit}[who]
    state = merge(method, folder, [f"t{k}" for k in range(int(tasks))], int(steps))
    save_file({n: t.detach().float().contiguous() for n, t in state.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
