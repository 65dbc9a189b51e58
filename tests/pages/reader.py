"""A reader's actions on a page in a real browser, for tests."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pages.chromium import Browser

HOSTILE = (
    "</script><img src=x onerror='window.hacked=1'><svg onload='window.hacked=2'></svg><script>window.hacked=3</script>"
)


def show(browser: Browser, page: Path, fragment: str = "#items") -> None:
    browser.open(page, fragment)
    browser.wait("document.querySelectorAll('#rows li').length > 0 || !document.querySelector('#page').textContent")


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")


def choose(browser: Browser, **values: str) -> None:
    """Set filters as a reader does, and wait until the list has changed."""
    for name, value in values.items():
        field = f"document.querySelector('[name={json.dumps(name)}]')"
        browser.run(f"{field}.value = {json.dumps(value)}")
        assert browser.run(f"{field}.value") == value, f"{name} does not offer {value}"
        browser.run(f"{field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        in_address = f"(new URLSearchParams(location.hash.split('?')[1]).get({json.dumps(name)}) ?? '')"
        browser.wait(f"{in_address} === {json.dumps(value)}")
    settle(browser)


def settle(browser: Browser) -> None:
    browser.run("new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve)))")


def listed(browser: Browser) -> int:
    """The number of items that the filters leave, as the page says."""
    (status,) = texts(browser, "#status")
    return int(status.split(" of ")[0].replace(",", ""))


def open_item(browser: Browser, path: str) -> None:
    browser.click(f'#rows a[data-item="{path}"]')
    browser.wait(f"document.querySelector('#item code')?.textContent === {json.dumps(path.split('/')[-1])}")
