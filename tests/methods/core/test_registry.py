"""The registry reads what methods declare from their source, and the import says the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import methods


def test_registry_reads_methods_without_torch() -> None:
    code = "import sys, methods; methods.names(); methods.describe('symerge'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_what_the_source_says_is_what_the_import_gives() -> None:
    for name in methods.names():
        read, made = methods.describe(name), methods.get(name)
        for field in ("name", "title", "paper", "access", "parameters", "access_if", "grids"):
            assert getattr(read, field) == getattr(made, field), (name, field)
