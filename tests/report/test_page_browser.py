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
CHROMIUM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
FIREFOX = next((path for name in ("firefox", "firefox-esr") if (path := shutil.which(name))), None)
DRIVERS = {"chromium": shutil.which("chromedriver"), "firefox": shutil.which("geckodriver")}
INSTALLED = {"chromium": CHROMIUM, "firefox": FIREFOX}
INSTALL = {
    "chromium": ("no chromium and chromedriver on this machine", "apt-get install chromium chromium-driver"),
    "firefox": (
        "no firefox and geckodriver on this machine",
        "apt-get install firefox-esr, and geckodriver from github.com/mozilla/geckodriver",
    ),
}

#: It asks the network for nothing of its own; the sandbox is off since a build often runs as root.
ARGUMENTS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-quic", "no-first-run", "window-size=1440,1000",
)  # fmt: skip


def _chromium(folder: Path) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*ARGUMENTS, f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVERS["chromium"]))


def _firefox(folder: Path) -> Any:
    from selenium import webdriver

    options = webdriver.FirefoxOptions()
    options.binary_location = FIREFOX or ""
    for argument in ("-headless", "--width=1440", "--height=1000"):
        options.add_argument(argument)
    saved = {"browser.download.folderList": 2, "browser.download.dir": str(folder / "downloads")}
    for name, value in saved.items():
        options.set_preference(name, value)
    return webdriver.Firefox(options=options, service=webdriver.FirefoxService(DRIVERS["firefox"]))


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not INSTALLED[request.param] or not DRIVERS[request.param]:
        pytest.skip(lacks(*INSTALL[request.param]))
    folder = tmp_path_factory.mktemp("browser")
    driver = {"chromium": _chromium, "firefox": _firefox}[request.param](folder)
    driver.downloads = folder / "downloads"
    try:
        yield driver
    finally:
        driver.quit()


def is_chromium(browser: Any) -> bool:
    return browser.capabilities["browserName"] != "firefox"


@pytest.fixture
def chromium(open_page: Any) -> Any:
    """The open page, in the browser whose screen can be made that of a phone, and that tells of its layout."""
    if not is_chromium(open_page):
        pytest.skip("this browser has no such tool; Chromium, which has, shows the same page")
    return open_page


@pytest.fixture
def open_page(browser: Any, written: Path) -> Iterator[Any]:  # noqa: F811
    visit(browser, written, "#vision-mini-8--ViT-mini--project")
    yield browser
    assert browser.title != "run", "a record's text ran as code"
    if not is_chromium(browser):
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


def visit(browser: Any, written: Path, address: str) -> None:
    """Open the page anew."""
    browser.get("about:blank")
    browser.get(f"{written.as_uri()}{address}")
    until(browser, f"document.querySelectorAll('{ROW}').length")


#: A row of a method; the titles of tracks are rows of the table as well.
ROW = ".tabulator-row:not(.tabulator-group)"


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
    assert methods(open_page) == ["ties", "symerge", "emr", "fisher", "individual", "pretrained"]
    choose(open_page, "track", "list")
    assert methods(open_page)[:2] == ["symerge", "emr"] and set(methods(open_page)[-2:]) == {"individual", "pretrained"}
    header(open_page, "overall").click()
    assert methods(open_page)[0] == "fisher" and set(methods(open_page)[-2:]) == {"individual", "pretrained"}
    header(open_page, "mean").click()
    assert methods(open_page) == ["individual", "symerge", "emr", "ties", "fisher", "pretrained"]


@pytest.mark.parametrize(
    "field", ["rank", "overall", "may_rank", "above_text", "mean_interval", "reference", "chosen_text"]
)
def test_empty_cells_are_last_in_both_directions_in_every_kind_of_column(open_page: Any, field: str) -> None:
    choose(open_page, "track", "list")
    open_page.execute_script("table.showColumn(arguments[0])", field)
    script = f"return [...document.querySelectorAll('{ROW} [tabulator-field={field}]')].map(e => e.textContent)"
    for direction in ("asc", "desc"):
        open_page.execute_script("table.setSort(arguments[0], arguments[1])", field, direction)
        cells = open_page.execute_script(script)
        full = [place for place, text in enumerate(cells) if text != "–"]
        assert len(cells) == 6 and full == list(range(len(full))), (direction, cells)


