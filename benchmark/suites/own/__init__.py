"""A suite of the user's own: what its YAML may say, and errors of one line that name file and key. No torch.

docs/own-suite.md documents it. Paths are relative to the YAML's folder, and decide nothing: a run's identity holds the
hashes of what stands there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from benchmark.common.canonical import canonical_json
from benchmark.common.errors import UserError, nearest, shown
from benchmark.common.files import read_object, read_regular
from benchmark.common.paths import resolved

DEFAULTS = Path(__file__).with_name("defaults.yaml")
#: What stands before the names of own suites in records: none of the project's has it.
MARK = "own:"
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}"
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def is_file(word: str) -> bool:
    """Whether a word names a suite's file and not a suite: it ends as YAML does, or holds a separator."""
    return word.lower().endswith((".yaml", ".yml")) or "/" in word


def is_own(name: str) -> bool:
    """Whether this is the name, as records have it, of a suite of a user's own."""
    return name.startswith(MARK)


def _path(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("a path is wanted")
    try:
        return resolved(Path((info.context or {}).get("folder", ".")) / Path(value).expanduser())
    except (UserError, RuntimeError) as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _text_of(value: Any) -> Any:
    # YAML reads 0, 1.0 and yes as other things than names.
    return value if isinstance(value, str) or not isinstance(value, (bool, int, float)) else str(value).lower()


def _as_key(key: str) -> BeforeValidator:
    """A text in the place of a mapping stands for one of its keys."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _head(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return {"file" if value.lower().endswith(WEIGHTS) or "/" in value else "tensors": value}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Place = Annotated[Path, BeforeValidator(_path)]
Word = Annotated[str, BeforeValidator(_text_of)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Splits(_Part):
    """Which share of the images is which split, where the data do not say."""

    test: Share = Field(default=0.2, description="of all images, where there is no split at all")
    val: Share = Field(default=0.1, description="of the images that are not for testing, where there is no val")
    seed: int = Field(default=0, ge=0, description="another one draws other images")


class Pixels(_Part):
    """How pictures are made ready; what is left out is as the model's own processor says."""

    size: Annotated[int, Field(gt=0, le=4096)] | Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="height and width that the encoder takes, or one number for both"
    )
    resize: Annotated[int, Field(gt=0, le=8192)] | None = Field(
        default=None, description="the shorter side before the crop to size"
    )
    crop: bool | None = Field(default=None, description="false: brought to size without regard to the ratio")
    mean: list[float] | None = Field(default=None, description="three numbers, of values from 0 to 1")
    std: list[float] | None = Field(default=None, description="three numbers")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = Field(
        default=None, description="of resizing"
    )


class Head(_Part):
    """What makes predictions of features: one of `tensors`, `file` and `text`."""

    tensors: str | None = Field(
        default=None, description="of the expert's own checkpoint: what stands before .weight and .bias"
    )
    file: Place | None = Field(default=None, description="a file with weight [classes, features] and bias")
    text: Place | None = Field(
        default=None, description="a CLIP, whose text tower makes it of the names of the classes"
    )
    templates: list[str] = Field(
        default=["a photo of a {}."], min_length=1, description="with text: prompts, each with one {} for the class"
    )
    words: dict[Word, str] = Field(
        default_factory=dict, description="with text: what prompts call a class, by its name"
    )
    normalise: bool | None = Field(
        default=None, description="features to length one before the head; default: with text alone"
    )

    @model_validator(mode="after")
    def _one(self) -> Head:
        given = [key for key in ("tensors", "file", "text") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if wrong := [text for text in self.templates if text.count("{}") != 1]:
            raise ValueError(f"the template {wrong[0]!r} has no {{}}, or several, for the class")
        return self


class Data(_Part):
    """Where images and labels lie: one place, or one a split."""

    path: Place | None = Field(
        default=None,
        description="a folder of class folders, or of train, val and test with these; a CSV; a parquet file; a folder "
        "with the hub's files",
    )
    train: Place | None = Field(default=None, description="the same of one split")
    val: Place | None = Field(default=None, description="likewise")
    test: Place | None = Field(default=None, description="likewise")

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if (self.path is None) == (self.test is None):
            raise ValueError("either path, or test (and train, val) is wanted")
        if self.path is not None and (self.train or self.val):
            raise ValueError("path and train or val exclude each other")
        return self


class Task(_Part):
    """One task: the expert, its head, its images."""

    expert: Place = Field(description="the fine-tuned checkpoint: a file, or a model's folder")
    data: Annotated[Data, _as_key("path")] = Field(description="see Data")
    head: Annotated[Head, BeforeValidator(_head)] | None = Field(
        default=None, description="in the place of the suite's"
    )
    classes: list[Word] | None = Field(
        default=None, min_length=2, description="the head's classes in its order, where nothing beside it says them"
    )
    absent: list[Word] = Field(default_factory=list, description="classes of the head of which there are no images")
    image: str | None = Field(default=None, description="the column of images or their paths")
    label: str | None = Field(default=None, description="the column of labels")
    split: str | None = Field(default=None, description="the column of splits")
    splits: Splits | None = Field(default=None, description="in the place of the suite's")


class Own(_Part):
    """The YAML of a suite of the user's own."""

    name: str = Field(pattern=f"^{NAME}$", description="what boards call it, after own:")
    title: str = Field(default="", max_length=200, description="one line for lists")
    base: Place = Field(description="the checkpoint that the experts were fine-tuned from: a file, or a model's folder")
    encoder: str | None = Field(
        default=None, description="LIBRARY/NAME, where no configuration lies beside the base, e.g. open_clip/ViT-B-32"
    )
    features: Literal["pooled", "cls", "mean", "projected"] | None = Field(
        default=None, description="of a transformers model: what heads take, where it is not what its classifier does"
    )
    preprocessing: Pixels = Field(default_factory=Pixels, description="see Pixels")
    head: Annotated[Head, BeforeValidator(_head)] = Field(default_factory=Head, description="of every task; see Head")
    splits: Splits = Field(default_factory=Splits, description="of every task; see Splits")
    tasks: dict[Annotated[str, Field(pattern=f"^{NAME}$")], Task] = Field(min_length=1, description="by name; see Task")
    batch_size: int = Field(default=128, gt=0, le=100_000, description="of the evaluation; decides no number")
    methods: list[str] | None = Field(default=None, min_length=1, description="what is run without --methods")
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, description="keywords of methods, by method")
    notes: str = Field(default="", max_length=2000, description="what boards say of it")

    def head_of(self, task: str) -> Head:
        """The task's own, or the suite's."""
        return self.tasks[task].head or self.head

    def splits_of(self, task: str) -> Splits:
        """The task's own, or the suite's."""
        return self.tasks[task].splits or self.splits

    @property
    def digest(self) -> str:
        """Of what decides a number and has no hash of its own: all but paths, and texts for people."""
        content = self.model_dump(mode="json")
        for key in ("name", "title", "base", "batch_size", "methods", "overrides", "notes", "head", "splits"):
            del content[key]
        for name, task in content["tasks"].items():
            head = self.head_of(name).model_dump(mode="json")
            kind = [key for key in ("file", "text") if head.pop(key) is not None]
            given = [key for key, place in task.pop("data").items() if place is not None]
            del task["expert"]
            splits = self.splits_of(name).model_dump(mode="json")
            content["tasks"][name] = {**task, "head": [head, kind], "splits": splits, "data": given}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]

    @property
    def backbone(self) -> str:
        """How boards call the encoder: its name, or what the base's configuration calls itself."""
        if self.encoder and "/" in self.encoder:
            return self.encoder.partition("/")[2].replace("/", "-")
        try:
            content = read_object(self.base / "config.json")
        except (OSError, ValueError):
            content = {}
        for key in ("architectures", "architecture", "model_type"):
            value = content.get(key)
            if said := value[0] if isinstance(value, list) and value else value:
                return str(said)
        return self.base.stem or "encoder"


