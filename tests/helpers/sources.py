"""A copy of ``methods/`` whose sources are changed, and the versions that its methods have then."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.records.method_version import method_version

ROOT = Path(__file__).resolve().parents[2]
#: Methods that together reach nearly every shared file, the last with another that it runs by name.
CHOSEN = ("ties", "symerge", "regmean", "tsv_m", "wemoe", "zipit", "esm", "flexmerge", "adarank", "surgery")


class Package:
    """A copy of the package that a test may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "methods"
        shutil.copytree(ROOT / "methods", self.folder, ignore=shutil.ignore_patterns("__pycache__", "*.md"))

    @property
    def files(self) -> list[Path]:
        """Every module, those of folders too."""
        return sorted(self.folder.rglob("*.py"))

    def file_of(self, name: str) -> Path:
        """Where the method stands."""
        declared = re.compile(rf"^@method\((?:(?!^def ).)*?^def {name}\(|^{name} = variant\(", re.M | re.S)
        return next(file for file in self.files if declared.search(file.read_text(encoding="utf-8")))

    def version(self, name: str) -> str:
        """The method's version, as a plan asks for it."""
        others = [(self.file_of("task_arithmetic"), "task_arithmetic")] if name == "surgery" else []
        return method_version(self.file_of(name), name, others)

    def versions(self, names: tuple[str, ...] = CHOSEN) -> dict[str, str]:
        """Those of several."""
        return {name: self.version(name) for name in names}

    def replace(self, file: str, old: str, new: str) -> None:
        """Put ``new`` for ``old``, which stands in the file once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def rename(self, old: str, new: str) -> None:
        """Give a name another one wherever it stands as a word."""
        hits = 0
        for file in self.files:
            text, count = re.subn(rf"\b{old}\b", new, file.read_text(encoding="utf-8"))
            file.write_text(text, encoding="utf-8")
            hits += count
        assert hits > 1, f"{old} is not used"

    def move(self, file: str, to: str) -> None:
        """Move a module, imports of it along."""
        old, new = (f"methods.{name[:-3].replace('/', '.')}" for name in (file, to))
        target = self.folder / to
        target.parent.mkdir(exist_ok=True)
        if target.parent != self.folder:
            (target.parent / "__init__.py").touch()
        (self.folder / file).rename(target)
        for each in self.files:
            text = each.read_text(encoding="utf-8")
            each.write_text(re.sub(rf"\bfrom {re.escape(old)} import", f"from {new} import", text), encoding="utf-8")

    def move_definition(self, name: str, file: str, to: str) -> None:
        """Move one definition to another module, imports of it along; it imports what it needs from its old one."""
        path, target = self.folder / file, self.folder / to
        text = path.read_text(encoding="utf-8")
        (node,) = [n for n in ast.parse(text).body if getattr(n, "name", "") == name]
        moved = ast.get_source_segment(text, node)
        assert moved is not None
        others = {getattr(n, "name", "") for n in ast.parse(text).body} | set(re.findall(r"^(_?[A-Z_]+) =", text, re.M))
        needed = sorted(w for w in set(re.findall(r"\w+", moved)) & others if w and w != name)
        old, new = f"methods.{file[:-3].replace('/', '.')}", f"methods.{to[:-3].replace('/', '.')}"
        imports = [n for n in ast.parse(text).body if isinstance(n, (ast.Import, ast.ImportFrom))]
        head = "".join(f"{ast.unparse(node)}\n" for node in imports)
        target.parent.mkdir(exist_ok=True)
        (target.parent / "__init__.py").touch()
        head += f"from {old} import {', '.join(needed)}\n" if needed else ""
        target.write_text(f"{head}\n\n{moved}\n", encoding="utf-8")
        path.write_text(text.replace(moved, "") + f"\n\nfrom {new} import {name}\n", encoding="utf-8")
        for each in self.files:
            if each != target and each != path:
                each.write_text(_split_import(each.read_text(encoding="utf-8"), old, new, name), encoding="utf-8")

    def rewrite(self, change: Callable[[ast.Module], ast.Module]) -> None:
        """Write every module again from its changed tree: also another layout, without comments."""
        for file in self.files:
            tree = ast.fix_missing_locations(change(ast.parse(file.read_text(encoding="utf-8"))))
            file.write_text(ast.unparse(tree) + "\n", encoding="utf-8")


def _split_import(text: str, old: str, new: str, name: str) -> str:
    def changed(match: re.Match[str]) -> str:
        names = [each.strip() for each in match[1].strip("()").split(",") if each.strip()]
        if name not in names:
            return match[0]
        rest = [each for each in names if each != name]
        return (f"from {old} import {', '.join(rest)}\n" if rest else "") + f"from {new} import {name}\n"

    return re.sub(rf"^from {re.escape(old)} import (\([^)]*\)|[^\n]*)\n", changed, text, flags=re.M)


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Docstrings gone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(body, list):
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
    return tree


def without_annotations(tree: ast.Module) -> ast.Module:
    """Annotations gone, but for those of a class's fields, which are its fields."""
    fields = {id(n) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for n in c.body}

    class Plain(ast.NodeTransformer):
        def visit_arg(self, node: ast.arg) -> ast.arg:
            node.annotation = None
            return node

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
            node.returns = None
            self.generic_visit(node)
            node.body = node.body or [ast.Pass()]
            return node

        def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
            if id(node) in fields:
                node.annotation = ast.Name("Any", ast.Load())
                return node
            return None if node.value is None else ast.Assign([node.target], node.value)

    changed: ast.Module = Plain().visit(tree)
    return changed


