"""Which values a keyword may have is declared beside it, shown, and checked before anything runs."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import TinyBench

import methods
from benchmark import suites
from benchmark.cli import list as listing
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.harness import runner
from benchmark.records.spec import checked_parameters, parse_method
from methods.core import declarations, values

ROOT = Path(__file__).parents[3]


def kind(text: str, **local: str) -> Any:
    parsed = {name: ast.parse(value, mode="eval").body for name, value in local.items()}
    return values.read(ast.parse(text, mode="eval").body, parsed)


@pytest.mark.parametrize(
    "annotation, allowed, refused, text",
    [
        ("Literal['a', 'b']", ["a", "b"], ["c", None, 1, ["a"]], "a, b"),
        ("typing.Literal[1, True]", [1, True], [2, False, 1.0], "1, true"),
        ("Share", [0.5, 1, 1e-9], [0, 1.5, -1, True, "val", None], "a number in (0, 1]"),
        ("Portion", [0, 0.0, 1], [1.01, -0.1], "a number in [0, 1]"),
        ("Count", [1, 50], [0, 1.5, True, None], "a whole number in [1, inf)"),
        ("Annotated[float, '(-1, 1)'] | None", [0, None, 0.9], [1, -1, "x"], "a number in (-1, 1), or none"),
        ("Optional[int]", [1, None], [1.5, "x", True], "a whole number, or none"),
        ("NonNegative | Sequence[NonNegative]", [0, [1, 2.5], []], [-1, [-1], "x"],
         "a number in [0, inf), or a list, each a number in [0, inf)"),
        ("bool", [True, False], [0, "x", None], "true or false"),
        ("str", ["x"], [1, None], "text"),
        ("'float | None'", [1.5, None], ["x"], "a number, or none"),
        ("Annotated[float, 'at most a few']", [1e9], ["x"], "a number"),
        ("Tensor", [1, "x", None], [], ""),
        ("Tensor | float", [1, "x", None], [], ""),
        (None, [1, "x", None], [], ""),
    ],
)  # fmt: skip
def test_an_annotation_allows_what_it_says(annotation: str, allowed: list, refused: list, text: str) -> None:
    found = values.read(None) if annotation is None else kind(annotation)
    assert [value for value in allowed if not values.fits(value, found)] == []
    assert [value for value in refused if values.fits(value, found)] == []
    assert values.text(found) == text


def test_aliases_of_the_same_file_are_followed_and_none_for_ever() -> None:
    assert values.text(kind("Rule | None", Rule="Literal['x', 'y']")) == "x, y, or none"
    assert values.text(kind("A", A="B", B="A")) == ""


@pytest.mark.parametrize(
    "text, said, typed",
    [
        ("symerge:adapt=foo", "symerge: adapt=foo is not allowed; allowed: head, last_block, none", "adapt=head"),
        ("symerge:adapt=last_blok", "allowed: head, last_block, none", "symerge:adapt=last_block"),
        ("symerge:lr=fast", "lr=fast is not allowed; allowed: a number in [0, inf), or none", "symerge:lr=none"),
        ("symerge:clamp=maybe", "allowed: true or false", "symerge:clamp=true"),
        ("ties:keep=2", "keep=2.0 is not allowed; allowed: a number in (0, 1]", "ties:keep=0.2"),
        ("ties:keep=val", "allowed: a number in (0, 1]", "ties:keep=0.2"),
        ("ties:scale=foo", "allowed: a number, or val", "ties:scale=0.3"),
        ("tall_mask:mask_scale=[0.1,-1]", "a list, each a number in [0, inf), or val", "tall_mask:mask_scale=0.4"),
        ("dare:inner=dare", "allowed: the name of another method", "dare:inner=task_arithmetic"),
        ("symerge:batch_size=0", "allowed: a whole number in [1, inf)", "symerge:batch_size=32"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_the_plan_with_what_to_type(text: str, said: str, typed: str) -> None:
    with pytest.raises(UserError) as caught:
        runner.plan(TinyBench(), [text], seeds=[0])
    assert said in caught.value.message and typed in caught.value.hint
    name, given = parse_method(caught.value.hint.rpartition(" ")[2])
    assert checked_parameters(name, given), "what it says to type is allowed"


def test_an_inner_method_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(methods.MergingError, match="Did you mean symerge"):
        runner.plan(TinyBench(), ["dare:inner=symerg"], seeds=[0])


def test_values_of_a_suite_and_of_set_are_checked_too() -> None:
    with pytest.raises(UserError, match="keep=3.0 is not allowed"):
        runner.plan(TinyBench(ties={"keep": 3.0}), ["ties"], seeds=[0])
    with pytest.raises(UserError, match="merge=product is not allowed; allowed: sum, mean, max"):
        runner.plan(TinyBench(), ["ties"], seeds=[0], sets={"ties": {"merge": "product"}})


def test_none_is_the_word_where_the_annotation_lists_the_word() -> None:
    assert runner.plan(TinyBench(), ["symerge:adapt=none"], seeds=[0])[-1].spec.parameters["adapt"] == "none"
    assert runner.plan(TinyBench(), ["fisher:normalise=none"], seeds=[0])[-1].spec.parameters["normalise"] is None


def test_the_command_refuses_before_it_opens_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("the suite was opened")

    monkeypatch.setattr("benchmark.suites.open_bench", opened)
    for words in (["--methods", "symerge:adapt=foo"], ["--methods", "symerge", "--set", "symerge.adapt=foo"]):
        assert cli.main(["run", "--suite", "vision-mini-8", "--results", str(tmp_path / "out"), *words]) == 2
        assert "allowed: head, last_block, none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", methods.names())
def test_every_keyword_of_every_method_says_what_is_allowed(name: str) -> None:
    about = methods.describe(name)
    assert [key for key in about.parameters if not about.allowed_text(key)] == []
    for key, value in about.parameters.items():
        assert about.allows(key, value)


@pytest.mark.parametrize("name", methods.names())
def test_what_a_method_checks_as_it_runs_is_what_its_annotations_say(name: str) -> None:
    """Choices and fractions that a function checks itself are those that the plan checks."""
    about = methods.describe(name)
    tree = ast.parse(about.path.read_text())
    constants = {
        target.id: node.value
        for node in tree.body if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == (about.variant_of or name)
    )
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        called = getattr(call.func, "id", "")
        if called in ("choice", "fraction"):
            key = ast.literal_eval(call.args[0])
            if called == "choice":
                listed = call.args[2]
                listed = constants[listed.id] if isinstance(listed, ast.Name) else listed
                assert [v for v in about.choices(key) if v is not None] == list(ast.literal_eval(listed)), key
            else:
                assert about.allows(key, 1.0) and not about.allows(key, 1.5) and not about.allows(key, -0.5), key
                assert about.allows(key, 0.0) == bool(call.keywords), key


def test_all_that_is_committed_is_allowed() -> None:
    seen = set()
    for path in (ROOT / "results" / "reference").rglob("record.json"):
        spec = json.loads(path.read_text())["spec"]
        checked_parameters(spec["method"], spec["parameters"])
        seen.add(spec["method"])
    assert {"symerge", "ties"} <= seen
    for suite in map(suites.load, suites.names()):
        for text in suite.methods:
            name, given = parse_method(text)
            checked_parameters(name, given, suite.defaults(name, methods.describe(name).parameters))


def test_a_default_that_its_own_annotation_forbids_is_refused(tmp_path: Path) -> None:
    head = "from methods.api import Share, method\n@method(title='T', paper='P')\n"
    (tmp_path / "x.py").write_text(head + "def x(experts, *, keep: Share = 2):\n    ...\n")
    with pytest.raises(methods.MergingError, match=r"line 3: keep of x defaults to 2; its annotation allows: a number"):
        declarations.read(tmp_path / "x.py")


def test_one_method_is_listed_with_its_keywords_and_what_they_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    listing.show("symerge")
    said = capsys.readouterr().out
    for key in inspect.signature(methods.get("symerge").function).parameters:
        assert key in ("experts", "stream") or f"    {key}=" in said
    assert "adapt=head  (head, last_block, none)" in said and "top_p=0.5  (a number in (0, 1])" in said
    assert "methods/symerge.py" in said and "rounds over all tasks" in said and "labels=truth: labelled test" in said
    listing.show("model_tinting")
    row = capsys.readouterr().out
    assert "variant    of symerge:select=all,replace=true" in row and "replace=true  (true or false)" in row
    assert row.partition("  keywords")[2].count("\n") == said.partition("  keywords")[2].count("\n")
    assert cli.main(["list", "symerg"]) == 2
    assert "Did you mean symerge" in capsys.readouterr().err
