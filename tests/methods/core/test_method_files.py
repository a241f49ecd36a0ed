"""Files in methods/: declarations are checked, a broken file stops no other, a raising one is shown with its line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import methods
from methods.core import declarations, discovery
from methods.core.errors import MergingError

ROOT = Path(__file__).parents[3]
HEAD = "from methods.api import LABELLED, UNLABELLED, Access, Footprint, method\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("@method(title='T', paper='P', access=Access(None, None, LABELLED))\ndef x(experts, stream):\n    ...\n",
         "must be literals"),
        ("@method(**{'title': 'T'}, paper='P')\ndef x(experts):\n    ...\n", "must be literals"),
        ("@method(title='T', paper='P')\ndef x(experts, scale=0.3):\n    ...\n", "keywords follow the '\\*'"),
        ("@method(title='T', paper='P')\ndef x(experts, **keywords):\n    ...\n", "keywords follow the '\\*'"),
        ("@method(title='T', paper='P')\ndef x(experts, stream):\n    ...\n", "declares no access"),
        ("@method(title='T', paper='P', access=Access(test=UNLABELLED))\ndef x(experts):\n    ...\n", "has no stream"),
        ("@method(title='T', paper='P', access='test')\ndef x(experts, stream):\n    ...\n", "expected Access"),
        ("@method(title='T', paper=None)\ndef x(experts):\n    ...\n", "paper of x is None; expected str"),
        ("@method(title='T', paper='P', access_if={1: Access()})\ndef x(experts):\n    ...\n", "keyword, value"),
        ("@method(title='T', paper='P', note=1)\ndef x(experts):\n    ...\n", "knows no 'note'"),
        ("@method(title='T', paper='P', grids={'s': (0, 1, 2)})\ndef x(experts):\n    ...\n", "no keyword of it"),
        ("@method(title='T', paper='P', footprint=Footprint(vektors=True))\ndef x(experts):\n    ...\n",
         "unknown field of Footprint 'vektors'. Did you mean vectors"),
        ("@method(title='T', paper='P', footprint=Footprint(holds=2))\ndef x(experts):\n    ...\n", "holds .* a pair"),
        ("@method(title='T', paper='P', footprint=Footprint(vectors=1))\ndef x(experts):\n    ...\n",
         "True or False"),
        ("@method(title='T', paper='P', footprint=Footprint(passes=0.5))\ndef x(experts):\n    ...\n",
         "a whole number"),
        ("@method(title='T', paper='P', footprint=Footprint(statistics='gram'))\ndef x(experts):\n    ...\n",
         "one of grams"),
        ("@method(title='T', paper='P', footprint=Footprint(steps='rounds'))\ndef x(experts):\n    ...\n",
         "footprint of x names 'rounds'"),
        ("@method(title='T', paper='P', footprint='small')\ndef x(experts):\n    ...\n", "expected Footprint"),
        ("@method(title='T', paper='P', access=Access(dev=LABELLED))\ndef x(experts):\n    ...\n",
         "field of Access 'dev'"),
        ("@method(title='T', paper='P', grids={'s': (0, 1)})\ndef x(experts, *, s=1):\n    ...\n", "last, count"),
        ("@method(title='T', paper='P')\ndef x(experts, *, s={1, 2}):\n    ...\n", "s of x defaults to"),
        ("@method(title='T', paper='P')\ndef x(experts, *, s=1e999):\n    ...\n", "s of x defaults to inf"),
        ("@method(title='T', paper='P')\ndef all(experts):\n    ...\n", "cannot be called 'all'"),
    ],
)  # fmt: skip
def test_a_declaration_that_would_mislead_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "x.py").write_text(HEAD + text)
    with pytest.raises(MergingError, match=rf"methods/x.py, line \d: .*{words}"):
        declarations.read(tmp_path / "x.py")


ROW = (
    HEAD.replace("method\n", "method, variant\n")
    + """
@method(title='T', paper='P', access=Access(test=UNLABELLED), access_if={('side', 'b'): Access(test=LABELLED)},
        footprint=Footprint(vectors=True))
def x(experts, stream, *, scale=0.3, side='a', seed=0):
    \"\"\"Of x.\"\"\"
    return scale, side, seed

