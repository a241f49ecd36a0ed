import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.common.canonical import canonical_json
from benchmark.common.errors import UserError
from benchmark.common.seeds import derive_seed
from benchmark.records.spec import (
    RunSpec,
    changed_parameters,
    format_value,
    normalise,
    parse_method,
    parse_set,
    parse_value,
    resolve_parameters,
    variant_label,
)

TIES = {"keep": 0.2, "scale": 0.3, "merge": "sum"}


def spec(**changes):
    fields = dict(
        suite="vision-mini-8",
        suite_version="1",
        backbone="ViT-mini",
        family="project",
        checkpoints={"base": "aa", "expert/mnist": "bb"},
        data={"test": {"mnist": "dd"}},
        method="ties",
        method_version="0123",
        parameters=TIES,
        seed=None,
    )
    return RunSpec(**{**fields, **changes})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def test_order_of_keys_and_tuples_do_not_change_the_canonical_text():
    assert canonical_json({"b": (1, 2), "a": 0.1}) == canonical_json({"a": 0.1, "b": [1, 2]}) == '{"a":0.1,"b":[1,2]}'
    assert canonical_json(-0.0) == canonical_json(0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {"a": [1, float("nan")]}, {1: 2}, {1, 2}, b"x", object()])
def test_what_json_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError):
        canonical_json(bad)


def test_the_run_id_is_the_same_on_every_machine():
    assert spec().run_id == "47252d17ae39c406"


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "vision-8"},
        {"suite_version": "2"},
        {"backbone": "ViT-B-32"},
        {"family": "other"},
        {"checkpoints": {"base": "aa", "expert/mnist": "cc"}},
        {"data": {"test": {"mnist": "ee"}}},
        {"data": {"test": {"mnist": "dd"}, "train": {"mnist": "ff"}}},
        {"method": "emr"},
        {"method_version": "0124"},
        {"parameters": {**TIES, "keep": 0.1}},
        {"seed": 0},
        {"dtype": "bfloat16"},
        {"autocast": "float16"},
        {"vectors": "bfloat16"},
    ],
)
def test_each_field_is_part_of_the_identity(change):
    assert spec(**change).run_id != spec().run_id


def test_a_spec_survives_json_and_cannot_be_changed():
    original = spec(parameters={**TIES, "scale": 1.0})
    again = RunSpec.model_validate_json(original.model_dump_json())
    assert again == original and again.run_id == original.run_id
    with pytest.raises(ValueError):
        original.seed = 3


def test_one_and_one_point_nought_are_one_run():
    as_int = resolve_parameters("ties", {"scale": 1}, TIES)
    as_float = resolve_parameters("ties", {"scale": 1.0}, TIES)
    assert spec(parameters=as_int).run_id == spec(parameters=as_float).run_id
    steps = {"steps": 500, "lr": None, "size": None}
    one = resolve_parameters("m", {"steps": 100.0, "lr": 1.0, "size": 2}, steps)
    two = resolve_parameters("m", {"steps": 100, "lr": 1, "size": 2.0}, steps)
    assert canonical_json(one) == canonical_json(two) and type(one["steps"]) is int


def test_defaults_written_out_are_the_same_run_as_defaults_left_out():
    assert resolve_parameters("ties", {"keep": 0.2}, TIES) == resolve_parameters("ties", {}, TIES)


@pytest.mark.parametrize(
    "value, default, wanted",
    [
        (1, 0.3, 1.0),
        (500.0, 10, 500),
        (1, False, True),
        ("val", 0.3, "val"),
        ("1e-3", 0.3, 0.001),
        (None, 0.3, None),
        ((1, 2), [0.5], [1.0, 2.0]),
        (2.0, None, 2),
        (0.5, None, 0.5),
    ],
)
def test_values_take_the_type_of_the_default(value, default, wanted):
    got = normalise(value, default)
    assert got == wanted and type(got) is type(wanted)


@pytest.mark.parametrize("given", [{"steps": 0.5}, {"trim": 2}, {"steps": True}, {"lr": False}, {"lr": float("inf")}])
def test_a_value_of_the_wrong_kind_says_what_is_wanted(given):
    with pytest.raises(UserError, match="wanted") as caught:
        resolve_parameters("adamerging", given, {"steps": 500, "trim": False, "lr": 1e-3})
    assert "Write e.g. adamerging:" in caught.value.hint


def test_an_unknown_keyword_names_the_nearest():
    with pytest.raises(UserError) as caught:
        resolve_parameters("ties", {"keeep": 0.1}, TIES)
    assert "did you mean keep?" in caught.value.message and "keep, scale, merge" in caught.value.hint


def test_seed_is_no_parameter():
    assert "seed" not in resolve_parameters("m", {}, {"steps": 1, "seed": 0})
    with pytest.raises(UserError, match="--seeds"):
        resolve_parameters("m", {"seed": 3}, {"steps": 1, "seed": 0})


def test_method_syntax():
    assert parse_method("symerge") == ("symerge", {})
    name, given = parse_method("adamerging:granularity=task,trim=true,prior=1e-1,grid=[1,2],note='a,b=c',lr=None")
    assert name == "adamerging"
    assert given == {"granularity": "task", "trim": True, "prior": 0.1, "grid": [1, 2], "note": "a,b=c", "lr": None}


@pytest.mark.parametrize("bad", ["", ":a=1", "ties:", "ties:keep", "ties:=1", "ties:keep=", "ties:1a=2", "a:b=1,,c=2"])
def test_broken_method_syntax_shows_a_right_one(bad):
    with pytest.raises(UserError) as caught:
        parse_method(bad)
    assert "--methods" in caught.value.hint


def test_a_keyword_given_twice_is_refused():
    with pytest.raises(UserError, match="twice"):
        parse_method("ties:keep=0.1,keep=0.2")


def test_set_syntax():
    assert parse_set("ties.keep=0.1") == ("ties", "keep", 0.1)
    for bad in ("ties=1", "ties.keep", ".keep=1", "ties.=1", "ties.keep="):
        with pytest.raises(UserError, match="--set"):
            parse_set(bad)


@given(plain)
def test_every_value_survives_being_written_and_parsed(value):
    assert canonical_json(parse_value(format_value(value))) == canonical_json(value)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), plain, max_size=4))
def test_every_label_can_be_typed_again(changed):
    name, given_back = parse_method(variant_label("ties", changed))
    assert name == "ties" and canonical_json(given_back) == canonical_json(changed)


def test_the_label_names_only_what_differs():
    resolved = resolve_parameters("ties", {"scale": 1, "keep": 0.2}, TIES)
    assert variant_label("ties", changed_parameters(resolved, TIES)) == "ties:scale=1.0"
    assert variant_label("ties", changed_parameters(resolve_parameters("ties", {}, TIES), TIES)) == "ties"


def test_seeds_are_derived_from_all_parts_and_fit_63_bits():
    seeds = {derive_seed("s", task, seed) for task in ("a", "b", "c") for seed in range(100)}
    assert len(seeds) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("vision-mini-8", "mnist", 0) == 2651103291176101190
