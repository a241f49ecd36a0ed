"""DESIGN's directions of import, read from the source: also imports inside functions count."""

import ast
import functools
import subprocess
import sys

import house
import pytest
from house import FLOORS, ROOT

#: Packages that are torch, or that import it.
TORCH = {"torch", "torchvision", "torchmetrics", "open_clip", "safetensors.torch", "transformers", "accelerate"}
MODULES = house.modules()
#: Rooms in which nothing imports torch, with their exceptions.
WITH_TORCH = {"benchmark.report.panels", "benchmark.submissions.verification"}
WITHOUT_TORCH = [
    name for name in MODULES
    if house.room(name) in ("records", "scores", "submissions", "board", "report") and name not in WITH_TORCH
] + [f"benchmark.studies.{name}" for name in ("settings", "tables", "pages", "places", "contents")] + [
    "benchmark.common.errors", "benchmark.common.project"
]  # fmt: skip


@functools.cache
def imports(name, *, lazy=True, typing=False):
    """Dotted names that a module imports, each file read once."""
    return house.imports(name, MODULES, lazy=lazy, typing=typing)


def within(name):
    """Modules of the project that importing the dotted name runs: itself and the packages above it."""
    parts = name.split(".")
    return {prefix for size in range(1, len(parts) + 1) if (prefix := ".".join(parts[:size])) in MODULES}


def reached(name, *, lazy=True):
    """`{module of the project: the one that imports it}` for all that `name` reaches, itself included."""
    seen, waiting = {}, [(module, "") for module in within(name)]
    while waiting:
        module, parent = waiting.pop()
        if module not in seen:
            seen[module] = parent
            waiting += [(found, module) for each in imports(module, lazy=lazy) for found in within(each)]
    return seen


