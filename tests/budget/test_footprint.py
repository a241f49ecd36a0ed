"""Estimates come from what methods declare: of the registered ones as before, of one nobody knows as it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.budgets import SETTINGS, SHAPES, cases, label
from helpers.tiny import TinyBench

import methods
from benchmark.budget import estimate
from benchmark.budget.estimate import Setting
from benchmark.harness import runner
from benchmark.records.precision import Precision
from methods.core import registry
from methods.core.discovery import discover
from methods.core.footprint import Footprint

BEFORE = json.loads(Path(__file__).with_name("estimates.json").read_text(encoding="utf-8"))
CPU, GPU = SETTINGS["eight on a CPU"], SETTINGS["twenty on a GPU"]
M = SHAPES.bytes
#: Of the device, what the sources of methods do not show: the encoder on which the harness judges merges.
JUDGING = M
#: What was not seen in their sources: AWD's redundant vector and the passes for it; that ZipIt's result is stored. MASS
#: keeps more of its merges since.
MENDED = {"mass": {"device", "host"}, "awd": {"device", "traffic"}, "zipit": {"host", "disk"}}
#: What a method does without since: most of the products of Adam's steps, decompositions of whole matrices.
SPARED = {"wudi": {"operations"}, "optmerge": {"operations"}, "knots": {"operations"}}
#: What hangs on how many copies of a tensor a merge makes, which was measured since (test_copies.py).
MEASURED = ("device", "host")
HEAD = "from methods.api import LABELLED, UNLABELLED, Access, Footprint, MethodName, method\n"


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Adds methods to the registry from source, in a folder of their own."""

    def add(*declared: str) -> None:
        (tmp_path / "strange.py").write_text(HEAD + "\n".join(declared))
        found, known = discover(tmp_path), registry._files()
        assert not found.broken, found.broken
        both = replace(known, methods={**known.methods, **found.methods})
        monkeypatch.setattr(registry, "_files", lambda: both)

    return add


def copies(name: str, parameters: dict, setting: Setting) -> float:
    """Bytes of the copies of the largest tensor that were measured since, beyond three and one a task."""
    pairs = [part.footprint.tensor for part in estimate.parts(name, parameters)]
    more = [abs(a + b * setting.tasks - 3 - setting.tasks) for a, b in pairs]
    return 4.0 * max(more) * setting.shapes.largest


#: Of methods that came since, nothing else ever told.
KNOWN = [case for case in cases() if label(*case) in BEFORE]