def test_tracks_are_shown_apart_or_one_or_all_in_one_list(open_page: Any) -> None:
    def titles() -> list[str]:
        groups = open_page.find_elements("css selector", ".tabulator-group strong")
        return [group.text for group in groups if group.is_displayed()]

    assert titles() == [
        "Data-free", "Test-time adaptation", "More than one model", "Training", "References",
    ]  # fmt: skip
    ranks = "return [...document.querySelectorAll('.tabulator-row [tabulator-field=rank]')].map(e => e.textContent)"
    assert open_page.execute_script(ranks) == ["1", "1", "1", "1", "–", "–"]
    choose(open_page, "track", "test-time")
    assert methods(open_page) == ["symerge"] and titles() == ["Test-time adaptation"]
    choose(open_page, "track", "list")
    assert len(methods(open_page)) == 6 and not titles()
    choose(open_page, "track", "")
    assert len(titles()) == 5


def test_the_best_of_each_track_stand_above_the_table(open_page: Any) -> None:
    text = find(open_page, "#leaders").text
    assert "Data-free" in text and "symerge" in text and "individual" not in text
    find(open_page, "#leaders button").click()
    assert find(open_page, "#details h2").text == "ties"


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
    until(open_page, f"document.querySelectorAll('{ROW}').length === 3")
    assert methods(open_page) == ["tsv_m", "iso_c", "individual"]
    row = open_page.find_elements("css selector", ROW)[0]
    assert row.find_element("css selector", "[tabulator-field=published]").text == "85.9"
    choose(open_page, "domain", "published")
    until(open_page, "document.getElementById('title').textContent === 'Published numbers'")
    assert len(open_page.find_elements("css selector", "#tabs button")) == 1


def test_published_numbers_have_filters(open_page: Any) -> None:
    find(open_page, "#tab-published").click()
    until(open_page, "document.getElementById('title').textContent === 'Published numbers'")
    whole = open_page.execute_script("return table.getDataCount('active')")
    assert whole > 400
    choose(open_page, "filter-suite", "vision-8")
    choose(open_page, "filter-backbone", "ViT-B-32")
    rows = open_page.execute_script("return table.getData('active').map(row => [row.suite, row.backbone])")
    assert 0 < len(rows) < whole and {tuple(row) for row in rows} == {("vision-8", "ViT-B-32")}
    assert f"{len(rows)} of {whole}" in find(open_page, "#count").text


def test_columns_can_be_chosen(open_page: Any) -> None:
    width = "document.querySelector('.tabulator-col[tabulator-field=mnist]').offsetWidth"
    assert open_page.execute_script(f"return {width}") == 0
    find(open_page, "#columns summary").click()
    find(open_page, "#choices label[title*='mnist'] input").click()
    until(open_page, f"{width} > 20")


def test_headers_say_what_they_mean(open_page: Any) -> None:
    assert "lowest" in header(open_page, "worst_text").get_attribute("title")
    titles = open_page.execute_script("return [...document.querySelectorAll('.tabulator-col')].map(e => e.title)")
    assert all(titles)
    # What a pointer reads by hovering, a finger and a screen reader find in a list.
    find(open_page, "#glossary summary").click()
    assert "the task with the lowest score" in find(open_page, "#meanings").text


def button_of(browser: Any, method: str) -> Any:
    (found,) = [e for e in browser.find_elements("css selector", "[tabulator-field=method] button") if e.text == method]
    # A driver scrolls it to the very top otherwise, where the header lies over it.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    return found


def test_a_method_opens_its_tasks_and_readable_records(open_page: Any) -> None:
    button_of(open_page, "symerge").click()
    text = find(open_page, "#details").text
    assert all(task in text for task in ("mnist", "fashion", "optdigits")) and "Records of its 5 runs" in text
    assert "./run_all.sh --suite vision-mini-8 --methods symerge --seeds 0 1 2 3 4" in text
    assert "2026-01-01 00:01:00" in text and "0123456789abcdef" in text and "1.5, 0.0, 2.0" in text
    links = open_page.find_elements("css selector", "#details td a, #details tbody th a")
    assert len(links) == 5 and all(link.get_attribute("href").endswith("/record.json") for link in links)
    links[0].click()
    assert '"run_id"' in open_page.page_source
    open_page.back()


def test_a_score_opens_the_record_and_not_raw_json(open_page: Any) -> None:
    score = open_page.find_element("css selector", f"{ROW} [tabulator-field=mean] button")
    assert score.get_attribute("aria-label").startswith("ties, mean ")
    score.click()
    assert find(open_page, "#details h2").text == "ties" and "How to repeat it" in find(open_page, "#details").text
    find(open_page, "#details .close").click()
    assert not find(open_page, "#details").is_displayed()


