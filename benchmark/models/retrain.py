"""``symerge-bench assets experts SUITE [--retrain [--base]]``: the mini family's scores, or the family made again.

The folder given by ``--out`` becomes a whole family (``--family DIR`` accepts it). Every file appears atomically and
says what it was made from, so the same command continues where it was killed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "mini" / "ViT-mini"
OUT = ROOT / ".cache" / "retrained" / "ViT-mini"
BACKBONE = "ViT-mini"
CHECKPOINT = "base.checkpoint.safetensors"


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports no torch."""
    p = argparse.ArgumentParser(
        prog="symerge-bench assets experts",
        description="Shows the scores of the committed base and experts of a mini suite; with --retrain, trains them "
                    "again. An expert takes about half a minute on 2 cores, the base 5 to 8 minutes.")
    p.add_argument("suite", help="vision-mini-8, vision-mini-14 or vision-mini-20")
    p.add_argument("--retrain", action="store_true", help="fine-tune the suite's experts again from the committed base")
    p.add_argument("--base", action="store_true",
                   help="with --retrain: the base and its heads too; needs the packages of the data build")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the suite")
    p.add_argument("--device", default="cpu", help="default cpu; the committed files were made on the cpu")
    p.add_argument("--threads", type=int, default=2, help="CPU threads (default 2; another number rounds differently)")
    p.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where to write (default {_short(OUT)})")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Tables go to stdout, progress to stderr."""
    args = parser().parse_args(argv)
    from benchmark.data import vision
    from benchmark.models.families import FamilyError

    try:
        tasks = _chosen(vision.tasks(args.suite), args.tasks, args.suite)
        if not args.retrain:
            print(_table(_manifest(FOLDER), None, tasks, args.suite))
            return 0
        retrain(args.suite, tasks, args.out, base=args.base, device=args.device, threads=args.threads)
    except (ValueError, FamilyError, FloatingPointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    committed = _manifest(FOLDER) if args.out.resolve() != FOLDER.resolve() else None
    print(_table(_manifest(args.out), committed, tasks, args.suite))
    print(f"\nwritten to {_short(args.out)}; to merge these:\n"
          f"./run_all.sh --suite {args.suite} --family {_short(args.out)}")
    return 0


def retrain(suite: str, tasks: list[str], out: Path, *, base: bool = False, device: str = "cpu", threads: int = 2,
            log: Any = sys.stderr) -> dict[str, Any]:
    """Make (or continue) a family in ``out`` and return its manifest.

    Without ``base`` the committed base, text tower and heads are taken over. Scores on the validation and test images
    are computed once everything is trained.
    """
    import torch

    from benchmark.data import vision
    from benchmark.models import finetune, pretrain
    from benchmark.models.families import read_manifest, save_state, sha256
    from benchmark.models.heads import ClassificationHead, zero_shot_head
    from benchmark.models.text import join_towers, split_towers

    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = dict(_manifest(out).get("made", {}).get("seconds", {}))
    every = vision.tasks()
    if base:
        run = {"schedule": asdict(pretrain.SCHEDULE), "seed": pretrain.SEED, "pool": pretrain.POOL,
               "data": {t: vision.info(t).arrays_sha256["train"] for t in every}}
        if not (_made_from(out / "base.safetensors", run) and _made_from(out / "text.safetensors", run)):
            start = time.monotonic()
            pool = pretrain.suite_pool(**pretrain.POOL)
            clip, tokenizer, losses = pretrain.pretrain(pool, device=device, checkpoint=out / CHECKPOINT)
            visual, text = split_towers(clip, tokenizer)
            for name, state in (("text", text), ("base", visual)):
                save_state(out / f"{name}.safetensors", state, torch.float16, _provenance(run))
            (out / CHECKPOINT).unlink(missing_ok=True)
            seconds["base"] = round(time.monotonic() - start, 1)
    elif out.resolve() != FOLDER.resolve():
        source = read_manifest(FOLDER)
        for name in ("base.safetensors", "text.safetensors", *(f"heads/{t}.safetensors" for t in every)):
            if not (out / name).exists() or sha256(out / name) != source["files"][name]["sha256"]:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(FOLDER / name, out / name)
    weights = _load(out / "base.safetensors")
    if base:
        clip, tokenizer = join_towers(finetune.get_backbone(BACKBONE), weights, _load(out / "text.safetensors"))
        for task in every:
            info = vision.info(task)
            built = zero_shot_head(clip, tokenizer, info.classes, info.templates)
            save_state(out / f"heads/{task}.safetensors", built.state_dict(), torch.float16)
    for number, task in enumerate(tasks, 1):
        head_file, file = out / f"heads/{task}.safetensors", out / f"{task}.safetensors"
        run = {"task": task, "schedule": asdict(finetune.SCHEDULE), "seed": finetune.SEED,
               "base": sha256(out / "base.safetensors"), "head": sha256(head_file),
               "data": vision.info(task).arrays_sha256["train"]}
        if _made_from(file, run):
            print(f"{task}: already there", file=log)
            continue
        start = time.monotonic()
        print(f"expert {number} of {len(tasks)}: {task}", file=log)
        train = vision.load_split(task, "train")
        head = ClassificationHead(**{k: v.float() for k, v in _load(head_file).items()})
        expert, _ = finetune.finetune(weights, head, train.images, train.labels, task=task, device=device)
        save_state(file, expert.state_dict(), torch.float16, _provenance(run))
        seconds[task] = round(time.monotonic() - start, 1)
        _write_manifest(out, suite, seconds, threads, device, base)
    _write_manifest(out, suite, seconds, threads, device, base, scores=_scores(out, suite, tasks, device, log))
    return _manifest(out)


def evaluate_family(folder: Path, tasks: list[str], split: str, device: str = "cpu",
                    average: bool = False) -> dict[str, dict[str, float]]:
    """``{"pretrained": {task: per cent}, "individual": ..., ("weight_average": ...)}`` on one split."""
    from benchmark.data import vision
    from benchmark.models import finetune
    from benchmark.models.heads import ClassificationHead

    weights = _load(folder / "base.safetensors")
    states = {t: _load(folder / f"{t}.safetensors") for t in tasks}
    rows: dict[str, dict[str, float]] = {"pretrained": {}, "individual": {}}
    if average:
        rows["weight_average"] = {}
        mean = finetune.average(list(states.values()))
    for task in tasks:
        data = vision.load_split(task, split)
        head = ClassificationHead(**{k: v.float() for k, v in _load(folder / f"heads/{task}.safetensors").items()})
        for row in rows:
            state = {"pretrained": weights, "individual": states[task]}.get(row) or mean
            encoder = finetune.load_encoder(state, BACKBONE, device)
            rows[row][task] = round(finetune.accuracy(encoder, head, data.images, data.labels, device=device), 2)
    return rows


def _scores(out: Path, suite: str, tasks: list[str], device: str, log: Any) -> dict[str, Any]:
    print("scores on validation and test images", file=log)
    scores: dict[str, Any] = _manifest(out).get("scores", {"validation": {}, "test": {}})
    for split in scores:
        rows = evaluate_family(out, tasks, split, device, average=split == "validation")
        for row, values in rows.items():
            kept = scores[split].setdefault(row, {})
            # an average belongs to the set of experts that it is taken over
            kept.update({suite: values} if row == "weight_average" else values)
    return scores


def _write_manifest(out: Path, suite: str, seconds: dict[str, float], threads: int, device: str, base: bool,
                    scores: dict[str, Any] | None = None) -> None:
    import open_clip
    import torch

    from benchmark.data import vision
    from benchmark.models import finetune, pretrain
    from benchmark.models.backbones import get_backbone
    from benchmark.models.families import describe_files, save_json

    old = _manifest(out)
    present = [t for t in vision.tasks() if (out / f"{t}.safetensors").exists()]
    names = ["base.safetensors", "text.safetensors", *(f"{t}.safetensors" for t in present),
             *(f"heads/{t}.safetensors" for t in present)]
    base = base or old.get("made", {}).get("command", "").find("--base") >= 0
    choice = out / "choice.json"
    save_json(out / "manifest.json", {
        "name": BACKBONE, "backbone": BACKBONE, "quick_gelu": get_backbone(BACKBONE).quick_gelu,
        "what": "A tiny CLIP pre-trained in this project by contrast with class-name prompts, and experts fine-tuned "
                "from it under frozen prompt-built heads. The suites' class names, and a few training images of every "
                "class, were seen in pre-training.",
        **({"choice": json.loads(choice.read_text(encoding="utf-8"))["sentence"]} if choice.exists() else {}),
        "made": {
            "command": f"symerge-bench assets experts {suite} --retrain{' --base' if base else ''} --threads {threads}",
            "base": {"schedule": asdict(pretrain.SCHEDULE), "seed": pretrain.SEED, "pool": pretrain.POOL},
            "expert": {"schedule": asdict(finetune.SCHEDULE), "seed": finetune.SEED, "shift": finetune.SHIFT},
            "device": device, "machine": f"{platform.machine()}, {threads} threads",
            "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
            "seconds": seconds},
        "classes": {t: vision.info(t).classes for t in present},
        "data": {t: vision.info(t).arrays_sha256["train"] for t in present},
        "shapes": {k: list(v.shape) for k, v in _load(out / "base.safetensors").items()},
        "files": describe_files(out, names),
        "scores": scores or old.get("scores", {"validation": {}, "test": {}}),
    })


def _table(manifest: dict[str, Any], committed: dict[str, Any] | None, tasks: list[str], suite: str) -> str:
    """The scores as text; beside ``committed`` ones, the differences."""
    scores = manifest.get("scores")
    if not scores or any(t not in scores["test"].get("individual", {}) for t in tasks):
        raise ValueError(f"no scores for {', '.join(tasks)} in the manifest; type: symerge-bench assets experts "
                         f"{suite} --retrain")
    heading = f"{'task':20}{'base, test':>12}{'expert, test':>14}{'expert, val':>13}"
    lines = [heading + (f"{'committed, test':>17}{'difference':>12}  file" if committed else "")]
    sums = []
    for task in tasks:
        row = [scores["test"]["pretrained"][task], scores["test"]["individual"][task],
               scores["validation"]["individual"][task]]
        line = f"{task:20}{row[0]:12.2f}{row[1]:14.2f}{row[2]:13.2f}"
        if committed:
            row.append(committed["scores"]["test"]["individual"].get(task, float("nan")))
            same = (manifest["files"][f"{task}.safetensors"]["sha256"]
                    == committed["files"].get(f"{task}.safetensors", {}).get("sha256"))
            line += f"{row[3]:17.2f}{row[1] - row[3]:+12.2f}  {'bit-identical' if same else 'differs'}"
        lines.append(line)
        sums.append(row)
    means = [sum(column) / len(sums) for column in zip(*sums, strict=True)]
    last = f"{'mean':20}{means[0]:12.2f}{means[1]:14.2f}{means[2]:13.2f}"
    lines.append(last + (f"{means[3]:17.2f}{means[1] - means[3]:+12.2f}" if committed else ""))
    return "\n".join(lines)


def _chosen(known: list[str], wanted: list[str] | None, suite: str) -> list[str]:
    unknown = [t for t in wanted or [] if t not in known]
    if unknown:
        raise ValueError(f"{suite} has no task {', '.join(unknown)}; it has: {', '.join(known)}")
    return [t for t in known if not wanted or t in wanted]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _load(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def _provenance(run: dict[str, Any]) -> dict[str, str]:
    return {"run": json.dumps(run, sort_keys=True)}


def _made_from(path: Path, run: dict[str, Any]) -> bool:
    """Whether ``path`` exists and was made by exactly this run."""
    from safetensors import safe_open

    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}) == _provenance(run)


def _short(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