#: The part of a YAML that stands at a place of it; keys of mappings by users' names are left out.
_PARTS: dict[tuple[str, ...], type[_Part]] = {
    (): Own, ("preprocessing",): Pixels, ("head",): Head, ("splits",): Splits, ("tasks",): Task,
    ("tasks", "head"): Head, ("tasks", "splits"): Splits, ("tasks", "data"): Data,
}  # fmt: skip


class _Once(yaml.SafeLoader):
    """A YAML in which a key that stands twice is an error: the second one would silently be all that counts."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping. Raises :class:`yaml.constructor.ConstructorError` for a key that is there already."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(path: Path) -> Own:
    """The suite in a YAML. Raises :class:`UserError`, in one line, which names file and key, and what to type."""
    place, example = shown(path), "docs/own-suite.md has every key, and an example to begin with."
    try:
        content = yaml.load(read_regular(path, 1 << 20), Loader=_Once)
    except FileNotFoundError:
        raise UserError(f"there is no {place}", f"Type the path of the suite's YAML. {example}") from None
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}", f"Type the path of a YAML. {example}") from None
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{place}{at}: no YAML: {said}", example) from None
    if not isinstance(content, Mapping):
        raise UserError(f"{place} holds no keys and values", example)
    try:
        return Own.model_validate(content, context={"folder": path.parent})
    except ValidationError as error:
        raise UserError(*_mistake(place, error)) from None


def _mistake(place: str, error: ValidationError) -> tuple[str, str]:
    """The first thing that is wrong, unknown keys before what is missing, and what to type."""
    wrong = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    each = wrong[0]
    where = [str(part) for part in each["loc"] if part != "[key]"]
    key = ".".join(where)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    known = list(_part_at(where[:-1]).model_fields)
    if each["type"] == "extra_forbidden":
        near = nearest(where[-1], known, count=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        return f"{place}: unknown key {key}{guess}{more}", f"known: {', '.join(known)}"
    if each["type"] == "missing":
        about = _part_at(where[:-1]).model_fields.get(where[-1])
        return f"{place} lacks {key}{more}", f"Write {where[-1]}: {about.description if about else '...'}"
    said = each["msg"].removeprefix("Value error, ")
    if each["type"] == "string_pattern_mismatch":
        said = "a name of letters, digits and . _ + - is wanted, no longer than 60"
    value = each.get("input")
    seen = "" if isinstance(value, (Mapping, list)) else f" (it is {str(value)[:60]!r})"
    return (
        f"{place}: {key or 'it'}: {said}{seen}{more}",
        "docs/own-suite.md has every key, and an example to begin with.",
    )


def _part_at(where: list[str]) -> type[_Part]:
    keys = tuple(part for place, part in enumerate(where) if not (place == 1 and where[0] == "tasks"))
    return next((_PARTS[keys[:size]] for size in range(len(keys), -1, -1) if keys[:size] in _PARTS), Own)


def default_methods() -> list[str]:
    """What an own suite runs that names none."""
    listed: list[str] = yaml.safe_load(read_regular(DEFAULTS))["methods"]
    return listed