def test_two_methods_are_compared_in_one_sentence(open_page: Any) -> None:
    from selenium.webdriver.support.ui import Select

    Select(find(open_page, "#first")).select_by_visible_text("symerge")
    Select(find(open_page, "#second")).select_by_visible_text("ties")
    said = find(open_page, "#verdict").text
    assert said.startswith("symerge is surely better than ties at 95 %: +1") and "3 of 3 tasks, lower on 0" in said
    assert "seeds: 5 and 1" in said
    Select(find(open_page, "#first")).select_by_visible_text("ties")
    Select(find(open_page, "#second")).select_by_visible_text("symerge")
    assert find(open_page, "#verdict").text.startswith("ties is surely worse than symerge at 95 %: −1")


def test_filters_sorting_and_what_is_open_stand_in_the_address(open_page: Any, written: Path) -> None:
    from selenium.webdriver.support.ui import Select

    choose(open_page, "track", "list")
    find(open_page, "#search").send_keys("e")
    header(open_page, "mean").click()
    choose(open_page, "cost", "storage_models")
    Select(find(open_page, "#first")).select_by_visible_text("fisher")
    button_of(open_page, "ties").click()
    address = open_page.execute_script("return location.hash")
    parts = set(address.removeprefix("#vision-mini-8--ViT-mini--project&").split("&"))
    assert parts == {"track=list", "q=e", "sort=mean-desc", "cost=storage_models", "first=fisher", "row=ties"}
    before = methods(open_page)
    visit(open_page, written, address)
    until(open_page, "document.getElementById('details').open")
    assert methods(open_page) == before and find(open_page, "#details h2").text == "ties"
    assert find(open_page, "#search").get_attribute("value") == "e"
    assert find(open_page, "#verdict").text.startswith("fisher is")
    assert open_page.execute_script("return document.getElementById('cost').value") == "storage_models"
    assert open_page.execute_script("return location.hash") == address


def test_the_back_button_of_the_browser_goes_to_the_board_before(open_page: Any) -> None:
    open_page.execute_script("location.hash = 'vision-8--ViT-B-32--tall&sort=mean-asc'")
    until(open_page, f"document.querySelectorAll('{ROW}').length === 3")
    assert methods(open_page)[0] == "iso_c"
    open_page.back()
    until(open_page, f"document.querySelectorAll('{ROW}').length === 6")


def saved(browser: Any, name: str) -> str:
    limit, path = time.monotonic() + 10, browser.downloads / name
    while not path.is_file():
        assert time.monotonic() < limit, "nothing was saved"
        time.sleep(0.05)
    return path.read_text(encoding="utf-8")


def test_shown_rows_are_saved_as_csv_and_all_as_latex(open_page: Any) -> None:
    import io

    import pandas as pd

    choose(open_page, "track", "test-time")
    find(open_page, "#csv").click()
    frame = pd.read_csv(io.StringIO(saved(open_page, "vision-mini-8--ViT-mini--project.csv")))
    assert frame["method"].tolist() == ["symerge"] and frame["n"].tolist() == [5] and frame["mean"][0] > 80
    assert {"track", "rank", "mnist", "seed_scores", "runs"} <= set(frame.columns)
    find(open_page, "#latex").click()
    text = saved(open_page, "vision-mini-8--ViT-mini--project.tex")
    assert r"\toprule" in text and r"symerge & \textbf{" in text


def test_hostile_text_of_a_record_is_shown_as_text(open_page: Any) -> None:
    button_of(open_page, "individual").click()
    assert "<script>" in find(open_page, "#details").text and open_page.title == "Model merging leaderboard"


