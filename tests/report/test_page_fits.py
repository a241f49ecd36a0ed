"""`leaderboard.html` on screens of all widths, for screen readers, in light and dark: it fits and can be read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers.browsers import ROW, button_of, find, until, visit


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


def test_columns_beyond_the_edge_are_told_of_until_they_are_seen(chromium: Any, written: Path) -> None:
    beyond = "return document.getElementById('table').classList.contains('beyond')"
    try:
        for width, more in ((600, True), (2600, False)):
            size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False}
            chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            visit(chromium, written, "#vision-mini-8--ViT-mini--project")
            time.sleep(0.1)
            assert find(chromium, "#sideways").is_displayed() is more and chromium.execute_script(beyond) is more
            if more:
                chromium.execute_script("document.querySelector('.tabulator-tableholder').scrollLeft = 1e5")
                until(chromium, "!document.getElementById('table').classList.contains('beyond')")
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