y = variant(x, title='Y', paper='Q', summary='Of y.', scale=0.5)
z = variant(y, title='Z', paper='Q', summary='Of z.', side='b')
"""
)


def test_a_row_is_read_from_the_source_with_what_its_function_declares_and_its_own_defaults(tmp_path):
    (tmp_path / "x.py").write_text(ROW)
    found = discovery.discover(tmp_path)
    assert list(found.methods) == ["x", "y", "z"] and not found.broken
    x, y, z = found.methods.values()
    assert (y.title, y.paper, y.summary, y.module, y.variant_of) == ("Y", "Q", "Of y.", x.module, "x")
    assert y.parameters == {"scale": 0.5, "side": "a", "seed": 0}
    assert z.parameters == {"scale": 0.5, "side": "b", "seed": 0} and z.variant_of == "x"
    assert y.access == x.access and y.access_if == x.access_if and y.footprint == x.footprint and y.stochastic
    assert y.access_for({}) == x.access and z.access_for({}) != x.access


@pytest.mark.parametrize(
    "row, words",
    [
        ("scales=0.5", "unknown keyword of x 'scales'. Did you mean scale"),
        ("scale='much'", "scale of y defaults to 'much'; its annotation allows"),
        ("scale={1}", "scale of y defaults to {1}"),
        ("scale=LIMIT", "must be literals"),
        ("**more", "must be literals"),
        ("paper=3, scale=1.0", "paper of y is 3; expected str"),
        ("", "y needs variant(x, title=..., paper=..., summary=..., KEYWORD=...)"),
    ],
)
def test_a_row_that_would_mislead_is_refused_with_its_line(tmp_path, row, words):
    text = ROW.replace("scale=0.3", "scale: float = 0.3").replace("paper='Q', " if "paper" in row else "?", "")
    (tmp_path / "x.py").write_text(text.replace("scale=0.5", row))
    with pytest.raises(declarations.BrokenFile) as fault:
        declarations.read(tmp_path / "x.py")
    assert str(fault.value).startswith("methods/x.py, line 9: ") and words in str(fault.value)
    assert {"x", "y", "z"} <= set(fault.value.names)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("y = variant(x,", "y = variant(far,", "takes one method that stands above it in this file"),
        ("y = variant(x,", "y = variant(y,", "takes one method that stands above it in this file"),
        ("y = variant(x,", "y = varied(x,", "nothing is called varied; variant comes from methods.api"),
        ("y = variant(x,", "y = u = variant(x,", "with one name"),
        ("y = variant(x,", "all = variant(x,", "cannot be called 'all'"),
    ],
)
def test_a_row_that_is_not_one_is_refused_with_its_line(tmp_path, old, new, words):
    (tmp_path / "x.py").write_text(ROW.replace(old, new))
    with pytest.raises(MergingError, match=f"methods/x.py, line 9: .*{re.escape(words)}"):
        declarations.read(tmp_path / "x.py")


PLAIN = HEAD + "@method(title='T', paper='P')\ndef {name}(experts, *, scale=0.3):\n    return None\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(PLAIN.format(name="good"))
    return tmp_path


def test_odd_files_beside_methods_are_passed_over(folder: Path) -> None:
    (folder / ".#mine.py").symlink_to("nobody@nowhere")
    (folder / "._mine.py").write_bytes(b"\x00\x05")
    (folder / "folder.py").mkdir()
    found = discovery.discover(folder)
    assert list(found.methods) == ["good"] and not found.broken


@pytest.mark.parametrize(
    "content, line, words",
    [
        (b"a = 1\n@method(title='T', paper='P')\ndef mine(experts)\n    pass\n", 3, "expected ':'"),
        ("# caf\u00e9".encode("latin-1"), None, "cannot be read as Python"),
        (b"a = 1\x00", None, "cannot be read as Python"),
        (HEAD.encode() + b"@method(title='T')\ndef mine(experts):\n    ...\n", 3, "missing: paper"),
        (HEAD.encode() + b"@method\ndef mine(experts):\n    ...\n", 3, "needs @method"),
        (b"@methd(title='T', paper='P')\ndef mine(experts):\n    ...\n", 1, "nothing is called methd"),
        (b"import os\nimport no_such_package.inside\n", 2, "no package called no_such_package"),
        (b"from methods.tools.vectors import no_such_name\n", 1, "methods.tools.vectors has no no_such_name"),
        (b"from methods import no_such_name\n", 1, "methods has no no_such_name"),
        (b"def f():\n    from .no_such_file import g\n", 2, "there is no methods.no_such_file"),
        (PLAIN.format(name="mine").encode() + PLAIN.format(name="mine").encode(), 7, "declared in line 3 already"),
        (PLAIN.format(name="good").encode(), 3, "good is the method of methods/good.py"),
    ],
)
def test_a_broken_file_is_named_with_its_line_and_the_others_go_on(
    folder: Path, content: bytes, line: int | None, words: str
) -> None:
    (folder / "mine.py").write_bytes(content)
    found = discovery.discover(folder)
    assert list(found.methods) == ["good"]
    (fault,) = found.broken
    assert fault.line == line and words in str(fault) and "mine" in fault.names
    assert str(fault).startswith("methods/mine.py" + (f", line {line}: " if line else ": "))


def test_a_file_that_imports_a_broken_one_is_broken_with_it(folder: Path) -> None:
    (folder / "helper.py").write_text("x = (\n")
    (folder / "between.py").write_text("from methods.helper import x\n")
    (folder / "mine.py").write_text("import os\nfrom methods.between import x\n" + PLAIN.format(name="mine"))
    found = discovery.discover(folder)
    assert list(found.methods) == ["good"]
    said = {fault.path.name: str(fault) for fault in found.broken}
    assert said.keys() == {"helper.py", "between.py", "mine.py"}
    assert "methods/mine.py, line 2: imports a broken file (methods/between.py, line 1" in said["mine.py"]
    assert "methods/helper.py, line 1" in said["mine.py"]


def test_imports_that_may_fail_are_no_fault(folder: Path) -> None:
    text = "try:\n    import no_such_package\nexcept ImportError:\n    pass\nfrom methods.tools.vectors import *\n"
    (folder / "mine.py").write_text(text + PLAIN.format(name="mine"))
    assert list(discovery.discover(folder).methods) == ["good", "mine"]


def test_a_name_of_two_files_is_of_neither_and_says_both(folder: Path) -> None:
    for file in ("a.py", "b.py"):
        (folder / file).write_text(PLAIN.format(name="same") + PLAIN.format(name=f"of_{file[0]}"))
    found = discovery.discover(folder)
    assert list(found.methods) == ["of_a", "of_b", "good"]
    assert [str(fault) for fault in found.broken] == [
        "methods/b.py, line 3: same is declared in methods/a.py, line 3, too; rename one of them"
    ]


def test_the_projects_own_files_are_whole() -> None:
    assert methods.broken() == []


RUN = """
import sys
from helpers.tiny import TinyBench
from benchmark.cli import main as cli
import benchmark.suites
benchmark.suites.open_bench = lambda suite, **keywords: TinyBench()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the methods beside which files can be put; the benchmark is this one."""
    root = tmp_path_factory.mktemp("copied")
    shutil.copytree(ROOT / "methods", root / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, [root, ROOT, ROOT / "tests"]))
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, *words], cwd=root, capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_commands_go_on_beside_a_broken_file_which_list_names_and_a_run_refuses(copied: Path) -> None:
    mine = copied / "methods" / "mine.py"
    mine.write_text(PLAIN.format(name="mine") + "oops(\n")
    try:
        listed = command(copied, "list", "methods")
        assert listed.returncode == 0 and "symerge" in listed.stdout
        assert "methods/mine.py, line 5: '(' was never closed" in listed.stdout
        run = command(copied, "run", "--suite", "vision-mini-8", "--results", "out", "--methods", "weight_average")
        assert run.returncode == 0 and "weight_average" in run.stdout
        assert run.stderr.count("methods/mine.py, line 5") == 1
        refused = command(
            copied, "run", "--suite", "vision-mini-8", "--results", "out", "--methods", "weight_average", "mine"
        )
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        assert "error: mine cannot be used: methods/mine.py, line 5: '(' was never closed" in refused.stderr
    finally:
        mine.unlink()


RAISES = (
    HEAD
    + """