def test_everything_can_be_done_by_keyboard(open_page: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        ActionChains(open_page).send_keys(*keys).perform()

    open_page.execute_script("document.querySelector('#tabs [aria-selected=true]').focus()")
    press(Keys.ARROW_LEFT)
    until(open_page, f"document.querySelectorAll('{ROW}').length === 3")
    press(Keys.ARROW_RIGHT)
    until(open_page, f"document.querySelectorAll('{ROW}').length === 6")
    choose(open_page, "track", "list")
    open_page.execute_script("document.querySelector('.tabulator-col[tabulator-field=mean]').focus()")
    press(Keys.ENTER)
    assert methods(open_page)[0] == "individual"
    press(Keys.ENTER)
    assert methods(open_page)[0] == "pretrained"
    reached, focused = set(), "const e = document.activeElement; return e.tagName + ' ' + e.textContent"
    for _ in range(90):
        press(Keys.TAB)
        reached.add(open_page.execute_script(focused))
    assert {"BUTTON ties", "BUTTON emr"} <= reached
    open_page.execute_script("document.querySelectorAll('.tabulator-cell button')[1].focus()")
    press(Keys.ENTER)
    assert find(open_page, "#details").is_displayed()
    assert open_page.execute_script("return document.activeElement.textContent") == "Close", "focus goes with it"
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


@pytest.mark.parametrize("width", [360, 390, 1024, 1440])
def test_the_page_fits_the_screen_and_tables_scroll_by_themselves(chromium: Any, written: Path, width: int) -> None:
    size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "return document.documentElement.scrollWidth"
    try:
        visit(chromium, written, "#vision-mini-8--ViT-mini--project")
        assert chromium.execute_script(wide) <= width
        figure = (
            "const box = document.querySelector('#figure svg').getBoundingClientRect(); return [box.left, box.right]"
        )
        left, right = chromium.execute_script(figure)
        assert left >= 0 and right <= width, "charts scale"
        button_of(chromium, "symerge").click()
        assert find(chromium, "#details").is_displayed() and chromium.execute_script(wide) <= width
        find(chromium, "#details .close").click()
        # A finger taps a point for what a pointer reads by hovering.
        tapped = (
            "document.querySelector('#figure [role=button] circle').dispatchEvent(new Event('click', {bubbles: true}))"
        )
        chromium.execute_script(tapped)
        assert find(chromium, "#details").is_displayed()
        find(chromium, "#details .close").click()
        find(chromium, "#tab-published").click()
        until(chromium, "document.getElementById('title').textContent === 'Published numbers'")
        assert chromium.execute_script(wide) <= width
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_header_and_first_column_stay_in_sight(chromium: Any) -> None:
    size = {"width": 600, "height": 260, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        chromium.execute_script(f"[...document.querySelectorAll('{ROW}')].at(-2).scrollIntoView()")
        chromium.execute_script("document.querySelector('.tabulator-tableholder').scrollLeft = 400")
        time.sleep(0.2)
        place = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.top, box.left]"
        top, left = chromium.execute_script(place, ".tabulator-col[tabulator-field=method]")
        assert abs(top) < 3 and 0 <= left < 30
        _, left = chromium.execute_script(place, f"{ROW} [tabulator-field=method]")
        assert 0 <= left < 30
        _, left = chromium.execute_script(place, ".tabulator-col[tabulator-field=mean]")
        assert left < 0, "the others went"
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_moves_once_the_page_is_there(chromium: Any, written: Path) -> None:
    visit(chromium, written, "")
    script = """const done = arguments[0]; let sum = 0;
    new PerformanceObserver((list) => { for (const each of list.getEntries()) sum += each.value; })
      .observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done(sum), 600)"""
    assert chromium.execute_async_script(script) < 0.02


def test_every_control_has_a_name_for_screen_readers(open_page: Any) -> None:
    script = """return [...document.querySelectorAll('button, select, input, [role=button], [role=grid]')].filter((e) =>
      !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.title)).map((e) => e.outerHTML)"""
    button_of(open_page, "symerge").click()
    assert open_page.execute_script(script) == []
    assert find(open_page, "#table").get_attribute("aria-label").startswith("vision-mini-8")
    assert find(open_page, "html").get_attribute("lang") == "en"


def contrast(browser: Any, selector: str) -> float:
    script = """const rgb = (e, name) => getComputedStyle(e)[name].match(/[0-9.]+/g).slice(0, 3).map(Number);
    const light = (c) => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const e = document.querySelector(arguments[0]);
    const [a, b] = [light(rgb(e, 'color')), light(rgb(document.body, 'backgroundColor'))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05)"""
    return float(browser.execute_script(script, selector))


def test_light_and_dark_can_both_be_read(open_page: Any) -> None:
    cells = [f".tabulator-{kind}" for kind in ("cell button", "row.unranked .tabulator-cell", "group .group")]
    for _ in range(2):
        for selector in ("body", "#note", *cells):
            assert contrast(open_page, selector) >= 4.5, selector
        find(open_page, "#theme").click()
