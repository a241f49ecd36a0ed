"""Records, caches, checkpoints and saved merges altered at random offsets: noticed, and put right or refused."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import damage
from helpers.tiny import TinyBench, only, run

from benchmark import suites
from benchmark.checkpoints import families
from benchmark.common.errors import UserError
from benchmark.common.project import REFERENCE
from benchmark.domains.vision import embedded as vision
from benchmark.harness import judging, runner
from benchmark.records.store import RECORD, Store

TIMES = int(os.environ.get("SYMERGE_DAMAGE", 1000))


@pytest.mark.timeout(3600)
def test_a_damaged_record_is_set_aside_or_reads_the_same(tmp_path: Path, count: Any) -> None:
    whole = sorted(Store(REFERENCE, read_only=True).all("vision-mini-8"), key=lambda r: r.run_id)[:8]
    rng, outcomes, store = random.Random(0), Counter[str](), Store(tmp_path)
    for number in range(TIMES):
        record = whole[number % len(whole)]
        path = store.save(record)
        path.write_bytes(damage.bytes_of(path.read_bytes(), rng))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.load(record.spec)
        assert found in (None, record), f"alteration {number} of {record.run_id} was read as something else"
        assert found is not None or said, "a record that is not read is spoken of"
        outcomes["read the same" if found else "set aside"] += 1
        shutil.rmtree(path.parent)
    for what, times in outcomes.items():
        count(what, times)


@pytest.mark.timeout(3600)
def test_a_damaged_cache_gives_the_committed_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Any
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    whole = vision.load_split("OptDigits", "validation")
    images, labels = np.array(whole.images), whole.labels.copy()
    del whole
    rng = random.Random(1)
    for _ in range(TIMES // 4):
        path = rng.choice(sorted((tmp_path / "vision").iterdir()))
        path.write_bytes(damage.bytes_of(path.read_bytes(), rng))
        found = vision.load_split("OptDigits", "validation")
        assert np.array_equal(found.images, images) and np.array_equal(found.labels, labels)
    count("caches built again or whole", TIMES // 4)


@pytest.mark.timeout(3600)
def test_a_damaged_checkpoint_is_always_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    folder = tmp_path / "ViT-mini"
    shutil.copytree(families.MINI / "ViT-mini", folder)
    monkeypatch.setattr("benchmark.checkpoints.families.MINI", tmp_path)
    suite, rng, refused = suites.load("vision-mini-8"), random.Random(2), 0
    files = [folder / "base.safetensors", *(folder / f"{task}.safetensors" for task in suite.tasks)]
    files += [folder / "heads" / f"{task}.safetensors" for task in suite.tasks]
    for _ in range(TIMES // 4):
        path = rng.choice(files)
        kept = path.read_bytes()
        path.write_bytes(damage.bytes_of(kept, rng))
        with pytest.raises(UserError, match=path.name):
            suites.open_bench(suite)
        refused += 1
        path.write_bytes(kept)
    count("refused", refused)


@pytest.mark.timeout(3600)
def test_a_damaged_merge_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    bench, store, rng = TinyBench(), Store(tmp_path), random.Random(3)
    whole = run(bench, Store(tmp_path / "whole"), "ties")[-1]
    real, spec = judging.evaluate, only(bench, "ties").spec
    run(bench, store, "task_arithmetic")

    def dies(*arguments: Any, **keywords: Any) -> Any:
        raise KeyboardInterrupt

    times = TIMES // 20
    for _ in range(times):
        monkeypatch.setattr(judging, "evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            run(bench, store, "ties")
        monkeypatch.setattr(judging, "evaluate", real)
        path = store.folder(spec) / runner.MERGED
        path.write_bytes(damage.bytes_of(path.read_bytes(), rng))
        again = run(bench, store, "ties")[-1]
        assert again.status == "done" and again.tasks == whole.tasks
        shutil.rmtree(store.folder(spec))
    count("merges made again", times)


def test_a_truncated_record_is_noticed_wherever_it_ends(tmp_path: Path, count: Any) -> None:
    bench, store = TinyBench(), Store(tmp_path)
    record = run(bench, store, "ties")[-1]
    path = store.folder(record.spec) / RECORD
    whole = path.read_bytes()
    cuts = range(0, len(whole) - 1, max(1, len(whole) // 500))
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match="damaged"):
            assert store.load(record.spec) is None
    count("cuts", len(cuts))
