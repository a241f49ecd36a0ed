"""A method's version follows the maths alone: what changes it, and what does not, on the real sources."""

import ast
from pathlib import Path

import pytest
import yaml
from helpers import sources
from helpers.sources import CHOSEN, Package

import methods
from benchmark.records.method_version import method_version, numbered, reached
from benchmark.records.method_version.reach import Reach


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return Package(tmp_path_factory.mktemp("before")).versions()


def test_a_version_is_the_same_wherever_the_checkout_lies(before):
    assert {name: method_version(methods.describe(name).path, name) for name in CHOSEN[:-1]} == {
        name: version for name, version in before.items() if name != "surgery"
    }
    assert len(set(before.values())) == len(before)


# What leaves a version


@pytest.mark.parametrize(
    "change",
    [
        sources.without_docstrings,
        sources.without_annotations,
        sources.with_other_errors,
        sources.reordered,
        sources.with_other_variables,
        lambda tree: tree,
    ],
    ids=["docstrings", "annotations", "errors", "order of definitions", "variables", "layout and comments"],
)
def test_what_no_number_depends_on_leaves_every_version(package, before, change):
    package.rewrite(change)
    assert package.versions() == before


@pytest.mark.parametrize(
    "old, new",
    [
        ("order_statistic", "kth_entry"),
        ("_last_blocks", "blocks_of_experts"),
        ("_BINS", "_HISTOGRAM"),
        ("LayerwiseMerge", "Coefficients"),
        ("Correction", "LowRankCorrection"),
        ("task_vectors", "differences_from_base"),
        ("copy_head", "trainable_head"),
        ("_checked", "_finite_already"),
        ("magnitude", "absolute"),
        ("base_tensor", "tensor_of_base"),
    ],
    ids=["function", "private function", "constant", "class", "module", "method", "another method", "attribute",
         "keyword of helpers", "method with overloads"],
)  # fmt: skip
def test_another_name_leaves_every_version(package, before, old, new):
    package.rename(old, new)
    assert package.versions() == before


@pytest.mark.parametrize(
    "file, to",
    [
        ("tools/coefficients.py", "lambdas.py"),
        ("tools/spectral.py", "core/spectra.py"),
        ("core/experts.py", "experts.py"),
    ],
)
def test_a_moved_file_leaves_every_version(package, before, file, to):
    package.move(file, to)
    assert package.versions() == before


def test_a_whole_new_house_leaves_every_version(package, before):
    for name in ("experts", "merged", "stream", "states", "registry", "blocks"):
        package.move(f"core/{name}.py", f"{name}.py")
    for name in ("vectors", "coefficients", "adaptation", "activations", "losses", "masks", "spectral"):
        package.move(f"tools/{name}.py", f"arithmetic/{name}.py")
    assert package.versions() == before


@pytest.mark.parametrize(
    "name, file", [("thresholds", "tools/vectors.py"), ("polar", "tools/spectral.py"), ("adapt", "tools/adaptation.py")]
)
def test_a_helper_in_another_module_leaves_every_version(package, before, name, file):
    package.move_definition(name, file, "tools/shared.py")
    assert package.versions() == before


def test_title_and_paper_are_no_maths(package, before):
    package.replace("ties.py", 'title="TIES-Merging"', 'title="Other"')
    package.replace("ties.py", 'paper="arXiv:2306.01708"', 'paper="arXiv:1"')
    assert package.version("ties") == before["ties"]


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("ties.py", "grids={", "footprint={'passes': 2}, grids={"),
        ("tools/vectors.py", '"""Sum over tasks in float64', '"""The total, in float64'),
        ("core/stream.py", "        if replace:\n            return self._fresh()",
         "        import warnings\n        warnings.warn('?')\n        if replace:\n            return self._fresh()"),
        ("core/experts.py", "assert self.encoder is not None", "assert self.encoder is not None, 'no encoder'"),
    ],
)  # fmt: skip
def test_declarations_and_warnings_are_no_maths(package, before, file, old, new):
    package.replace(file, old, new)
    assert package.versions() == before


# What changes it


