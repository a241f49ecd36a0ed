"""Why a test is skipped, and what would run it; ``conftest.py`` says both at the end of a run."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

THEN = "; what would run it: "


def lacks(what: str, then: str) -> str:
    """The reason of a skip: what is missing here, and what to type (or to have) so that the test runs."""
    return f"{what}{THEN}{then}"


def lacks_package(name: str, extra: str) -> str:
    """The same for a package that an extra of this project installs."""
    return lacks(f"{name} is not installed", f"{shlex.quote(sys.executable)} -m pip install -e '.[{extra}]'")


def summary(reports: Iterable[Any]) -> list[str]:
    """Two lines for every reason of these reports of skipped tests, the most frequent first."""
    tests, files = Counter[str](), Counter[str]()
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        # A file that skips itself while it is read has no tests yet to be counted.
        counted = files if report.when == "collect" else tests
        counted[reason.removeprefix("Skipped: ")] += 1
    lines = []
    for reason, _ in (tests + files).most_common():
        what, _, then = reason.partition(THEN)
        counts = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((tests[reason], "test"), (files[reason], "file")) if n]
        lines += [f"{' and '.join(counts)}: {what}", f"    {then or 'nothing here says what would run it'}"]
    return lines
