"""``symerge-bench assets experts dense-mini|nyuv2 [--retrain]``: a dense family's scores, or the family made again.

``dense-mini``: base and experts from nothing, about 8 minutes of one core. ``nyuv2``: torchvision's ResNet-50
(``--weights``), fine-tuned for 40 epochs of batch 16 on each task, for a GPU. The same command continues where it was
killed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import methods
from benchmark import suites
from benchmark.assets.dense import render
from benchmark.assets.dense.training import Settings, train_pair
from benchmark.assets.training import Schedule
from benchmark.checkpoints.families import MINI, checkpoint_folder, save_json
from benchmark.common.errors import UserError
from benchmark.common.paths import resolved
from benchmark.common.project import RETRAINED
from benchmark.domains.dense import scenes as scenes_data
from benchmark.domains.dense.bench import KINDS, DenseBench
from benchmark.domains.dense.family import save_part, tensors, write_manifest
from benchmark.domains.dense.model import Backbone, Encoder, Normalisation, get_backbone
from benchmark.harness.evaluate import evaluate
from benchmark.records.spec import REFERENCE_ROWS
from methods.api import Experts, Merged
from methods.tools.vectors import per_tensor

AVERAGE = "average"
ROWS = (*REFERENCE_ROWS, AVERAGE)
EPOCHS, BATCH = 40, 16

RULE = {
    "segmentation, individual": "at least 40 mIoU",
    "average": "mean relative change to the experts between -60 and -5 percent",
    "pretrained": "worse than average",
}
MINI_SETTINGS = Settings(base=Schedule(500, 3e-3, 40, 32, 1e-4), expert=Schedule(900, 2e-3, 50, 32, 1e-4))


def settings_of(suite: str, images: int) -> Settings:
    """The schedules of a suite; NYUv2's in steps for this number of training images."""
    if suite == "dense-mini":
        return MINI_SETTINGS
    steps = max(1, -(-EPOCHS * images // BATCH))
    schedule = Schedule(steps, 1e-4, steps // 20, BATCH, 1e-4)
    return Settings(base=schedule, expert=schedule)


def make_family(
    bench: DenseBench,
    folder: Path,
    settings: Settings,
    *,
    start: Mapping[str, Tensor] | None = None,
    tasks: Sequence[str] | None = None,
    stop_at: int | None = None,
) -> dict[str, Any]:
    """Train what ``folder`` lacks and write its manifest with validation and test scores of three rows.

    Args:
        bench: gives data and shapes; its own checkpoints are not used.
        start: the base's weights; without them it is trained on the scenes' albedo.
        stop_at: leave every training after this step, as a killed run would.
    """
    shape, device = bench.shape, str(bench.device)
    dtype = torch.float16 if bench.suite.scale == "mini" else torch.float32
    data = {task: bench.fingerprint(task, "test") for task in bench.suite.tasks}
    hashes = {"data": data, "settings": settings.describe()}
    count = len(bench.source(next(iter(bench.tasks)), "train"))
    base = Encoder(shape)
    base_file = folder / "base.safetensors"
    if start is not None:
        base.load_state_dict(dict(start), strict=False)
    elif not base_file.exists():
        pair = train_pair(
            shape,
            albedo_of(bench),
            count,
            kind="albedo",
            channels=3,
            schedule=settings.base,
            seed=settings.seed,
            device=device,
            title="base",
            checkpoint=folder / ".base.training",
            identity=hashes,
            stop_at=stop_at,
        )
        _whole(settings.base, stop_at)
        base.load_state_dict(pair.encoder.state_dict())
    if not base_file.exists():
        save_part(folder, "base", base, dtype)
    from safetensors.torch import load_file

    weights = load_file(base_file)
    for task in tasks or bench.tasks:
        if (folder / f"heads/{task}.safetensors").exists():
            continue
        source = bench.source(task, "train")
        pair = train_pair(
            shape,
            source.__getitem__,
            count,
            kind=KINDS[task],
            channels=bench.channels[task],
            schedule=settings.expert,
            seed=settings.seed,
            start=weights,
            device=device,
            title=task,
            checkpoint=folder / f".{task}.training",
            identity=hashes,
            stop_at=stop_at,
        )
        _whole(settings.expert, stop_at)
        save_part(folder, task, pair.encoder, dtype)
        save_part(folder, f"heads/{task}", pair.decoder, dtype)
    about = {
        "name": bench.family,
        "backbone": shape.name,
        "suite": bench.suite.name,
        "tasks": list(bench.tasks),
        "made": {"settings": settings.describe(), "device": device, "machine": platform.machine(),
                 "threads": torch.get_num_threads()},
    }  # fmt: skip
    write_manifest(folder, about, list(bench.tasks))
    family_bench = DenseBench(
        bench.suite, bench.backbone, bench.family, bench.device, bench.dtype, data_root=bench.root, folder=folder
    )
    about["scores"] = {split: scores(family_bench, split) for split in ("val", "test")}
    return write_manifest(folder, about, list(bench.tasks))


def _whole(schedule: Schedule, stop_at: int | None) -> None:
    """Nothing is written of a training that was left early."""
    if stop_at is not None and stop_at < schedule.steps:
        raise InterruptedError(f"stopped after step {stop_at} of {schedule.steps}; the same command goes on from there")


def albedo_of(bench: DenseBench) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images of the training scenes, and what they look like without light: rendered again, they are not stored."""
    rows = render.render_split("train", len(scenes_data.load_split("train")), render.textures())
    stored = scenes_data.load_split("train")
    albedo = torch.from_numpy(rows["albedo"]).permute(0, 3, 1, 2).float().div_(255)
    ready = Normalisation(bench.shape.mean, bench.shape.std, bench.device, torch.float32)
    images = ready(torch.from_numpy(stored.image))
    return lambda index: (images[index], albedo[index])


def mean(experts: Experts) -> Merged:
    """The mean of the experts' weights."""
    return Merged(experts, per_tensor(experts, lambda vectors: vectors.mean(0)))


def scores(bench: DenseBench, split: str) -> dict[str, dict[str, Any]]:
    """Scores of the three rows on one split, and the weight average's mean relative change to the experts."""
    table: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        experts = bench.experts()
        merged = bench.finish(mean(experts) if row == AVERAGE else methods.get(row)(experts))
        table[row] = {}
        for task in bench.tasks:
            result = evaluate(
                merged.model(task),
                bench.source(task, split),
                bench.meter(task),
                device=bench.device,
                batch_size=bench.suite.batch_size,
            )
            table[row][task] = {result.metric: result.value, **result.others}
    for row in ROWS:
        changes = []
        for task, about in bench.tasks.items():
            ours, theirs = (table[r][task][about.metric] for r in (row, "individual"))
            changes.append(100 * (ours - theirs) / theirs * (1 if about.higher_is_better else -1))
        table[row]["delta_m"] = sum(changes) / len(changes)
    return table


def keeps_the_rule(validation: Mapping[str, Any]) -> bool:
    """Whether a trial is acceptable by ``RULE``."""
    average = validation["average"]["delta_m"]
    return bool(
        validation["individual"]["segmentation"]["miou"] >= 40
        and -60 <= average <= -5
        and validation["pretrained"]["delta_m"] < average
    )


def show(manifest: Mapping[str, Any], split: str = "test") -> str:
    """The rows' scores on a split as a table."""
    rows = manifest["scores"][split]
    names = [(task, metric) for task, metrics in rows[ROWS[0]].items() if task != "delta_m" for metric in metrics]
    lines = [f"{split:24}" + "".join(f"{row:>16}" for row in ROWS)]
    lines += [f"{metric:24}" + "".join(f"{rows[row][task][metric]:16.3f}" for row in ROWS) for task, metric in names]
    return "\n".join([*lines, f"{'delta-m, %':24}" + "".join(f"{rows[row]['delta_m']:16.1f}" for row in ROWS)])


def log_trial(folder: Path, manifest: Mapping[str, Any], note: str) -> None:
    """Add a trial to ``choice.json``; trials are judged on validation images by three rows only."""
    path = folder / "choice.json"
    log: dict[str, Any] = {
        "rule": RULE,
        "judged_on": "validation images; rows pretrained, individual and average; no other merge was looked at",
        "trials": [],
    }
    if path.exists():
        log = json.loads(path.read_text(encoding="utf-8"))
    validation = manifest["scores"]["val"]
    entry = {
        "trial": len(log["trials"]) + 1,
        "note": note,
        **manifest["made"]["settings"],
        "validation": validation,
        "keeps_the_rule": keeps_the_rule(validation),
    }
    log["trials"].append(entry)
    save_json(path, log)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="symerge-bench assets experts", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("suite", choices=["dense-mini", "nyuv2"])
    p.add_argument("--retrain", action="store_true", help="train; without it the scores of what is there are shown")
    p.add_argument("--root", type=resolved, metavar="DIR", help="nyuv2: the data; default $SYMERGE_DATA")
    p.add_argument("--weights", type=resolved, metavar="FILE",
                   help="nyuv2: torchvision's resnet50-*.pth (or .safetensors) for the base")  # fmt: skip
    p.add_argument("--tasks", nargs="+", metavar="TASK", choices=list(KINDS), help="train only these experts now")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto; default cpu")
    p.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds differently")
    p.add_argument("--note", default="", help="a line for choice.json")
    p.add_argument("--out", type=resolved, metavar="DIR",
                   help="where to write; default .cache/retrained/<backbone>; for nyuv2 where runs look")  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    suite = suites.load(args.suite)
    mini = suite.scale == "mini"
    backbone, family = suite.backbones[0], suite.families[0]
    committed = MINI / backbone if mini else checkpoint_folder(family, backbone)
    folder = args.out or (RETRAINED / backbone if mini else committed)
    if not args.retrain:
        where = args.out or committed
        try:
            manifest = json.loads((where / "manifest.json").read_text(encoding="utf-8"))
        except OSError:
            raise UserError(
                f"no experts in {where}", f"Train them: symerge-bench assets experts {suite.name} --retrain"
            ) from None
        print(show(manifest))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    bench = DenseBench.untrained(suite, backbone, family, args.device, data_root=args.root)
    count = len(bench.source(suite.tasks[0], "train"))
    start = None if mini else imagenet(args.weights, get_backbone(backbone))
    manifest = make_family(bench, folder, settings_of(suite.name, count), start=start, tasks=args.tasks)
    log_trial(folder, manifest, args.note)
    print(show(manifest, "val"), show(manifest), sep="\n\n")
    print(f"\nwritten to {folder}", file=sys.stderr)
    return 0


def imagenet(path: Path | None, shape: Backbone) -> dict[str, Tensor]:
    """torchvision's ResNet-50 from a file, without its classifier. Raises :class:`UserError` for another network."""
    if path is None:
        raise UserError(
            "nyuv2's base is torchvision's ResNet-50 and no file was named",
            "Type --weights resnet50-11ad3fa6.pth (IMAGENET1K_V2) or another of torchvision's ResNet-50 files",
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Mapping[str, Tensor] = load_file(path)
    else:
        from benchmark.checkpoints.pickles import read_state

        state = read_state(path).tensors
    with torch.device("meta"):
        wanted = tensors(Encoder(shape))
    missing = [n for n in wanted if n not in state]
    wrong = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    if missing or wrong:
        raise UserError(
            f"{path.name} is no {shape.name} of torchvision: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])}), {len(wrong)} of another shape ({', '.join(wrong[:3])})",
            "Give the file that torchvision.models.resnet50 loads.",
        )
    return {n: state[n] for n in wanted}


if __name__ == "__main__":
    sys.exit(main())
