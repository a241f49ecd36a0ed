"""Real browsers for the tests of the page, and what those ask of it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

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
    saved = {
        "browser.download.folderList": 2,
        "browser.download.dir": str(folder / "downloads"),
        # A record is shown as the text it is.
        "devtools.jsonview.enabled": False,
    }
    for name, value in saved.items():
        options.set_preference(name, value)
    return webdriver.Firefox(options=options, service=webdriver.FirefoxService(DRIVERS["firefox"]))


MAKE = {"chromium": _chromium, "firefox": _firefox}


def is_chromium(browser: Any) -> bool:
    return browser.capabilities["browserName"] != "firefox"


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


def button_of(browser: Any, method: str) -> Any:
    (found,) = [e for e in browser.find_elements("css selector", "[tabulator-field=method] button") if e.text == method]
    # A driver scrolls it to the very top otherwise, where the header lies over it.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    return found


def saved(browser: Any, name: str) -> str:
    limit, path = time.monotonic() + 10, browser.downloads / name
    while not path.is_file():
        assert time.monotonic() < limit, "nothing was saved"
        time.sleep(0.05)
    return path.read_text(encoding="utf-8")