@pytest.mark.parametrize("name, parameters", KNOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_declared_footprints_give_the_estimates_that_reading_the_sources_gave(name, parameters) -> None:
    before = BEFORE[label(name, parameters)]
    assert methods.describe(name).holds_vectors(parameters) == before["holds vectors"]
    for place, setting in SETTINGS.items():
        need = estimate.need(name, parameters, setting)
        work = estimate.operations(name, parameters, setting), estimate.traffic(name, parameters, setting)
        now = dict(
            zip(
                ("device", "host", "disk", "operations", "traffic"),
                zip((max(0, need.device - JUDGING), need.host, need.disk, *work), before[place], strict=True),
                strict=True,
            )
        )
        for what, (value, was) in now.items():
            if what in MENDED.get(name, ()):
                assert value >= was * (1 - 1e-5), (place, what)
            elif what in SPARED.get(name, ()):
                assert value < was, (place, what)
            elif what in MEASURED:
                assert abs(value - was) <= copies(name, parameters, setting) + 1e-3 * was, (place, what)
            else:
                assert value == pytest.approx(was, rel=1e-3), (place, what)


def test_a_method_nobody_knows_is_estimated_by_its_declaration_alone(declare) -> None:
    declare(
        "@method(title='T', paper='P', access=Access(test=UNLABELLED), footprint=Footprint(",
        "    vectors=True, teacher=True, merges=(0, 1), steps='updates', batch='images', batches=1))",
        "def strange(experts, stream, *, updates=500, images=32): ...",
        "@method(title='T', paper='P', access=Access(val=LABELLED), footprint=Footprint(",
        "    passes=5, statistics='grams', examples='shots', holds=(1, 2), masks=True, keeps=(0, 1), serves=(2, 0)))",
        "def stranger(experts, stream, *, shots=10): ...",
        "@method(title='T', paper='P')",
        "def plain(experts): ...",
    )
    # The vocabulary of the best known method under other words: the same numbers, and a batch by its own keyword.
    known = {**methods.describe("symerge").parameters, "steps": 500, "batch_size": 32}
    unknown = {"updates": 500, "images": 32}
    for setting in SETTINGS.values():
        assert estimate.need("strange", unknown, setting) == estimate.need("symerge", known, setting)
        for work in (estimate.operations, estimate.traffic):
            assert work("strange", unknown, setting) == work("symerge", known, setting)
    assert methods.describe("strange").holds_vectors({})
    tight = estimate.Machine(device=0, host=7.25e9, disk=1e12, cache=1e12)
    assert any("--set strange.images=16 " in text for text in estimate.remedies("strange", unknown, CPU, tight))
    # By hand: two models a task and one; eight kept with their masks; ten passes forward a task beside the test's.
    parts = estimate.phases("stranger", {"shots": 10}, CPU)
    assert parts["whole models"] == 17 * M and parts["masks"] == pytest.approx(8.25 * M + 44 * SHAPES.largest)
    assert parts["evaluation"] == 2 * M + 16 * SHAPES.forward and "adaptation" not in parts
    assert estimate.need("stranger", {"shots": 10}, CPU).disk == 8.25 * M + 2**20 * 8
    assert estimate.operations("stranger", {"shots": 10}, CPU) == (87_000 + 10 * 8) * SHAPES.flops
    assert estimate.traffic("stranger", {"shots": 10}, CPU) == 6 * 9 * M
    assert estimate.need("plain", {}, CPU) == estimate.need("task_arithmetic", {"scale": 0.3}, CPU)


def test_a_method_on_top_of_another_takes_what_both_take(declare) -> None:
    declare(
        "@method(title='T', paper='P', footprint=Footprint(passes=1, holds=(3, 0), decompositions=(0, 2)))",
        "def above(experts, stream=None, *, inner: MethodName = 'task_arithmetic'): ...",
        "@method(title='T', paper='P', footprint=Footprint(vectors=True), access=Access(test=UNLABELLED))",
        "def below(experts, stream, *, steps=10, batch_size=8): ...",
    )
    alone, inner = estimate.phases("above", {}, CPU), estimate.phases("below", {}, CPU)
    both = estimate.phases("above", {"inner": "below"}, CPU)
    assert both == {phase: max(alone.get(phase, 0), inner.get(phase, 0)) for phase in {*alone, *inner}}
    assert both["adaptation"] == 11 * M + 8 * SHAPES.training and both["whole models"] == 3 * M
    assert estimate.traffic("above", {"inner": "below"}, CPU) == estimate.traffic("below", {}, CPU) + 9 * M
    cubes = sum(a * b * min(a, b) for a, b in SHAPES.matrices)
    more = estimate.operations("above", {"inner": "below"}, CPU) - estimate.operations("below", {}, CPU)
    assert more == pytest.approx(10 * 16 * cubes)
    assert methods.describe("above").holds_vectors({"inner": "below"})
    assert not methods.describe("above").holds_vectors({})
    # SyMerge under LiNeS adapts as it does alone.
    assert estimate.phases("lines", {"inner": "symerge"}, GPU).items() >= estimate.phases("symerge", {}, GPU).items()


def test_a_run_keeps_the_type_of_its_vectors_where_its_method_declares_to_hold_them(
    declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "present_version", lambda *_: "0" * 16)
    declare(
        "@method(title='T', paper='P', access=Access(test=UNLABELLED), footprint=Footprint(vectors=True))",
        "def strange(experts, stream, *, steps=1): ...",
        "@method(title='T', paper='P', access=Access(test=UNLABELLED))",
        "def plain(experts, stream, *, steps=1): ...",
    )
    runs = runner.plan(TinyBench(), ["strange", "plain"], seeds=[0], precision=Precision(vectors="bfloat16"))
    held = {run.spec.method: run.spec.vectors for run in runs}
    assert held["strange"] == "bfloat16" and held["plain"] == "float32"


def test_what_only_adapting_takes_is_not_counted_without_data() -> None:
    fixed, learned = ({**methods.describe("doge").parameters, "coefficients": c} for c in ("fixed", "adamerging"))
    assert "adaptation" not in estimate.phases("doge", fixed, CPU)
    adapting = estimate.phases("doge", learned, CPU)["adaptation"]
    assert adapting == estimate.phases("adamerging", dict(methods.describe("adamerging").parameters), CPU)["adaptation"]
    assert Footprint(steps=500).count("steps", {}) == 500 and Footprint().count("steps", {}) is None
