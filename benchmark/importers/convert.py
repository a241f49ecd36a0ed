"""A found family, file by file, into a folder that ``load_family`` reads."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.checkpoints.adapters import adapter_tensors
from benchmark.checkpoints.families import FamilyError, describe_files, read_manifest, save_json, save_state, sha256
from benchmark.checkpoints.files import read_file, weights
from benchmark.common.cache import locked
from benchmark.domains.vision import public as full
from benchmark.domains.vision import zeroshot
from benchmark.domains.vision.backbones import Backbone, get_backbone
from benchmark.domains.vision.heads import ClassificationHead
from benchmark.importers import FROM_BASE, OWN_TEXT, Definition, huggingface
from benchmark.importers.layouts import FamilyFiles
from benchmark.importers.towers import Tower, check_tower, distance, from_open_clip, moved

TEXT = "text.safetensors"
#: How a manifest says that a head was made from the expert's own text tower.
BY_OWN_TEXT = "prompts, own text"
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Base:
    """The base's tower, the state dict it came from (Hugging Face's), and its text side where all of it is there."""

    tower: Tower
    state: Mapping[str, Tensor] = field(default_factory=dict)
    text: Mapping[str, Tensor] = field(default_factory=dict)

    def dtypes(self) -> set[torch.dtype]:
        """The precisions of the tower."""
        return {value.dtype for value in self.tower.visual.values()}


class Importer:
    """Converts one family on one backbone into ``out``, and keeps ``out/manifest.json`` true after every file.

    A file whose source has not changed since it was converted is left alone, so that the same command goes on where it
    was stopped, and adds tasks.

    Args:
        family, backbone: what is imported.
        out: the family's folder.
        quick_gelu: the activation, for a family that leaves it to the owner of the files.
        head: one of ``importers.HEADS``, for experts whose text side is not the base's; without it these are refused.
        hub: commits by repository, where files were fetched.
        say: is told of every file.
    """

    def __init__(
        self,
        family: Definition,
        backbone: str | Backbone,
        out: Path,
        *,
        quick_gelu: bool | None = None,
        head: str | None = None,
        hub: Mapping[str, str] | None = None,
        say: Say = print,
    ) -> None:
        self.family, self.backbone, self.out, self.say = family, get_backbone(backbone), out, say
        self.choice = head
        self.manifest = self._begin(quick_gelu, dict(hub or {}))
        self.quick_gelu = bool(self.manifest["quick_gelu"])

    def _begin(self, quick_gelu: bool | None, hub: dict[str, str]) -> dict[str, Any]:
        before = read_manifest(self.out) if (self.out / "manifest.json").exists() else None
        choices = {self.family.quick_gelu, quick_gelu, before and before["quick_gelu"]} - {None}
        if len(choices) != 1:
            raise FamilyError(
                f"the activation of {self.family.name} is {'said twice, differently' if choices else 'not known'}: the "
                "weights do not show it and the wrong one costs accuracy without a word. "
                "Type --activation quick_gelu (OpenAI's CLIP) or --activation gelu"
            )
        name, backbone = self.family.name, self.backbone.name
        if before and (before["name"], before["backbone"]) != (name, backbone):
            raise FamilyError(
                f"{self.out}: {before['name']} on {before['backbone']}, not {name} on {backbone}: give another --out"
            )
        versions = {p: importlib.metadata.version(p) for p in ("torch", "open_clip_torch", "safetensors")}
        fresh: dict[str, Any] = {"classes": {}, "sources": {}, "distance": {}, "heads": {}, "dropped": [], "files": {}}
        earlier = before or {}
        about = {"name": name, "title": self.family.title, "backbone": backbone, "quick_gelu": choices.pop()}
        return {**fresh, **earlier, **about, "hub": {**earlier.get("hub", {}), **hub}, "versions": versions}

    def run(self, files: FamilyFiles) -> dict[str, Any]:
        """Convert base, experts and the family's own heads; make the missing heads where there is a text tower."""
        with self._alone():
            return self._run(files)

    def heads(self, tasks: Sequence[str], text: Path | None = None, replace: bool = False) -> dict[str, Any]:
        """Zero-shot heads of ``tasks`` from prompts: those that are missing or were made so.

        Args:
            text: a CLIP whose text tower is stored first.
            replace: make those too that the family has files of.
        """
        with self._alone():
            if text:
                self.put_text(read_text(text, self.quick_gelu), text)
            elif not (self.out / TEXT).is_file():
                raise FamilyError(
                    f"{self.out} has no text tower. Type --text CLIP: a folder of the hub's openai/clip-vit-... or a "
                    "whole CLIP saved by open_clip."
                )
            own_files = {
                "the family's own files": [t for t in tasks if f"heads/{t}.safetensors" in self.manifest["sources"]],
                "made from the experts' own text": [t for t in tasks if self.manifest["heads"].get(t) == BY_OWN_TEXT],
            }
            for why, named in own_files.items() if not replace else ():
                if named:
                    self.say(f"kept, being {why}: heads of {', '.join(named)} (--replace makes them too)")
            own = set() if replace else {task for named in own_files.values() for task in named}
            self.prompt_heads([task for task in tasks if task not in own])
            return self.manifest

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder against other imports, and go on from what they left."""
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out / ".lock"):
            if (self.out / "manifest.json").exists():
                self.manifest = self._begin(self.quick_gelu, self.manifest["hub"])
            yield

    def _run(self, files: FamilyFiles) -> dict[str, Any]:
        base = self._read_base(files.base)
        before = self.manifest["sources"].get("base.safetensors", {}).get("sha256")
        if before not in (None, weights(files.base).sha256()):
            self._check_all(files, base)
        self._save("base.safetensors", base.tower.visual, files.base, base.tower.stored)
        if base.text:
            self._save(TEXT, base.text, files.base, base.tower.stored)
        dropped = sorted(base.tower.rest.keys() - base.text.keys())
        self.manifest["dropped"] = dropped
        for task, path in files.experts.items():
            self._expert(task, path, base)
        if dropped:
            self.say(
                f"left out, since no expert moves them: {len(dropped)} tensors beside the image tower "
                f"({', '.join(dropped)})"
            )
        for task in files.experts:
            if task in files.heads and self.manifest["heads"].get(task) != BY_OWN_TEXT:
                self._head(task, files.heads[task])
        missing = [task for task in files.experts if f"heads/{task}.safetensors" not in self.manifest["files"]]
        if missing and (self.out / TEXT).is_file():
            self.prompt_heads(missing)
        elif missing:
            self.say(
                f"no heads for {', '.join(missing)}: symerge-bench assets checkpoints heads {self.family.name} "
                f"--backbone {self.backbone.name} --text CLIP"
            )
        return self.manifest

    def _read_base(self, path: Path) -> _Base:
        if self.family.layout == "huggingface":
            tower, state = huggingface.read_tower(path)
            base = _Base(tower, state, huggingface.text_tower(state) if huggingface.SCALE in state else {})
        else:
            base = _Base(from_open_clip(read_file(path), path))
        check_tower(base.tower, self.backbone, self.quick_gelu, path)
        return base

    def _check_all(self, files: FamilyFiles, base: _Base) -> None:
        """Before another base takes the place of the one there: all experts of the folder are imported, and are its."""
        others = [t for t in self.manifest["distance"] if t not in files.experts]
        if others:
            raise FamilyError(
                f"{files.base} is another base than the one in {self.out}, which has experts for {', '.join(others)} "
                "too. Import all of them again together, or give another --out"
            )
        for path in files.experts.values():
            self._read_expert(path, base)

    def _expert(self, task: str, path: Path, base: _Base) -> None:
        name = f"{task}.safetensors"
        before, origin = self.manifest["sources"]["base.safetensors"]["sha256"], self.manifest["sources"].get(name, {})
        settled = "head" in origin and (origin["head"] == "" or self.choice in (None, origin["head"]))
        if self._is_stored(name, path) and origin.get("base") == before and settled:
            return
        tower, apart, beside = self._read_expert(path, base)
        # The head first: an expert that is there is not read again, and its head would then be taken for settled.
        if beside and self.choice == OWN_TEXT:
            own = self._own_head(task, path, tower)
            self._put_head(task, own.weight.detach(), own.bias.detach(), None, BY_OWN_TEXT)
        elif self.manifest["heads"].get(task) == BY_OWN_TEXT:
            for part, key in (("heads", task), ("classes", task), ("files", f"heads/{task}.safetensors")):
                self.manifest[part].pop(key, None)
        self.manifest["distance"][task] = apart
        self.manifest["sources"].pop(name, None)
        tensors = tower.visual if tower.adapters is None else adapter_tensors(tower.adapters)
        settled_by = self.choice if beside and self.choice else ""
        self._save(name, tensors, path, tower.stored, tower.adapters is not None, base=before, head=settled_by)
        self.say(f"{task}: {apart:.2%} away from the base; {tower.stored}")
        if beside:
            self.say(f"{task}: its head is {self.choice}, though {beside}")
        if base.dtypes() != {value.dtype for value in tower.visual.values()} and tower.adapters is None:
            self.say(f"{task}: stored in another precision than the base, whose rounding is in its task vector")

    def _read_expert(self, path: Path, base: _Base) -> tuple[Tower, float, str]:
        """An expert's tower, how far it lies from the base, and what beside its tower is not the base's, in words.

        Raises :class:`FamilyError` where the tower is the base's own, or where something beside it is not the base's
        and it was not said which head it shall have.
        """
        if self.family.layout == "huggingface":
            names = [self.family.fill(name, self.backbone.name) for name in self.family.base]
            tower, _ = huggingface.read_tower(path, base.state.get(huggingface.PROJECTION), base.state, names)
        else:
            tower = from_open_clip(read_file(path), path)
        check_tower(tower, self.backbone, self.quick_gelu, path)
        others = moved(base.tower.beside(), tower.beside())
        beside = ""
        if others:
            named = [(tower.prefix + n if tower.prefix + n in tower.rest else n, by) for n, by in others.items()]
            listed = ", ".join(f"{n} by {by:.3g}" if by < float("inf") else n for n, by in named[:3])
            beside = f"{len(others)} tensors outside the image tower are not the base's ({listed})"
        if others and self.choice is None:
            raise FamilyError(
                f"{path}: {beside}. Is it fine-tuned from this base? If so its head is another too. Type "
                f"--head {OWN_TEXT} to make it from its own text tower and the prompts, or --head {FROM_BASE} to give "
                "it the head it would have without them"
            )
        if not moved(base.tower.visual, tower.visual):
            raise FamilyError(f"{path} equals the base in every tensor of the image tower: no expert")
        return tower, distance(base.tower.visual, tower.visual), beside

    def _own_head(self, task: str, path: Path, tower: Tower) -> ClassificationHead:
        """The zero-shot head of an expert's own text tower."""
        if tower.text_quick_gelu not in (None, self.quick_gelu):
            raise FamilyError(f"{path}: its text tower has another activation than this family; --head {FROM_BASE}")
        own = {name.removeprefix("text."): value for name, value in tower.beside().items()}
        text = {name: own[name] for name in zeroshot.text_names(self.backbone) if name in own}
        try:
            clip = zeroshot.create_text(self.backbone, text, self.quick_gelu)
        except FamilyError as error:
            raise FamilyError(f"{path} has no text tower of its own ({error}). Type --head {FROM_BASE}") from None
        classes = full.info(task, self.family.name).classes
        return zeroshot.head(clip, task, classes, self.backbone.text_cfg["context_length"])

    def _head(self, task: str, path: Path) -> None:
        name = f"heads/{task}.safetensors"
        if self._is_stored(name, path):
            return
        state = read_file(path)
        if set(state.tensors) != {"weight", "bias"} or state.attributes.get("normalize", True) is not True:
            raise FamilyError(
                f"{path} holds {', '.join(state.tensors)} with normalize={state.attributes.get('normalize')}; expected "
                "weight and bias of a head that normalises its input"
            )
        self._put_head(task, state.tensors["weight"].float(), state.tensors["bias"].float(), path, state.layout)

    def _put_head(self, task: str, weight: Tensor, bias: Tensor, source: Path | None, way: str) -> None:
        classes = full.info(task, self.family.name).classes
        wanted = (len(classes), self.backbone.embed_dim)
        if tuple(weight.shape) != wanted or bias.shape != weight.shape[:1]:
            traps = " ".join(full.info(task, self.family.name).traps)
            raise FamilyError(f"head of {task}: weight is {list(weight.shape)}, expected {list(wanted)}. {traps}")
        if bad := [n for n, v in (("weight", weight), ("bias", bias)) if not torch.isfinite(v).all()]:
            raise FamilyError(f"head of {task}{f', {source}' if source else ''}: NaN or Inf in {' and '.join(bad)}")
        self.manifest["classes"][task] = list(classes)
        self.manifest["heads"][task] = way
        self._save(f"heads/{task}.safetensors", {"weight": weight, "bias": bias}, source, way)

    def prompt_heads(self, tasks: Sequence[str]) -> None:
        """Zero-shot heads of ``tasks`` from the folder's text tower."""
        clip = zeroshot.create_text(self.backbone, read_file(self.out / TEXT).tensors, self.quick_gelu)
        for task in tasks:
            classes = full.info(task, self.family.name).classes
            head = zeroshot.head(clip, task, classes, self.backbone.text_cfg["context_length"])
            source = self.manifest["sources"].get(f"{task}.safetensors", {})
            if source.get("head") == OWN_TEXT:
                source["head"] = FROM_BASE
            self._put_head(
                task, head.weight.detach(), head.bias.detach(), None, f"{len(zeroshot.templates(task))} prompts a class"
            )
            self.say(f"{task}: head of {len(classes)} classes from {len(zeroshot.templates(task))} prompts each")

    def put_text(self, text: Mapping[str, Tensor], source: Path) -> None:
        """Store a text tower, once it is known to fit."""
        zeroshot.create_text(self.backbone, text, self.quick_gelu)
        self._save(TEXT, text, source, "text tower")

    def _is_stored(self, name: str, source: Path) -> bool:
        origin, entry = self.manifest["sources"].get(name), self.manifest["files"].get(name)
        path = self.out / name
        if not origin or not entry or not path.is_file() or sha256(path) != entry["sha256"]:
            return False
        return bool(origin["sha256"] == weights(source).sha256())

    def _save(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        source: Path | None,
        stored: str,
        adapter: bool = False,
        **more: str,
    ) -> None:
        if source is not None and self._is_stored(name, source):
            return
        save_state(self.out / name, tensors)
        self.manifest["files"].update(describe_files(self.out, [name]))
        if adapter:
            self.manifest["files"][name]["adapter"] = {n: list(value.shape) for n, value in tensors.items()}
        self.manifest["sources"].pop(name, None)
        if source is not None:
            file = weights(source)
            about = {
                "file": f"{file.name.parent.name}/{file.name.name}", "sha256": file.sha256(), "stored": stored, **more
            }  # fmt: skip
            self.manifest["sources"][name] = about
        save_json(self.out / "manifest.json", self.manifest)