@pytest.mark.parametrize(
    "name, file, old, new",
    [
        ("ties", "ties.py", "keep: Share = 0.2", "keep: Share = 0.25"),
        ("ties", "ties.py", "vector.mul_(scale).add_(experts.base_tensor(n))",
         "vector.add_(experts.base_tensor(n)).mul_(scale)"),
        ("ties", "ties.py", '"sum": disjoint_sum, "mean": disjoint_mean', '"sum": disjoint_mean, "mean": disjoint_sum'),
        ("ties", "ties.py", "vectors.abs().amax(0)", "vectors.abs().amin(0)"),
        ("ties", "ties.py", "(0.05, 1.0, 20)", "(0.05, 1.0, 21)"),
        ("ties", "tools/vectors.py", "vectors.abs() < limit", "vectors.abs() <= limit"),
        ("ties", "tools/vectors.py", "_BINS = 1 << 16", "_BINS = 1 << 15"),
        ("ties", "tools/vectors.py", "dtype=torch.float64", "dtype=torch.float32"),
        ("ties", "tools/vectors.py", "magnitude: bool = False) -> float", "magnitude: bool = True) -> float"),
        ("ties", "core/experts.py", "torch.sub(tuned, base, out=out[k])", "torch.sub(base, tuned, out=out[k])"),
        ("symerge", "tools/adaptation.py", "betas=(0.9, 0.999)", "betas=(0.9, 0.99)"),
        ("symerge", "tools/coefficients.py", "(raw >= 0) & (raw <= 1)", "(raw >= 0) | (raw <= 1)"),
        ("symerge", "core/stream.py", "self.pending[:n], self.pending[n:]", "self.pending[n:], self.pending[:n]"),
        ("symerge", "core/merged.py", "self.head(self.encoder(inputs))", "self.encoder(self.head(inputs))"),
        ("regmean", "tools/activations.py", "rows.T @ rows", "rows @ rows.T"),
        ("surgery", "task_arithmetic.py", "0.3", "0.4"),
        ("surgery", "surgery.py", "bound = width**-0.5", "bound = width**0.5"),
    ],
)  # fmt: skip
def test_maths_changes_the_version(package, before, name, file, old, new):
    text = (package.folder / file).read_text()
    (package.folder / file).write_text(text.replace(old, new, 1))
    assert old in text and package.version(name) != before[name]


def test_a_public_keyword_is_part_of_the_version(package, before):
    package.replace("ties.py", "*, keep:", "*, share:")
    package.replace("ties.py", 'fraction("keep", keep)', 'fraction("keep", share)')
    assert package.version("ties") != before["ties"]


def test_the_data_that_a_method_is_handed_are_part_of_the_version(package, before):
    text = (package.folder / "symerge.py").read_text()
    (package.folder / "symerge.py").write_text(text.replace("test=UNLABELLED", "val=UNLABELLED", 1))
    assert package.version("symerge") != before["symerge"]


ROWS = ("model_tinting", "model_tinting_pp")


def test_a_row_has_the_version_of_its_function_written_out_with_the_defaults_of_the_row(package):
    text = (package.folder / "symerge.py").read_text()
    function = text[text.index("@method(") : text.index("model_tinting = variant(")]
    own = function.replace("def symerge(", "def own(").replace('Select = "agreement"', 'Select = "all"')
    assert own.count("= False") == 1
    own = own.replace("= False", "= True")
    head, rest = text[: text.index("@method(")], text[text.index("def learn(") :]
    (package.folder / "own.py").write_text(head + own + rest)
    assert package.version("own") == package.version("model_tinting") != package.version("symerge")


def test_a_row_has_a_version_of_its_own_that_no_title_changes(package):
    symerge, *rows = (package.version(name) for name in ("symerge", *ROWS))
    assert len({symerge, *rows}) == 3
    package.replace("symerge.py", 'title="Model Tinting",', 'title="Tinting",')
    package.replace("symerge.py", 'summary="Model Tinting with', 'summary="The same with')
    package.replace("symerge.py", "model_tinting = variant(", "tinting = variant(")
    assert [package.version(name) for name in ("symerge", "tinting", "model_tinting_pp")] == [symerge, *rows]


@pytest.mark.parametrize(
    "old, new, same",
    [
        ('select="all"', 'select="top_p"', {"symerge", "model_tinting_pp"}),
        ("top_p: Share = 0.5", "top_p: Share = 0.25", set()),
        ("replace: bool = False", "replace: bool = True", {"model_tinting", "model_tinting_pp"}),
        ("1e-3 if layer", "1e-4 if layer", set()),
        ('access_if={("labels", "truth")', 'access_if={("labels", "soft")', set()),
    ],
)
def test_the_version_of_a_row_follows_its_own_defaults_and_the_functions_maths(package, old, new, same):
    names = ("symerge", *ROWS)
    first = package.versions(names)
    package.replace("symerge.py", old, new)
    assert {name for name, version in package.versions(names).items() if version == first[name]} == same