@functools.cache
def tree(name):
    """The source of a module, parsed once."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@functools.cache
def names_of_methods():
    """Functions under `@method(...)` and rows below them, from the source."""
    found = set()
    for name in MODULES:
        if name.startswith("methods"):
            for node in ast.walk(tree(name)):
                if isinstance(node, ast.FunctionDef) and any("'method'" in ast.dump(d) for d in node.decorator_list):
                    found.add(node.name)
                if isinstance(node, ast.Assign) and "Name(id='variant'" in ast.dump(node.value):
                    found.add(node.targets[0].id)
    return frozenset(found)


def uses_torch(name, **options):
    return sorted(each for each in imports(name, **options) if each.split(".")[0] in TORCH or each in TORCH)


def test_the_walk_sees_the_project():
    assert {"benchmark.records.spec", "benchmark.records.store", "methods", "methods.core.registry"} <= set(MODULES)
    assert "benchmark.records.spec" in reached("benchmark.board.leaderboard")
    assert {"symerge", "model_tinting", "ties", "task_arithmetic", "adamerging"} <= names_of_methods()
    assert "methods.core.merged" in reached("methods.api", lazy=False)


def test_each_room_imports_only_rooms_below_it():
    height = {name: number for number, name in enumerate(FLOORS)}
    pairs = house.arrows(MODULES)
    unknown = {room for pair in pairs for room in pair} - height.keys() - {"the door"}
    assert not unknown, f"rooms that tests/house.py does not list: {', '.join(sorted(unknown))}"
    upward = {pair: where for pair, where in pairs.items() if height.get(pair[0], 99) < height.get(pair[1], 99)}
    assert not upward, upward


def test_no_circle_of_rooms():
    assert max(house.floors(house.arrows(MODULES)).values()) <= len(FLOORS)


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "methods"])
def test_methods_never_import_the_benchmark(name):
    assert not [found for found in imports(name) if found.split(".")[0] == "benchmark"]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_reads_records_never_imports_torch(name):
    for module, parent in reached(name).items():
        assert not uses_torch(module), f"{module} (imported by {parent or 'itself'}) imports torch"


def test_help_and_list_import_no_torch():
    for entry in ("benchmark.__main__", "methods"):
        for module, parent in reached(entry, lazy=False).items():
            assert not uses_torch(module, lazy=False), f"{module} (imported by {parent or 'itself'}) imports torch"


@pytest.mark.parametrize("names", [WITHOUT_TORCH, ["methods", "benchmark.cli.main"]])
def test_importing_them_really_leaves_torch_out(names):
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"{names} import torch"


def test_only_the_executor_on_ray_knows_of_ray_and_imports_it_where_it_is_used():
    knowing = {name for name in MODULES if any(found.split(".")[0] == "ray" for found in imports(name))}
    assert knowing == {"benchmark.executors.cluster", "benchmark.executors.nodes", "benchmark.executors.worker"}
    assert not [n for n in knowing if any(found.split(".")[0] == "ray" for found in imports(n, lazy=False))]
    importers = {name for name in MODULES if knowing & imports(name)}
    assert importers - knowing == {"benchmark.cli.run"}


@pytest.mark.parametrize("name", [name for name in MODULES if house.room(name) == "harness"])
def test_the_harness_names_no_method(name):
    methods = names_of_methods()
    named = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Constant) and node.value in methods:
            named.add(node.value)
        elif isinstance(node, (ast.Name, ast.alias)):
            named |= {getattr(node, "id", getattr(node, "name", ""))} & methods
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
            named |= {(node.module or "").split(".")[1]} & methods
    assert not named, f"{name} names {', '.join(sorted(named))}; it knows methods by the registry only"


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("benchmark.") and house.room(n) != "studies"])
def test_no_method_has_a_case_of_its_own(name):
    """Suites, studies and published tables name methods as data; everywhere else only the two reference rows stand."""
    methods = names_of_methods() - {"pretrained", "individual"}
    named = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            word, _, rest = node.value.partition(":")
            named |= {node.value} if word in methods and not rest[:1].isspace() else set()
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            paths = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            named |= {path for path in paths if house.room(path) == "methods" and path in MODULES and "." in path}
    assert not named - {"methods.api"}, f"{name} names {', '.join(sorted(named))}; declarations say what a method is"


#: Above 400 lines and neither split nor explained yet.


def explained(text):
    """Whether a module has at most 400 lines, or says in its docstring why it is longer."""
    docstring = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    return len(text.splitlines()) <= 400 or "lines because" in docstring


@pytest.mark.parametrize("name", [*MODULES])
def test_a_file_of_more_than_400_lines_says_why(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert explained(text), 'split it by subject, or say "... lines because ..." at its top'


def test_only_a_reason_at_the_top_excuses_a_long_file():
    assert explained("a = 1\n" * 400) and not explained("a = 1\n" * 401)
    assert not explained('"""A file of many lines."""\n' + "a = 1\n" * 400 + "# 401 lines because\n")
    assert explained('"""One table.\n\nMore than 400\nlines because it is one table.\n"""\n' + "a = 1\n" * 400)


@pytest.mark.parametrize("name", list(MODULES))
def test_nothing_is_unpickled_as_python_does(name):
    calls = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            unsafe_torch = called == "torch.load" and not any(
                word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
                for word in node.keywords
            )
            allows_pickle = any(
                word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                for word in node.keywords
            )
            if called in {"pickle.load", "pickle.loads", "dill.load", "joblib.load"} or unsafe_torch or allows_pickle:
                calls.add(f"{called} in line {node.lineno}")
    assert not calls


def test_no_verb_of_the_command_line_imports_torch_for_its_options():
    for name in MODULES:
        if name.startswith("benchmark.cli."):
            for module, parent in reached(name, lazy=False).items():
                assert not uses_torch(module, lazy=False), f"{name}: {module} (imported by {parent or 'itself'})"


#: Modules that are commands of their own (`python -m`, or `assets`, which hands them the words as typed): a parser and
#: what it makes live within one function, and go nowhere from there.
OWN_PARSERS = [name for name in MODULES if house.room(name) not in ("cli", "methods") and "argparse" in imports(name)]


def takes_arguments(function):
    """A function's parameters that are the command's arguments, by type, or by name where options are read of them."""
    places = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    types = {each.arg: ast.unparse(each.annotation) if each.annotation else "Any" for each in places}
    read = {ast.unparse(node.value) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    return [
        name for name, kind in types.items()
        if "Namespace" in kind or (name in ("arguments", "args") and kind == "Any" and name in read)
    ]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("benchmark.") and house.room(n) != "cli"])
def test_nothing_below_the_command_line_sees_its_arguments(name):
    """A job and a few typed options go down. Also where a parser is its module's own, it stays in one function."""
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert not takes_arguments(node), f"{name}, line {node.lineno}: {node.name} takes the command's arguments"
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "argparse.Namespace"), name


def test_only_commands_of_their_own_parse_words_below_the_command_line():
    rooms = {name: house.room(name) for name in OWN_PARSERS}
    others = {name for name, room in rooms.items() if room != "assets"}
    assert others == {"benchmark.report.panels", "benchmark.scores.simulation"}


def test_the_guard_knows_a_function_that_takes_the_arguments():
    (bad,) = ast.parse("def f(arguments: Any, x: int): return arguments.suite").body
    (worse,) = ast.parse("def f(how: argparse.Namespace): ...").body
    (good,) = ast.parse("def f(*args: str, arguments_of: int = 1): ...").body
    assert takes_arguments(bad) == ["arguments"] and takes_arguments(worse) == ["how"] and not takes_arguments(good)


def test_each_file_of_tests_has_a_name_of_its_own():
    """pytest imports test files by their bare names: of two with one name, a run of both collects only the first."""
    places = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        places.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert len(places) > 50 and not {name: found for name, found in places.items() if len(found) > 1}
