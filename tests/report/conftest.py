"""A page of boards, written once for the tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.pages import HOSTILE, some_records

from benchmark.board import rows
from benchmark.records.store import Store
from benchmark.report import page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page with spaces")
    store = Store(root / "reference")
    for record in some_records(HOSTILE):
        store.save(record)
    return page.write(rows.boards(store.all()), root, [store.root])
