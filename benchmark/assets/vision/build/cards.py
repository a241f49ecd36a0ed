"""The data cards: `README.md` and a contact sheet per task, made from the manifest and the arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.assets.vision.build.run import write_bytes
from benchmark.common.escapes import Markup
from benchmark.common.project import WEIGHTS
from benchmark.common.tables import markdown
from benchmark.domains.vision import embedded as vision

EXPERTS = WEIGHTS / "ViT-mini" / "manifest.json"
COLUMNS, ROWS = 24, 12


def contact_sheet(split: vision.ImageSplit) -> Image.Image:
    """At most `ROWS` rows of `COLUMNS` images a pixel apart, the classes in order, about the same number of each."""
    classes = len(split.classes)
    rows_each = max(1, min(3, ROWS // classes))
    cells: list[np.ndarray] = []
    if classes * rows_each <= ROWS:
        for c in range(classes):
            cells += list(split.images[np.flatnonzero(split.labels == c)[: COLUMNS * rows_each]])
    else:
        per_class = COLUMNS * ROWS // classes
        for c in range(classes):
            cells += list(split.images[np.flatnonzero(split.labels == c)[:per_class]])
    lines = -(-len(cells) // COLUMNS)
    sheet = np.full((lines * 29 - 1, COLUMNS * 29 - 1, *split.images.shape[3:]), 255, np.uint8)
    for i, image in enumerate(cells):
        y, x = divmod(i, COLUMNS)
        sheet[y * 29 : y * 29 + 28, x * 29 : x * 29 + 28] = image
    return Image.fromarray(sheet)


def expert_scores(path: str | Path = EXPERTS) -> dict[str, float]:
    """Task -> the expert's accuracy on test, from the experts' manifest; empty if there is none yet."""
    path = Path(path)
    if not path.is_file():
        return {}
    scores = json.loads(path.read_text(encoding="utf-8")).get("scores", {})
    return {task: percent / 100 for task, percent in scores.get("test", {}).get("individual", {}).items()}


def write_cards(root: str | Path = vision.MINI, experts: str | Path = EXPERTS, sheets: bool = True) -> Path:
    """Writes `<root>/README.md` (and `<root>/sheets/<Task>.png`) of the manifest's tasks; returns its path."""
    import io

    root = Path(root)
    manifest, scores = vision.manifest(root), expert_scores(experts)
    names = list(manifest["tasks"])
    for name in names if sheets else []:
        buffer = io.BytesIO()
        contact_sheet(vision.load_split(name, "test", root)).save(buffer, "PNG", optimize=True)
        write_bytes(root / "sheets" / f"{name}.png", buffer.getvalue())
    text = "\n".join(
        [
            HEAD.format(versions=", ".join(f"{k} {v}" for k, v in manifest["versions"].items())),
            _table(manifest, scores),
            *(_card(name, manifest["tasks"][name], scores.get(name)) for name in names),
        ]
    )
    write_bytes(root / "README.md", (text.rstrip() + "\n").encode())
    return root / "README.md"


def _table(manifest: dict, accuracies: dict[str, float]) -> str:
    rows = []
    for name, task in manifest["tasks"].items():
        counts = " / ".join(str(s["n"]) for s in task["splits"].values())
        scores, expert = task["test_scores"], _percent(accuracies.get(name))
        simple = [_percent(scores[each]) for each in ("majority", "linear_probe")]
        rows.append([Markup(f"[{name}](#{name.lower()})"), str(len(task["classes"])), counts, *simple, expert])
    heading = ["task", "classes", "train / validation / test", "commonest class", "linear probe on pixels", "expert"]
    return "\n".join(markdown(heading, rows, "<<<<<<")) + "\n"


def _card(name: str, task: dict, expert: float | None) -> str:
    near = task["near_duplicates"]
    shape = "x".join(map(str, task["shape"]))
    packages = task["packages"]
    listed = ", ".join(packages) if len(packages) < 5 else f"{len(packages)} packages, listed in `manifest.json`"
    counts = "; ".join(
        f"{near[s]['n']} of {task['splits'][s]['n']} in {s} ({near[s]['same_label']} with the same label)"
        for s in ("validation", "test")
    )
    return f"""## {name}

![contact sheet of {name}](sheets/{name}.png)

- **Labels:** {task["labels"]}
- **Classes ({len(task["classes"])}):** {", ".join(task["classes"])}
- **Images:** {shape}, {", ".join(f"{v['n']} {s}" for s, v in task["splits"].items())}
- **Source:** {task["source"]} ({listed})
- **Licence:** {task["licence"]}
- **Accuracy on test:** commonest class {_percent(task["test_scores"]["majority"])}, linear probe on raw pixels \
{_percent(task["test_scores"]["linear_probe"])}, expert {_percent(expert)}
- **Near-duplicates of train** ({near["method"]}): {counts}
- **Prompts:** {" ".join(f'"{t}"' for t in task["templates"])}
"""


def _percent(value: float | None) -> str:
    return "not measured yet" if value is None else f"{100 * value:.1f} %"


HEAD = """# The embedded vision tasks

Twenty small image classification tasks of 28x28 pixels: `vision-mini-8` is the first 8, `vision-mini-14` the first 14,
`vision-mini-20` all. They are real data or renderings of real fonts at a size that two CPU cores can work with; their
scores say nothing of the full-size data sets whose names they share. Every parquet file can be read with
`datasets.load_dataset("parquet", data_files={{"test": "benchmark/data/mini/MNIST/test.parquet"}})`.

- `manifest.json`: classes, prompts, counts, sources, licences, sha256 of every file and of its raw arrays.
- `LICENSES.md`: notices of the sources.
- `symerge-bench assets data build vision-mini-20` builds everything anew from the pinned packages (about 205 MB of
  downloads, two minutes), `--check` only compares. Built with {versions};
  other versions of the drawing libraries may give other pixels.
- Exact duplicates are removed, within and across splits. Near-duplicates across splits are counted, not removed:
  silhouettes, digits and glyphs of one class are alike by nature, and a perceptual hash of 28 pixels calls many honest
  pairs near.
- The grey levels of rendered tasks are rounded (24 steps; emoji 16 per channel), which halves the files.
- This page is written by `assets.vision.build.cards.write_cards()`; the experts' scores come from their manifest.
- `vision-mini-8-disjoint` has the data of `vision-mini-8`; four of its experts come from a second base, whose manifest
  `benchmark/models/mini/ViT-mini-disjoint/manifest.json` has their scores.
"""
