"""The house, measured from its imports: `python tests/house.py [FOLDER]` prints rooms, floors, arrows and long files.

A room is a folder of `benchmark/`, or a part of `methods/`; an arrow is a pair of rooms of which one imports the other,
also inside functions and for annotations alone.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmark", "methods")
#: From the ground up: each room imports rooms below it only. The papers stand on their own ground.
FLOORS = (
    "methods.core", "methods.tools", "methods",
    "common", "records", "scores", "suites", "checkpoints", "harness", "domains", "importers", "merging",
    "submissions", "board", "budget", "executors", "assets", "studies", "report", "cli",
)  # fmt: skip


def modules(root: Path = ROOT) -> dict[str, Path]:
    """`{dotted name: file}` of the project."""
    names = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(name: str, files: dict[str, Path], *, lazy: bool = True, typing: bool = False) -> set[str]:
    """Dotted names that module `name` imports.

    Args:
        lazy: also those inside functions; without it, only those made when the module is itself imported.
        typing: also those for annotations alone.
    """
    file = files[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    dotted: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if isinstance(child, ast.Import):
                dotted |= {alias.name for alias in child.names}
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, *([base] if base else [])])
                dotted |= {base} | {f"{base}.{alias.name}" for alias in child.names}
            type_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if (typing or not type_checking) and (lazy or not function):
                waiting.append(child)
    return dotted


def room(module: str) -> str:
    """The room a module lies in; `benchmark` itself is the door."""
    parts = module.split(".")
    if parts[0] == "methods":
        return ".".join(parts[:2]) if len(parts) > 1 and parts[1] in ("core", "tools") else "methods"
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else "the door"


def arrows(files: dict[str, Path]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """`{(from room, to room): [(module, imported module), ...]}`."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in files:
        for dotted in sorted(imports(name, files, typing=True)):
            if dotted in files and dotted != "benchmark" and room(dotted) != room(name):
                pairs.setdefault((room(name), room(dotted)), []).append((name, dotted))
    return pairs


def floors(pairs: dict[tuple[str, str], list[tuple[str, str]]]) -> dict[str, int]:
    """The lowest floor on which each room can stand: one above everything it imports. Raises ValueError on a circle."""
    below: dict[str, set[str]] = {name: set() for pair in pairs for name in pair}
    for upper, lower in pairs:
        below[upper].add(lower)
    height: dict[str, int] = {}
    while len(height) < len(below):
        ready = [name for name in below if name not in height and below[name] <= height.keys()]
        if not ready:
            raise ValueError(f"a circle among {', '.join(sorted(below.keys() - height.keys()))}")
        height.update({name: 1 + max((height[each] for each in below[name]), default=0) for name in ready})
    return height


def main(root: Path) -> None:
    """Print the measures of the project in `root`."""
    files = modules(root)
    pairs = arrows(files)
    rooms = sorted({room(name) for name in files})
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in files.items()}
    print(f"rooms {len(rooms)}, arrows {len(pairs)}, modules {len(files)}, lines {sum(lines.values())}")
    try:
        height = floors(pairs)
        for floor in sorted(set(height.values()), reverse=True):
            print(f"  floor {floor}: {', '.join(sorted(n for n in height if height[n] == floor))}")
    except ValueError as error:
        print(f"  no floors: {error}")
    for name, count in sorted(lines.items(), key=lambda pair: -pair[1]):
        if count > 400:
            print(f"  {count} lines: {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
