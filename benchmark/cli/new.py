"""The command ``new``: a method's file from a template that runs as it stands. No torch."""

from __future__ import annotations

import argparse
import json
import keyword
import re
from pathlib import Path

import methods
from benchmark.common.errors import UserError, shown
from benchmark.common.files import cannot_write
from benchmark.common.project import ROOT

TEMPLATES = {"none": "method.py", "unlabelled": "method_with_data.py"}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("name", metavar="NAME", help="of the method and its file: small letters, digits, _")
    parser.add_argument("--title", help="as boards show it; default: the name in words")
    parser.add_argument("--paper", default="none", help="such as arXiv:2412.19098; default none")
    parser.add_argument(
        "--data", choices=list(TEMPLATES), default="none", help="what it sees: nothing, or unlabelled test inputs"
    )


def command(arguments: argparse.Namespace) -> None:
    """``new``: write ``methods/NAME.py``. Raises UserError for a name that cannot be one, or is there already."""
    name = arguments.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} is no name of a method: small letters, digits and _, a letter first",
            f"Type e.g. ./run_all.sh new {re.sub(r'[^a-z0-9_]+', '_', name.lower()).strip('_0123456789') or 'mine'}",
        )
    path = Path(methods.__file__).parent / f"{name}.py"
    if path.exists() or name in methods.names():
        raise UserError(f"there is a method {name} already", f"Choose another name, or edit {shown(path)}")
    title = arguments.title or name.replace("_", " ").title()
    text = (ROOT / "docs" / "templates" / TEMPLATES[arguments.data]).read_text(encoding="utf-8")
    text = text.replace("def my_method(", f"def {name}(")
    text = text.replace('title="My Method"', f"title={_quoted(title)}")
    text = text.replace('paper="arXiv:0000.00000"', f"paper={_quoted(arguments.paper)}")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from None
    print(
        f"wrote methods/{name}.py, which runs as it is. Next:\n"
        f"  ./run_all.sh --test --method {name}                       its tests, in seconds\n"
        f"  ./run_all.sh --suite vision-mini-8 --methods {name} ties  seconds, for code\n"
        f"  ./run_all.sh --methods {name} ties tsv_m                  the suite whose ranking counts"
    )


def _quoted(text: str) -> str:
    """As a string of Python, in the quotes that the formatter takes."""
    return repr(text) if '"' in text else json.dumps(text, ensure_ascii=False)