@pytest.mark.parametrize(
    "name, file", [("ties", "ties.py"), ("ties", "tools/vectors.py"), ("tsv_m", "tsv.py"),
                   ("tsv_m", "tools/spectral.py"),
                   ("symerge", "symerge.py"), ("symerge", "tools/adaptation.py"), ("symerge", "tools/coefficients.py"),
                   ("wemoe", "wemoe.py"), ("zipit", "zipit.py"), ("esm", "esm.py")],
)  # fmt: skip
def test_every_single_number_operator_and_order_counts(package, before, name, file):
    path = package.folder / file
    counted = {what.partition(".")[0] for where, what in reached(package.file_of(name), name) if where == file}
    tree = ast.parse(path.read_text())
    # Of a class only what is reached counts; classes are walked whole below, so those with unreached methods are not.
    plain = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in counted}
    seen = 0
    for what, changed in sources.mutants(tree, plain, 12):
        path.write_text(ast.unparse(changed))
        assert package.version(name) != before[name], what
        seen += 1
    assert seen > 5


def test_attributes_that_tensors_have_too_keep_their_names():
    """`x.copy` may be either's, so that a method of a class that hides behind its name cannot change unseen."""
    import numpy as np
    import torch
    from torch import fx, nn

    outside = set()
    for each in (torch, torch.Tensor, torch.Size, torch.Generator, torch.autograd.Function, torch.optim.Adam, nn,
                 nn.functional, nn.Parameter, nn.MultiheadAttention, np, np.ndarray, dict, list, str, tuple, set, int,
                 float, bytes, slice, Path):  # fmt: skip
        outside |= set(dir(each))
    traced = fx.symbolic_trace(nn.ReLU())
    for each in (
        nn.Linear(1, 1),
        nn.Conv2d(1, 1, 1),
        nn.BatchNorm2d(1),
        nn.LayerNorm(1),
        nn.Embedding(1, 1),
        nn.MultiheadAttention(1, 1),
        traced,
        traced.graph,
        fx.Interpreter(traced),
        *traced.graph.nodes,
    ):
        outside |= set(dir(each))
    for name in dir(torch.return_types):
        outside |= set(dir(getattr(torch.return_types, name)))
    defined = set()
    for name in methods.names():
        reach = Reach(methods.describe(name).path, name)
        defined |= {attribute for forms in reach.classes.values() for attribute in forms.names}
    # Of private attributes of others those that code may well look at.
    outside = {name for name in outside if not name.startswith("_")} | {"_parameters", "_buffers", "_modules", "_graph"}
    missing = sorted((defined & outside) - numbered.SHARED)
    assert missing == [], f"add {missing} to method_version.numbered.SHARED"


# What counts as reached, on a small package


