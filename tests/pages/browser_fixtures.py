"""The browser, and a window that every test finds in the same state; a ``conftest.py`` imports both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pages.chromium import Browser, find_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: install it (Debian: apt install chromium) or name it in AVRT_CHROMIUM")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def clean_page(browser: Browser) -> Iterator[None]:
    """Every test begins with a common window, and ends without an error in the page or a request beyond its folder."""
    browser.log.clear()
    browser.requests.clear()
    browser.emulate()
    yield
    assert browser.log == [], browser.log
    assert browser.run("window.hacked") is None
    assert browser.requests
    # The browser's own player has icons, which are part of it.
    assert [url for url in browser.requests if not url.startswith(("file:", "data:image/svg+xml"))] == []
