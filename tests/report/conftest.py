"""A page of boards, written once for the tests that read it, and the browsers that open it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import browsers
from helpers.lacking import lacks, lacks_package
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


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason=lacks_package("selenium", "dev"))
    if not browsers.INSTALLED[request.param] or not browsers.DRIVERS[request.param]:
        pytest.skip(lacks(*browsers.INSTALL[request.param]))
    folder = tmp_path_factory.mktemp("browser")
    driver = browsers.MAKE[request.param](folder)
    driver.downloads = folder / "downloads"
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def open_page(browser: Any, written: Path) -> Iterator[Any]:
    browsers.visit(browser, written, "#vision-mini-8--ViT-mini--project")
    yield browser
    assert browser.title != "run", "a record's text ran as code"
    if not browsers.is_chromium(browser):
        return
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        sent = message["params"] if message["method"] == "Network.requestWillBeSent" else None
        # The browser's own first tab is no part of the page.
        if sent and not sent["documentURL"].startswith("chrome:"):
            url = sent["request"]["url"]
            assert url.startswith(("file:", "data:", "about:", "blob:")), url


@pytest.fixture
def chromium(open_page: Any) -> Any:
    """The open page, in the browser whose screen can be made that of a phone, and that tells of its layout."""
    if not browsers.is_chromium(open_page):
        pytest.skip(lacks("this browser has no such tool", "Chromium, which has, is shown the same page"))
    return open_page