@method(title="T", paper="P")
def mine(experts, *, scale=0.3):
    return combine(experts)

def combine(experts):
    for name in experts.names:
        experts.task_vectors(name) @ len(name)
"""
)


def test_a_method_that_raises_is_shown_with_the_line_of_its_own_file(copied: Path) -> None:
    """In a helper that it calls, and as its file is imported."""
    mine, other = copied / "methods" / "mine.py", copied / "methods" / "other.py"
    mine.write_text(RAISES)
    other.write_text("LIMIT = 1 / 0\n" + PLAIN.format(name="other"))
    try:
        done = command(
            copied,
            "run",
            "--suite",
            "vision-mini-8",
            "--results",
            "raised",
            "--methods",
            "other",
            "mine",
            "weight_average",
        )
    finally:
        mine.unlink()
        other.unlink()
    where = "(methods/mine.py, line 9, in combine)"
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("failed: mine on tiny: TypeError: ")
    assert done.stderr.strip().splitlines()[-1].endswith(where)
    assert where in done.stdout
    (board,) = (copied / "raised" / "boards").glob("*.md")
    assert where in board.read_text()
    records = [json.loads(path.read_text()) for path in (copied / "raised").rglob("record.json")]
    assert {r["variant"]: r["error"]["where"] for r in records if r["error"]} == {
        "mine": where.strip("()"),
        "other": "methods/other.py, line 1, in <module>",
    }
