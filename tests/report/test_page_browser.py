"""`leaderboard.html` in real browsers: sort, filter, compare, drill-down, addresses, keyboard, no network."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.browsers import ROW, button_of, choose, find, header, methods, saved, until, visit


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
    find(open_page, "#columns summary").click()
    box = find(open_page, f"#choices input[value={field}]")
    if not box.is_selected():
        box.click()
    find(open_page, "#columns summary").click()
    script = f"return [...document.querySelectorAll('{ROW} [tabulator-field={field}]')].map(e => e.textContent)"
    for direction in ("ascending", "descending"):
        for _ in range(2):
            if header(open_page, field).get_attribute("aria-sort") != direction:
                header(open_page, field).click()
        assert header(open_page, field).get_attribute("aria-sort") == direction
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

    def counts() -> tuple[int, int]:
        active, whole = map(int, re.findall(r"\d+", find(open_page, "#count").text))
        return active, whole

    def shown(field: str) -> set[str]:
        return {e.text for e in open_page.find_elements("css selector", f"{ROW} [tabulator-field={field}]")}

    first, whole = counts()
    assert first == whole > 400
    choose(open_page, "filter-suite", "vision-8")
    choose(open_page, "filter-backbone", "ViT-B-32")
    assert shown("suite") == {"vision-8"} and shown("backbone") == {"ViT-B-32"}
    assert 0 < counts()[0] < counts()[1] == whole


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


def test_a_method_opens_its_tasks_and_readable_records(open_page: Any) -> None:
    button_of(open_page, "symerge").click()
    text = find(open_page, "#details").text
    assert all(task in text for task in ("mnist", "fashion", "optdigits")) and "Records of its 5 runs" in text
    assert "./run_all.sh --suite vision-mini-8 --methods symerge --seeds 0 1 2 3 4" in text
    assert "2026-01-01 00:01:00" in text and "0123456789abcdef" in text and "1.5, 0.0, 2.0" in text
    heads = [head.text for head in open_page.find_elements("css selector", "#details thead th")]
    assert "commit" in heads and text.count("0123456789ab") > 5, "the commit of each seed"
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


def test_shown_rows_are_saved_as_csv_and_all_as_latex(open_page: Any) -> None:
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
    wanted = {"BUTTON ties", "BUTTON emr"}
    for _ in range(90):
        if wanted <= reached:
            break
        press(Keys.TAB)
        reached.add(open_page.execute_script(focused))
    assert wanted <= reached
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