METHOD = '''"""Docs."""
from methods.api import method
from methods.helper import Box, kept
from methods.helper import f
# why
LIMIT = 3
UNUSED = 4
@method(title="X")
def x(experts, *, scale=0.3):
    """More docs."""
    return f(experts, scale) + Box().opened(LIMIT)
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
def small(tmp_path):
    folder = tmp_path / "methods"
    (folder / "tools").mkdir(parents=True)
    for name, text in {
        "__init__.py": "", "x.py": METHOD, "api.py": "def method(**k):\n    return lambda f: f\n", "helper.py": HELPER,
        "deep.py": "def g(s):\n    return s\ndef far(s):\n    return 2\n", "unrelated.py": "Y = 1\n",
        "tools/__init__.py": "from methods.tools.inner import inside\n",
        "tools/inner.py": "from ..deep import g\nfrom . import other\n"
                          "def inside(s):\n    return g(s) + other.last(s)\n",
        "tools/other.py": "def last(s):\n    return s\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    return folder


def changed(folder, file, old, new):
    """Whether the version of ``x`` differs once ``old`` is ``new`` in the file."""
    first = method_version(folder / "x.py", "x")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    return method_version(folder / "x.py", "x") != first


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("x.py", "Docs.", "Other."),
        ("x.py", "# why", "\n\n# because"),
        ("x.py", "0.3)", " 0.3 ,)"),
        ("x.py", '    """More docs."""\n', ""),
        ("x.py", "UNUSED = 4", "UNUSED = 5"),
        ("x.py", "return kept(experts)", "return -kept(experts)"),
        ("unrelated.py", "1", "2"),
        ("deep.py", "return 2", "return 3"),
        ("helper.py", "return e", "return -e"),
        ("helper.py", "return 6", "return 60"),
    ],
)
def test_code_that_a_method_does_not_reach_leaves_its_version(small, file, old, new):
    assert not changed(small, file, old, new)


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("x.py", "0.3", "0.4"),
        ("x.py", "LIMIT = 3", "LIMIT = 4"),
        ("x.py", "*, scale=", "*, scales="),
        ("deep.py", "return s", "return -s"),
        ("helper.py", "g(s)", "g(s + 1)"),
        ("helper.py", "g(s)", "g(e)"),
        ("helper.py", "SHIFT = 1", "SHIFT = 2"),
        ("helper.py", "return self.lid()", "return 2 * self.lid()"),
        ("helper.py", "return 5", "return 50"),
        ("helper.py", "return 7", "return 70"),
        ("helper.py", "class Box:", "print(1)\nclass Box:"),
    ],
)
def test_all_code_that_a_method_reaches_changes_its_version(small, file, old, new):
    assert changed(small, file, old, new)


@pytest.mark.parametrize(
    "text",
    [
        "import methods.helper\ndef x(e):\n    return methods.helper.f(e, 1)\n",
        "import methods.helper as h\ndef x(e):\n    return h.f(e, 1)\n",
        "import methods.deep\nimport methods.helper\ndef x(e):\n    return methods.helper.f(e, 1)\n",
        "def x(e):\n    from . import helper\n    return helper.f(e, 1)\n",
        "def x(e):\n    from .helper import f as other\n    return other(e, 1)\n",
        "from methods.helper import *\ndef x(e):\n    return f(e, 1)\n",
    ],
)
def test_every_form_of_import_means_the_same(small, text):
    (small / "x.py").write_text("from methods.helper import f\ndef x(e):\n    return f(e, 1)\n")
    wanted = method_version(small / "x.py", "x")
    (small / "x.py").write_text(text)
    assert method_version(small / "x.py", "x") == wanted
    assert not changed(small, "helper.py", "return e", "return -e")
    assert changed(small, "deep.py", "return s", "return -s")


@pytest.mark.parametrize("file, old", [("deep.py", "return s"), ("tools/other.py", "return s")])
@pytest.mark.parametrize("line", ["from methods.tools import inside", "from methods.tools.inner import inside"])
def test_folders_of_modules_are_followed(small, line, file, old):
    (small / "x.py").write_text(f"{line}\ndef x(e):\n    return inside(e)\n")
    assert changed(small, file, old, "return 2 * s")


def test_a_module_that_is_handed_on_counts_whole(small):
    (small / "x.py").write_text("from methods import helper\ndef x(e):\n    return getattr(helper, e)\n")
    assert changed(small, "helper.py", "return e", "return -e")


def test_a_class_that_inherits_from_elsewhere_counts_whole(small):
    (small / "helper.py").write_text(HELPER.replace("class Box:", "class Box(dict):"))
    assert changed(small, "helper.py", "return 6", "return 60")


def test_definitions_reached_by_a_string_count_when_given(small):
    alone = method_version(small / "x.py", "x")
    assert method_version(small / "x.py", "x", [(small / "unrelated.py", "Y")]) != alone
    with pytest.raises(ValueError, match="unrelated.py defines no Z"):
        method_version(small / "x.py", "x", [(small / "unrelated.py", "Z")])


def test_the_version_does_not_depend_on_the_interpreter(small):
    more = 'Y = u"a" f"b{1 + 2}c"\ndef z(a: int, /, *b):\n    return a, Y, [i for i in b]\n'
    (small / "x.py").write_text(METHOD + more)
    assert method_version(small / "x.py", "z") == "8ac22dfd38c43da4"


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
def test_definitions_that_later_statements_build_on_count_all(small, helper, old, new):
    (small / "x.py").write_text("from methods.second import f\ndef x(e):\n    return f(e)\n")
    (small / "second.py").write_text(helper)
    assert changed(small, "second.py", old, new)


PAIRS = yaml.safe_load((Path(__file__).parent / "version_pairs.yaml").read_text(encoding="utf-8"))


def versions_of(folder, pair):
    """The versions of a method that calls ``f``, as the two modules define it."""
    (folder / "x.py").write_text("from methods.second import f\ndef x(e):\n    return f(e)\n")
    for text in pair.values():
        (folder / "second.py").write_text(text)
        yield method_version(folder / "x.py", "x")


@pytest.mark.parametrize("pair", PAIRS["other"], ids=range(len(PAIRS["other"])))
def test_other_maths_is_another_version(small, pair):
    first, second = versions_of(small, pair)
    assert first != second


@pytest.mark.parametrize("pair", PAIRS["same"], ids=range(len(PAIRS["same"])))
def test_the_same_maths_under_other_names_is_the_same_version(small, pair):
    first, second = versions_of(small, pair)
    assert first == second
