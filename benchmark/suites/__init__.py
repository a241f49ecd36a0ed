"""What is measured: one YAML per suite, one module per domain. Importing this imports no torch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.common.errors import UserError, shown, unknown
from benchmark.common.files import read_regular
from benchmark.common.paths import resolved
from benchmark.suites import own as owned

if TYPE_CHECKING:
    import torch

    from benchmark.suites.bench import Bench

FOLDER = Path(__file__).parent
BUDGETS = FOLDER / "budgets"

_Named = TypeVar("_Named", bound=BaseModel)


class Predicted(BaseModel):
    """The published table that a suite's ranking is held against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = Field(description="the published suite")
    backbone: str = Field(description="its backbone there")
    families: list[str] = Field(
        description="whose experts' tables count, in this order, each by itself; empty: sources that do not say, each "
        "source by itself"
    )
    task: str = Field(default="", description="the one task that is compared, where no mean over tasks is printed")
    ceiling: str | None = Field(default=None, description="another backbone, whose table shows how well any can do")
    chosen_on: list[str] = Field(default_factory=list, description="rows the suite was chosen by, left out here")


class Suite(BaseModel):
    """Tasks and protocol of one suite, as its YAML says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="name, e.g. vision-mini-8; equals the file's")
    version: int = Field(description="raised when a change makes older numbers incomparable")
    title: str = Field(description="one line for lists and boards")
    domain: Literal["vision", "dense", "text"] = Field(description="the module that loads it")
    scale: Literal["mini", "small", "full", "own"] = Field(description="numbers of two scales never share a table")
    tasks: list[str] = Field(description="task names, in the suite's order")
    backbones: list[str] = Field(description="backbones it is defined for; the first is the default")
    families: list[str] = Field(description="checkpoint families it is defined for; the first is the default")
    batch_size: int = Field(default=256, description="samples per evaluation batch (no part of a run's identity)")
    methods: list[str] = Field(description="what is run when no --methods are given")
    budget: str | None = Field(default=None, description="file of suites/budgets/: defaults that suites share")
    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="keyword defaults for the suite's size, by method"
    )
    batchnorm: Literal["reestimate", "merge"] | None = Field(
        default=None,
        description="running statistics of batch normalisations: estimated again on unlabelled training images after "
        "merging, for every method alike, or merged as if they were weights; None where the backbone has none",
    )
    batchnorm_images: int = Field(default=600, gt=0, description="training images for that estimate")
    shared_samples: bool = Field(
        default=False, description="whether all tasks are measured on the same samples, in the same order"
    )
    average_percents: bool = Field(
        default=False, description="whether unlike metrics are averaged, all being percents with higher better"
    )
    bystanders: dict[str, str] = Field(
        default_factory=dict,
        description="what is measured of every merge beside the tasks, in no mean and no rank: its name, and what a "
        "board says of it. Which data it is measured on, and how, the domain knows by that name",
    )
    predicts: Predicted | None = Field(default=None, description="what its ranking is held against")
    notes: str = Field(default="", description="what a board says of the protocol, e.g. the budget of images")
    own: owned.Own | None = Field(default=None, description="of a user's own suite, what its file says")
    file: Path | None = Field(default=None, description="of a user's own suite, that file")

    @property
    def embedded(self) -> bool:
        """Whether its data and checkpoints are the project's own files instead of the user's."""
        return self.scale in ("mini", "small")

    @property
    def typed(self) -> str:
        """What a user types to name it."""
        return shown(self.file) if self.file else self.name

    @property
    def identity(self) -> str:
        """The version, and what of the protocol is set apart from the tasks: a run's identity holds it."""
        if self.own is not None:
            return f"{self.version};yaml={self.own.digest}"
        if self.batchnorm is None:
            return str(self.version)
        images = f":{self.batchnorm_images}" if self.batchnorm == "reestimate" else ""
        return f"{self.version};batchnorm={self.batchnorm}{images}"

    def defaults(self, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword defaults of a method on this suite: its own, overridden where the YAML does."""
        shared = budget(self.budget) if self.budget else {}
        changes = {**shared.get(method, {}), **self.overrides.get(method, {})}
        for key in changes:
            if key not in parameters:
                place = self.typed if self.file else f"suites/{self.name}.yaml"
                raise unknown(f"keyword of {method} in {place}", key, parameters)
        return {**parameters, **changes}


@functools.lru_cache(maxsize=8)
def budget(name: str) -> dict[str, dict[str, Any]]:
    """The keyword defaults by method in ``suites/budgets/NAME.yaml``. Raises :class:`UserError` for an unknown name."""
    names = sorted(path.stem for path in BUDGETS.glob("*.yaml"))
    if name not in names:
        raise unknown("budget", name, names)
    blocks: dict[str, dict[str, Any]] = yaml.safe_load(read_regular(BUDGETS / f"{name}.yaml"))
    return blocks


def names() -> list[str]:
    """The names of all suites, by number of tasks within a kind."""
    return sorted((p.stem for p in FOLDER.glob("*.yaml")), key=lambda n: (n.rstrip("0123456789"), len(n), n))


def load(name: str) -> Suite:
    """The suite of this name, or of a user's own file.

    Raises :class:`UserError` for an unknown one (nearest named) or an invalid file.
    """
    if owned.is_file(name):
        return _own(resolved(name))
    if owned.is_own(name):
        raise UserError(f"{name} is a suite of a user's own, which goes by its file", "Type --suite FILE.yaml")
    return _listed(name)


@functools.lru_cache(maxsize=32)
def _listed(name: str) -> Suite:
    return read_named(Suite, "suite", FOLDER, name, names(), example="vision-mini-8")


def _own(file: Path) -> Suite:
    content = owned.read(file)
    return Suite(
        name=owned.MARK + content.name,
        version=1,
        title=content.title or content.name,
        domain="vision",
        scale="own",
        tasks=list(content.tasks),
        backbones=[content.backbone],
        families=["own"],
        batch_size=content.batch_size,
        methods=content.methods or owned.default_methods(),
        overrides=content.overrides,
        notes=content.notes,
        own=content,
        file=file,
    )


def read_named(
    model: type[_Named], kind: str, folder: Path, name: str, known: Sequence[str], *, example: str
) -> _Named:
    """``folder/NAME.yaml`` as ``model``, whose field ``name`` must equal the file's.

    Raises :class:`UserError` for a name that is not ``known`` (nearest named) or an invalid file (compare ``example``).
    """
    if name not in known:
        raise unknown(kind, name, known)
    path = folder / f"{name}.yaml"
    where = f"{folder.parent.name}/{folder.name}/{path.name}"
    try:
        content = model.model_validate(yaml.safe_load(read_regular(path)))
    except (yaml.YAMLError, ValidationError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is no valid {kind}: {error}", f"Compare it with {example}.yaml") from None
    if (own_name := getattr(content, "name", None)) != name:
        raise UserError(f"{where} says name: {own_name}", f"Write name: {name}")
    return content


def chosen(suite: Suite, backbone: str | None, family: str | None) -> tuple[str, str]:
    """Backbone and family, those of the suite by default. Raises :class:`UserError` for what it is not defined for."""
    backbone, family = backbone or suite.backbones[0], family or suite.families[0]
    if backbone not in suite.backbones:
        raise unknown(f"backbone of {suite.name}", backbone, suite.backbones)
    if family not in suite.families:
        raise unknown(f"family of {suite.name}", family, suite.families)
    return backbone, family


def open_bench(
    suite: Suite,
    *,
    backbone: str | None = None,
    family: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    data_root: Path | None = None,
    checkpoints: Path | None = None,
    limit: int | None = None,
) -> Bench:
    """Experts, data and metrics of a suite.

    Raises :class:`UserError` for a backbone or family it lacks, and where checkpoints or data are missing or not what
    they should be.

    Args:
        data_root: folder of a full suite's data sets, where the domain reads them from one.
        checkpoints: folder of a full suite's checkpoint families.
        limit: of a trial: at most so many samples of a task in every split.
    """
    backbone, family = chosen(suite, backbone, family)
    domain = importlib.import_module(f"benchmark.domains.{suite.domain}.bench")
    folders = {"data_root": data_root, "checkpoints": checkpoints}
    roots = {name: folder for name, folder in folders.items() if folder is not None}
    if roots and suite.scale != "full":
        where = "says itself where its files are" if suite.own else "is embedded"
        raise UserError(
            f"{suite.typed} {where}: --{' and --'.join(n.replace('_', '-') for n in roots)} change nothing there",
            "Leave them out, or name a full suite: " + ", ".join(n for n in names() if not load(n).embedded),
        )
    bench: Bench = domain.bench_class(suite).of_names(suite, backbone, family, device, dtype, **roots)
    bench.limit = limit
    return bench
