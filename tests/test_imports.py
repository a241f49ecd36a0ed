"""DESIGN's directions of import, read from the source: also imports inside functions count."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmark", "methods")
#: Packages that are torch, or that import it.
TORCH = {"torch", "torchvision", "torchmetrics", "open_clip", "safetensors.torch", "transformers", "accelerate"}
WITHOUT_TORCH = [
    "spec", "version", "errors", "record", "store", "metrics", "stats", "relative", "rows", "columns", "leaderboard",
    "plots", "compare", "pages", "published", "page", "critical", "simulate", "submissions", "figures", "studies",
    "studies.settings", "studies.tables", "studies.pages", "studies.places", "studies.selected",
    "studies.plots", "labels", "notebook", "selection",
]  # fmt: skip


def modules():
    """`{dotted name: file}` of the project."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(name, *, lazy=True):
    """Dotted names that module `name` imports; without `lazy` only those made when it is itself imported."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    waiting = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found |= {alias.name for alias in child.names}
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, *([base] if base else [])])
                found |= {base} | {f"{base}.{alias.name}" for alias in child.names}
            type_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if not type_checking and (lazy or not function):
                waiting.append(child)
    return found


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


def names_of_methods():
    """Functions under `@method(...)`, from the source."""
    found = set()
    for name, file in MODULES.items():
        if name.startswith("methods"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and any("'method'" in ast.dump(d) for d in node.decorator_list):
                    found.add(node.name)
    return found


def uses_torch(name, **options):
    return sorted(each for each in imports(name, **options) if each.split(".")[0] in TORCH or each in TORCH)


def test_the_walk_sees_the_project():
    assert {"benchmark.spec", "benchmark.store", "methods", "methods.registry"} <= set(MODULES)
    assert "benchmark.spec" in reached("benchmark.leaderboard")
    assert {"symerge", "ties", "task_arithmetic", "adamerging"} <= names_of_methods()
    assert "torch" in uses_torch("methods.api", lazy=False) or "methods.merged" in reached("methods.api", lazy=False)


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "methods"])
def test_methods_never_import_the_benchmark(name):
    assert not [found for found in imports(name) if found.split(".")[0] == "benchmark"]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_reads_records_never_imports_torch(name):
    if f"benchmark.{name}" not in MODULES:
        pytest.skip(f"benchmark/{name}.py does not exist yet")
    for module, parent in reached(f"benchmark.{name}").items():
        assert not uses_torch(module), f"{module} (imported by {parent or 'itself'}) imports torch"


def test_help_and_list_import_no_torch():
    for entry in ("benchmark.__main__", "methods"):
        for module, parent in reached(entry, lazy=False).items():
            assert not uses_torch(module, lazy=False), f"{module} (imported by {parent or 'itself'}) imports torch"


@pytest.mark.parametrize("names", [[f"benchmark.{name}" for name in WITHOUT_TORCH], ["methods", "benchmark.cli"]])
def test_importing_them_really_leaves_torch_out(names):
    names = [name for name in names if name in MODULES]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"{names} import torch"


def test_only_the_executor_on_ray_knows_of_ray_and_imports_it_where_it_is_used():
    knowing = {name for name in MODULES if any(found.split(".")[0] == "ray" for found in imports(name))}
    assert knowing == {"benchmark.cluster", "benchmark.nodes", "benchmark.worker"}
    assert not [n for n in knowing if any(found.split(".")[0] == "ray" for found in imports(n, lazy=False))]
    importers = {name for name in MODULES if knowing & imports(name)}
    assert importers - knowing == {"benchmark.run"}


@pytest.mark.parametrize("name", ["evaluate", "runner"])
def test_the_harness_names_no_method(name):
    methods = names_of_methods()
    named = set()
    for node in ast.walk(ast.parse(MODULES[f"benchmark.{name}"].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value in methods:
            named.add(node.value)
        elif isinstance(node, (ast.Name, ast.alias)):
            named |= {getattr(node, "id", getattr(node, "name", ""))} & methods
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
            named |= {(node.module or "").split(".")[1]} & methods
    assert not named, f"benchmark/{name}.py names {', '.join(sorted(named))}; it knows methods by the registry only"


@pytest.mark.parametrize("name", list(MODULES))
def test_nothing_is_unpickled_as_python_does(name):
    calls = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
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
