"""The version of a method: a hash of its code that comments, docstrings, layout and the interpreter do not change."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

# Written by no author: how a name is used, the spelling u"", and type comments.
_LEFT_OUT = {"ctx", "kind", "type_comment", "type_ignores"}
# Discovery and error messages: no result depends on them.
_NO_ARITHMETIC = {"registry.py", "__init__.py"}


def method_version(path: str | Path, *others: str | Path) -> str:
    """First 16 hexadecimal digits of the hash of the file at `path` and all it imports from its own package
    (but the registry, on which no result depends).

    Imports are followed through modules of the folder `path` lies in (its package), also those inside functions and
    relative ones; `others` are files that the method reaches by name only, such as an inner method from the registry.
    Raises OSError or SyntaxError for a file that cannot be read or parsed.
    """
    waiting = [Path(path).resolve(), *(Path(other).resolve() for other in others)]
    folder = waiting[0].parent
    package = folder.name
    digests: dict[str, str] = {}
    while waiting:
        file = waiting.pop()
        key = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
        if key in digests or (file.parent == folder and file.name in _NO_ARITHMETIC):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        digests[key] = hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()
        waiting += [found for name in _imported(tree, package) if (found := _module(folder, name))]
    text = repr([digests.pop(Path(path).name), *sorted(digests.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(node: Any) -> Any:
    """The tree as nested tuples of what is set, as `ast.dump` writes it differently from one Python to the next."""
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                value = value[1:] if _is_docstring(value) else value
            if name not in _LEFT_OUT and value is not None and value != []:
                fields.append((name, _plain(value)))
        return (type(node).__name__, *fields)
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return node


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _imported(tree: ast.AST, package: str) -> set[str]:
    """Dotted names below `package` that the tree imports; the importing module lies directly in the package."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name[len(package) + 1 :] for alias in node.names if alias.name.startswith(package + ".")}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0 and module != package and not module.startswith(package + "."):
                continue
            base = module if node.level else module[len(package) + 1 :]
            found |= {f"{base}.{alias.name}" if base else alias.name for alias in node.names}
            found |= {base} - {""}
    return found


def _module(folder: Path, name: str) -> Path | None:
    stem = folder.joinpath(*name.split("."))
    for file in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
        if file.is_file():
            return file
    return None
