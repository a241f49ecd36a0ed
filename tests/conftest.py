import gc
import os
import sys

# Tiny models gain nothing from threads, and lose much to them on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from helpers.comparing import compares_numbers  # noqa: E402
from helpers.lacking import lacks, summary  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# How fast inputs are made says something of the machine, which may be busy, and nothing of the project.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


#: What stand-ins of methods import, and takes long.
LIBRARIES = {"helpers.support", "torchmetrics", "pydantic", "pandas", "pytest"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--method NAME``: the tests that every method is put through, of this one alone."""
    parser.addoption(
        "--method", metavar="NAME", action="append", help="of what is parametrised by methods, this one alone"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what compares numbers; begin with what is slow; skip what needs a CUDA device, where there is none."""
    if names := config.getoption("--method"):
        of = {item: getattr(item, "callspec", _Plain).params.values() for item in items}
        for name in names:
            if not any(name in values for values in of.values()):
                raise pytest.UsageError(f"no test is of a method {name!r}; ./run_all.sh list methods has their names")
        chosen = [item for item, values in of.items() if any(name in values for name in names)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    for item in items:
        if compares_numbers(getattr(item, "function", None)):
            item.add_marker(pytest.mark.numbers)
    # Files with long tests begin first, so that no process is left alone with one of them at the end.
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason=lacks("no CUDA device", "./run_all.sh --test -m cuda, on a machine with a GPU"))
        for item in marked:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What all tests import stays to the end; collections of what one test leaves need not walk it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers, whichever tests ran before it in its process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def server_of_tests() -> Iterator[None]:
    """The server that methods' processes are forked from has imported libraries, and nothing of the harness."""
    try:
        from benchmark.harness import setup
    except ImportError:  # of a folder of tests alone
        yield
        return
    start = setup.start_server
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "start_server", lambda modules: start(modules | LIBRARIES))
        yield


class _Plain:
    """A test without parameters."""

    params: dict[str, Any] = {}


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.cuda)])
def cuda(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A machine with CUDA: an emulated one of two devices (helpers/emulated), or None for the real one."""
    if request.param == "real":
        yield None
        return
    import torch
    from helpers import emulated

    if torch.cuda.is_available():
        pytest.skip(lacks("a CUDA device is here", "./run_all.sh --test -m cuda, on that device"))
    with emulated.here(2) as machine:
        yield machine


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end what was skipped, and what would run it."""
    if lines := summary(terminalreporter.getreports("skipped")):
        terminalreporter.section("skipped, and what would run it")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With SYMERGE_PARITY=1, keep the largest difference of each method from its golden vectors (methods/README.md)."""
    if not os.environ.get("SYMERGE_PARITY"):
        return
    import json

    from helpers.support import GOLDEN, MEASURED

    (GOLDEN / "parity.json").write_text(json.dumps(dict(sorted(MEASURED.items())), indent=1) + "\n")
