
import pytest
from hypothesis import given
from hypothesis import strategies as st

import methods
from benchmark.common.errors import UserError
from benchmark.records.spec import (
    RunSpec,
    canonical_json,
    changed_parameters,
    derive_seed,
    format_value,
    method_version,
    normalise,
    parse_method,
    parse_set,
    parse_value,
    resolve_parameters,
    variant_label,
)
from methods.core import registry

TIES = {"keep": 0.2, "scale": 0.3, "merge": "sum"}


def spec(**changes):
    fields = dict(
        suite="vision-mini-8",
        suite_version="1",
        backbone="ViT-mini",
        family="project",
        checkpoints={"base": "aa", "expert/mnist": "bb"},
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
    assert spec().run_id == "11025c4d27b2cacc"


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "vision-8"},
        {"suite_version": "2"},
        {"backbone": "ViT-B-32"},
        {"family": "other"},
        {"checkpoints": {"base": "aa", "expert/mnist": "cc"}},
        {"method": "emr"},
        {"method_version": "0124"},
        {"parameters": {**TIES, "keep": 0.1}},
        {"seed": 0},
        {"dtype": "bfloat16"},
        {"autocast": "float16"},
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
    assert "--methods adamerging:" in caught.value.hint


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


METHOD = '''"""Docs."""
from methods.api import method
from methods.helper import Box, kept
# why
LIMIT = 3
UNUSED = 4
@method(title="X")
def x(experts, *, scale=0.3):
    """More docs."""
    from . import helper
    return helper.f(experts, scale) + Box().opened(LIMIT)
@method(title="Y")
def y(experts):
    return kept(experts)
'''
HELPER = """from methods.deep import g

SHIFT = 1
def f(e, s):
    return g(s)
def kept(e):
    return e
class Box:
    def __init__(self):
        self.side = SHIFT
    def opened(self, n):
        return self.lid() + n
    def lid(self):
        return 5
    def other(self):
        return 6
    def model(self):
        return 7
"""


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "x.py").write_text(METHOD.replace("from . import helper", "from methods.helper import f")
                                 .replace("helper.f(", "f("))  # fmt: skip
    (folder / "api.py").write_text("def method(**k):\n    return lambda f: f\n")
    (folder / "helper.py").write_text(HELPER)
    (folder / "deep.py").write_text("def g(s):\n    return s\ndef far(s):\n    return 2\n")
    (folder / "unrelated.py").write_text("Y = 1\n")
    return folder


def changed(package, file, old, new):
    """Whether the version of ``x`` differs once ``old`` is ``new`` in the file."""
    before = method_version(package / "x.py", "x")
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new))
    return method_version(package / "x.py", "x") != before


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("x.py", "Docs.", "Other."),
        ("x.py", "# why", "\n\n# because"),
        ("x.py", "0.3)", " 0.3 ,)"),
        ("x.py", '    """More docs."""\n', ""),
        ("unrelated.py", "1", "2"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_a_version(package, file, old, new):
    assert not changed(package, file, old, new)


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("x.py", "0.3", "0.4"),
        ("x.py", "LIMIT = 3", "LIMIT = 4"),
        ("deep.py", "return s", "return -s"),
        ("api.py", "lambda f: f", "lambda f: None"),
        ("helper.py", "g(s)", "g(s + 1)"),
        ("helper.py", "SHIFT = 1", "SHIFT = 2"),
        ("helper.py", "return self.lid()", "return 2 * self.lid()"),
        ("helper.py", "return 5", "return 50"),
        ("helper.py", "return 7", "return 70"),
        ("helper.py", "class Box:", "print(1)\nclass Box:"),
    ],
)
def test_all_code_that_a_method_reaches_changes_its_version(package, file, old, new):
    assert changed(package, file, old, new)


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("x.py", "UNUSED = 4", "UNUSED = 5"),
        ("x.py", "return kept(experts)", "return -kept(experts)"),
        ("deep.py", "return 2", "return 3"),
        ("helper.py", "return e", "return -e"),
        ("helper.py", "return 6", "return 60"),
    ],
)
def test_code_that_a_method_does_not_reach_leaves_its_version(package, file, old, new):
    assert not changed(package, file, old, new)


def test_a_module_imported_whole_counts_whole(package):
    (package / "x.py").write_text(METHOD)
    assert changed(package, "helper.py", "return e", "return -e")


def test_a_class_that_inherits_from_elsewhere_counts_whole(package):
    (package / "helper.py").write_text(HELPER.replace("class Box:", "class Box(dict):"))
    assert changed(package, "helper.py", "return 6", "return 60")


def test_definitions_reached_by_a_string_count_when_given(package):
    alone = method_version(package / "x.py", "x")
    assert method_version(package / "x.py", "x", [(package / "unrelated.py", "Y")]) != alone
    with pytest.raises(ValueError, match="unrelated.py defines no Z"):
        method_version(package / "x.py", "x", [(package / "unrelated.py", "Z")])


def test_the_version_does_not_depend_on_the_interpreter(package):
    (package / "x.py").write_text(METHOD + '\nY = u"a" f"b{1 + 2}c"\ndef z(a: int, /, *b):\n    return a\n')
    assert method_version(package / "x.py") == "c8b2c57a7cbfc217"


@pytest.mark.parametrize(
    "text",
    [
        "import methods.helper\ndef x(e):\n    return methods.helper.f(e, 1)\n",
        "import methods.deep\nimport methods.helper\ndef x(e):\n    return methods.helper.f(e, methods.deep.g(1))\n",
    ],
)
def test_a_module_named_with_its_package_is_followed(package, text):
    (package / "x.py").write_text(text)
    assert changed(package, "helper.py", "SHIFT = 1", "SHIFT = 2")


@pytest.mark.parametrize(
    "helper, old, new",
    [
        ("T = {'a': 1}\nT['b'] = 2\ndef f(e):\n    return T\n", "'a': 1", "'a': 3"),
        ("import functools\ndef f(e):\n    return 1\nf = functools.cache(f)\n", "return 1", "return 2"),
        ("def f(e):\n    return f.note\nf.note = 1\n", "return f.note", "return -f.note"),
        ("class C:\n    a = 1\nG = C()\nG.b = 2\ndef f(e):\n    return G\n", "G = C()", "G = C"),
        ("def g(e):\n    return 1\ndef f(e):\n    return globals()['g'](e)\n", "return 1", "return 2"),
        ("class B:\n    def go(self):\n        return 1\ndef f(e):\n    return getattr(B(), 'go')()\n", "return 1",
         "return 2"),
    ],
)  # fmt: skip
def test_definitions_that_later_statements_build_on_count_all(package, helper, old, new):
    (package / "x.py").write_text("from methods.second import f\ndef x(e):\n    return f(e)\n")
    (package / "second.py").write_text(helper)
    assert changed(package, "second.py", old, new)


def test_a_declaration_that_the_import_changes_is_refused(monkeypatch):
    found = methods.get("ties")
    monkeypatch.setattr(found, "access", methods.core.registry.Access(test="labelled"))
    with pytest.raises(registry.MergingError, match="access of ties is .* once imported"):
        methods.get("ties")
