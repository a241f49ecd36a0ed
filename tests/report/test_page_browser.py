"""`leaderboard.html` in a real browser: sort, filter, drill-down, keyboard, narrow screen, no network, no errors."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.lacking import lacks, lacks_package

selenium = pytest.importorskip("selenium", reason=lacks_package("selenium", "dev"))
BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not BROWSER or not DRIVER,
    reason=lacks("no chromium and chromedriver on this machine", "apt-get install chromium chromium-driver"),
)


#: It asks the network for nothing of its own; the sandbox is off since a build often runs as root.
ARGUMENTS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-quic", "no-first-run", "window-size=1400,1000",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in (*ARGUMENTS, f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def open_page(browser: Any, written: Path) -> Iterator[Any]:  # noqa: F811
    browser.get("about:blank")
    browser.get(f"{written.as_uri()}#vision-mini-8--ViT-mini--project")
    until(browser, "document.querySelectorAll('.tabulator-row').length")
    yield browser
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        sent = message["params"] if message["method"] == "Network.requestWillBeSent" else None
        # The browser's own first tab is no part of the page.
        if sent and not sent["documentURL"].startswith("chrome:"):
            url = sent["request"]["url"]
            assert url.startswith(("file:", "data:", "about:")), url
    assert browser.title != "run", "a record's text ran as code"


def until(browser: Any, script: str) -> Any:
    limit = time.monotonic() + 10
    while not (found := browser.execute_script(f"return {script}")):
        assert time.monotonic() < limit, script
        time.sleep(0.02)
    return found


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def methods(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.tabulator-row [tabulator-field=method]')].map(e => e.textContent)"
    return browser.execute_script(script)


def header(browser: Any, field: str) -> Any:
    return find(browser, f".tabulator-col[tabulator-field={field}]")


def choose(browser: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(find(browser, f"#{name}")).select_by_value(value)


def test_columns_sort_both_ways_with_empty_cells_last(open_page: Any) -> None:
    assert methods(open_page)[:2] == ["individual", "symerge"]
    header(open_page, "rank").click()
    assert methods(open_page)[:2] == ["symerge", "emr"] and set(methods(open_page)[-2:]) == {"individual", "pretrained"}
    header(open_page, "rank").click()
    assert methods(open_page)[0] == "fisher" and set(methods(open_page)[-2:]) == {"individual", "pretrained"}
    header(open_page, "mean").click()
    assert methods(open_page) == ["individual", "symerge", "emr", "ties", "fisher", "pretrained"]


def test_search_and_filters_leave_the_rows_that_fit(open_page: Any) -> None:
    find(open_page, "#search").send_keys("sym")
    assert methods(open_page) == ["symerge"] and "1 of 6" in find(open_page, "#count").text
    find(open_page, "#search").send_keys("\ue003" * 3)
    for access, wanted in (("unlabelled", {"symerge"}), ("labelled", {"fisher"})):
        choose(open_page, "access", access)
        assert set(methods(open_page)) == wanted
    choose(open_page, "access", "")
    choose(open_page, "storage", "more")
    assert methods(open_page) == ["emr"]
    assert open_page.execute_script("return document.querySelectorAll('#figure [role=button]').length") == 1
    choose(open_page, "storage", "one")
    assert "emr" not in methods(open_page) and len(methods(open_page)) == 5


def test_tabs_and_domains_choose_the_suite(open_page: Any) -> None:
    find(open_page, "[id='tab-vision-8--ViT-B-32--tall']").click()
    until(open_page, "document.querySelectorAll('.tabulator-row').length === 3")
    assert methods(open_page) == ["individual", "tsv_m", "iso_c"]
    row = open_page.find_elements("css selector", ".tabulator-row")[1]
    assert row.find_element("css selector", "[tabulator-field=published]").text == "85.9"
    choose(open_page, "domain", "published")
    until(open_page, "document.getElementById('title').textContent === 'Published numbers'")
    assert len(open_page.find_elements("css selector", "#tabs button")) == 1


def test_columns_can_be_chosen(open_page: Any) -> None:
    width = "document.querySelector('.tabulator-col[tabulator-field=mnist]').offsetWidth"
    assert open_page.execute_script(f"return {width}") == 0
    find(open_page, "#columns summary").click()
    find(open_page, "#choices label[title*='mnist'] input").click()
    until(open_page, f"{width} > 20")


def test_headers_say_what_they_mean(open_page: Any) -> None:
    assert "lowest" in header(open_page, "worst_task").get_attribute("title")
    titles = open_page.execute_script("return [...document.querySelectorAll('.tabulator-col')].map(e => e.title)")
    assert all(titles)


def test_a_method_opens_its_tasks_and_records(open_page: Any) -> None:
    open_page.find_elements("css selector", ".tabulator-cell button")[1].click()
    text = find(open_page, "#details").text
    assert text.startswith("Close\nsymerge") and all(task in text for task in ("mnist", "fashion", "optdigits"))
    links = open_page.find_elements("css selector", "#details li a")
    assert len(links) == 5 and all(link.get_attribute("href").endswith("/record.json") for link in links)
    links[0].click()
    assert '"run_id"' in open_page.page_source
    open_page.back()


def test_hostile_text_of_a_record_is_shown_as_text(open_page: Any) -> None:
    open_page.find_elements("css selector", ".tabulator-cell button")[0].click()
    assert "<script>" in find(open_page, "#details").text and open_page.title == "Model merging leaderboard"


def test_everything_can_be_done_by_keyboard(open_page: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        ActionChains(open_page).send_keys(*keys).perform()

    open_page.execute_script("document.querySelector('#tabs [aria-selected=true]').focus()")
    press(Keys.ARROW_LEFT)
    until(open_page, "document.querySelectorAll('.tabulator-row').length === 3")
    press(Keys.ARROW_RIGHT)
    until(open_page, "document.querySelectorAll('.tabulator-row').length === 6")
    open_page.execute_script("document.querySelector('.tabulator-col[tabulator-field=mean]').focus()")
    press(Keys.ENTER)
    assert methods(open_page)[0] == "individual"
    press(Keys.ENTER)
    assert methods(open_page)[0] == "pretrained"
    reached, focused = set(), "const e = document.activeElement; return e.tagName + ' ' + e.textContent"
    for _ in range(60):
        press(Keys.TAB)
        reached.add(open_page.execute_script(focused))
    assert {"BUTTON ties", "BUTTON emr"} <= reached
    open_page.execute_script("document.querySelectorAll('.tabulator-cell button')[1].focus()")
    press(Keys.ENTER)
    assert find(open_page, "#details").is_displayed()
    press(Keys.ESCAPE)
    assert not find(open_page, "#details").is_displayed()
    assert open_page.execute_script("return document.activeElement.tagName") == "BUTTON", "focus returns"
    open_page.execute_script("document.querySelector('#figure [role=button]').focus()")
    press(Keys.ENTER)
    assert find(open_page, "#details").is_displayed()


def test_the_plot_follows_the_cost_chosen(open_page: Any) -> None:
    for cost in ("adapt_and_merge_seconds", "storage_models", "peak_anonymous_mib"):
        choose(open_page, "cost", cost)
        assert len(open_page.find_elements("css selector", "#figure [role=button]")) == 4
        assert "NaN" not in find(open_page, "#figure").get_attribute("innerHTML")


def test_a_narrow_screen_scrolls_tables_and_not_the_page(open_page: Any) -> None:
    size = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    open_page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page.refresh()
        until(open_page, "document.querySelectorAll('.tabulator-row').length")
        assert open_page.execute_script("return document.documentElement.scrollWidth") <= 360
        button = find(open_page, ".tabulator-cell button")
        button.click()
        assert find(open_page, "#details").is_displayed()
        assert open_page.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        open_page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def contrast(browser: Any, selector: str) -> float:
    script = """const rgb = (e, name) => getComputedStyle(e)[name].match(/[0-9.]+/g).slice(0, 3).map(Number);
    const light = (c) => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const e = document.querySelector(arguments[0]);
    const [a, b] = [light(rgb(e, 'color')), light(rgb(document.body, 'backgroundColor'))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05)"""
    return float(browser.execute_script(script, selector))


def test_light_and_dark_can_both_be_read(open_page: Any) -> None:
    cells = [f".tabulator-{kind}" for kind in ("cell button", "cell a", "row.unranked .tabulator-cell")]
    for _ in range(2):
        for selector in ("body", "#note", *cells):
            assert contrast(open_page, selector) >= 4.5, selector
        find(open_page, "#theme").click()