def class_order(weight: Tensor, own: Tensor) -> list[int]:
    """Rows ``[C, D]`` of a head whose nearest row of ``own``, in direction, is not that of the same class."""
    nearest = (torch.nn.functional.normalize(weight, dim=-1) @ torch.nn.functional.normalize(own, dim=-1).T).argmax(1)
    return (nearest != torch.arange(len(weight))).nonzero().flatten().tolist()


def read_text(path: Path, quick_gelu: bool) -> dict[str, Tensor]:
    """A text tower in open_clip's names, from a ``CLIPModel``'s folder or a whole CLIP of open_clip.

    Raises :class:`FamilyError` where its configuration says another activation than ``quick_gelu``.
    """
    if path.is_dir():
        state, config, _ = huggingface.read_folder(path)
        said = (config.get("text_config") or config).get("hidden_act", "quick_gelu")
        if said != ("quick_gelu" if quick_gelu else "gelu"):
            raise FamilyError(
                f"{path}/config.json says hidden_act {said!r} of the text tower, this family is defined with "
                f"{'quick_gelu' if quick_gelu else 'gelu'}; the heads would be others. Give the CLIP of its base."
            )
        return huggingface.text_tower(state)
    state = read_file(path).tensors
    if any(name.startswith("text_model.") for name in state):
        return huggingface.text_tower(state)
    text = {n.removeprefix("text."): v for n, v in state.items() if not n.startswith(("visual.", "text.attn_mask"))}
    if "token_embedding.weight" not in text or "logit_scale" not in text:
        raise FamilyError(f"{path} holds no text tower: no token_embedding.weight and logit_scale among its tensors")
    return text