def with_other_errors(tree: ast.Module) -> ast.Module:
    """Every text within a ``raise`` is another, f-strings too."""

    class Reworded(ast.NodeTransformer):
        def visit_Raise(self, node: ast.Raise) -> ast.Raise:
            if isinstance(node.exc, ast.Call):
                node.exc.args = [ast.Constant("something is wrong")]
                node.exc.keywords = []
            return node

    changed: ast.Module = Reworded().visit(tree)
    return changed


def reordered(tree: ast.Module) -> ast.Module:
    """Functions and classes the other way round."""
    moved = (ast.FunctionDef, ast.ClassDef)
    turned = iter([node for node in tree.body if isinstance(node, moved)][::-1])
    tree.body = [next(turned) if isinstance(node, moved) else node for node in tree.body]
    return tree


def with_other_variables(tree: ast.Module) -> ast.Module:
    """Every variable that a function binds, its parameters apart, has another name."""
    for node in tree.body:
        functions = [node] if isinstance(node, ast.FunctionDef) else getattr(node, "body", [])
        for function in functions:
            if isinstance(function, ast.FunctionDef):
                _rename_variables(function)
    return tree


def _rename_variables(function: ast.FunctionDef) -> None:
    every = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
    kept = {a.arg for n in ast.walk(function) if isinstance(n, ast.arguments)
            for a in (*n.posonlyargs, *n.args, *n.kwonlyargs, n.vararg, n.kwarg) if a}  # fmt: skip
    kept |= {alias for n in ast.walk(function) if isinstance(n, ast.Nonlocal) for alias in n.names}
    bound = {n.id for n in every if isinstance(n.ctx, ast.Store)} - kept
    for name in every:
        if name.id in bound:
            name.id = f"other_{name.id}"


def mutants(tree: ast.Module, names: set[str], most: int) -> Iterator[tuple[str, ast.Module]]:
    """Changes of one number, operator or order in the definitions ``names``: what it is, and the changed tree.

    Some ``most`` of them, spread over the file. Error texts, annotations, docstrings, and what a method says of itself
    are left as they are.
    """
    text = ast.unparse(tree)
    count = len(list(_places(tree, names)))
    for number in range(0, count, max(1, count // most)):
        again = ast.parse(text)
        yield _mutate(list(_places(again, names))[number]), again


def _places(tree: ast.Module, names: set[str]) -> Iterator[ast.AST]:
    for node in tree.body:
        if getattr(node, "name", "") in names:
            yield from _within(node)


def _within(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Raise):
        return
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield node
    elif isinstance(node, ast.BinOp) and ast.dump(node.left) != ast.dump(node.right):
        yield node
    elif isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.IfExp)):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                yield from _within(each)


def _mutate(node: ast.AST) -> str:
    where = ast.unparse(node)
    if isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else 2 * node.value + 1
    elif isinstance(node, ast.BinOp):
        node.left, node.right = node.right, node.left
    elif isinstance(node, ast.Compare):
        node.ops[0] = ast.LtE() if isinstance(node.ops[0], ast.Lt) else ast.Lt()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.Not() if not isinstance(node.op, ast.Not) else ast.UAdd()
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    return f"{where} -> {ast.unparse(node)}"
