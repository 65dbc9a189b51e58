"""The report in a real browser: untrusted texts, missing files, window sizes, accessibility, print, speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.report.report_pages import ITEMS, Pages
from tests.pages.chromium import Browser
from tests.pages.reader import HOSTILE, choose, listed, settle, show, texts

pytestmark = pytest.mark.usefixtures("clean_page")


def test_missing_media_and_missing_replies_are_named(browser: Browser, pages: Pages) -> None:
    show(browser, pages.one, "#items?item=dailyomni/item-47")
    browser.wait("document.querySelector('#item .problem')")
    assert texts(browser, "#item .problem") == ["No frames and no audio: not found: Videos/23.mp4"]
    assert "not found: v.mp4" in texts(browser, "#item dd")
    assert texts(browser, ".trace") == []
    assert texts(browser, ".replies .note") == ["No text."]


def test_untrusted_texts_run_no_script(browser: Browser, pages: Pages) -> None:
    browser.open(pages.two)
    show(browser, pages.two, "#items?item=dailyomni/item-4&replies=on&q=hostile")
    browser.wait("document.querySelector('#item h2') && document.querySelectorAll('#rows li').length === 1")
    assert texts(browser, "#item h2") == [f"Hostile {HOSTILE}"]
    assert texts(browser, ".trace")[0] == pages.a[4].text
    assert HOSTILE in texts(browser, "#item .problem")[0]
    assert texts(browser, "img, #items svg, #items script") == []
    browser.run("document.querySelector('#filters [name=\"benchmark\"]').value = 'dailyomni'")
    choose(browser, benchmark="dailyomni", **{"c.Type": HOSTILE})
    assert listed(browser) == 1


def test_the_policy_stops_injected_scripts(browser: Browser, pages: Pages) -> None:
    browser.open(pages.one)
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked=1'}))")
    browser.run("fetch('https://example.org/').catch(() => window.refused = true)")
    browser.wait("window.refused")
    settle(browser)
    assert browser.run("window.hacked") is None
    assert any("Content Security Policy" in line for line in browser.log)
    browser.log.clear()
    browser.open(pages.one)


def test_a_page_without_its_folders_says_so(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    alone = tmp_path / "index.html"
    alone.write_bytes(pages.one.read_bytes())
    show(browser, alone, "#items?item=dailyomni/item-0")
    browser.wait("document.querySelector('#item .problem')")
    assert "items-0000.js is missing beside the page" in texts(browser, "#item .problem")[0]
    browser.log.clear()  # the browser itself complains about the file, too


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_window_sizes_and_colors(browser: Browser, pages: Pages, width: int, dark: bool) -> None:
    browser.emulate(width=width, dark=dark)
    for fragment in ("", "#items", "#items?item=dailyomni/item-0"):
        browser.open(pages.two, fragment)
        if "item=" in fragment:
            browser.wait("document.querySelector('#item h2')")
        assert browser.run("document.documentElement.scrollWidth") <= width
    ground, text = browser.run(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    assert (_brightness(ground) < _brightness(text)) == dark
    hidden = browser.run("getComputedStyle(document.querySelector('#list')).display === 'none'")
    assert hidden == (width < 800)


def test_every_control_has_a_name(browser: Browser, pages: Pages) -> None:
    show(browser, pages.two, "#items?benchmark=dailyomni&item=dailyomni/item-0")
    browser.wait("document.querySelector('.frame')")
    nameless = (
        "[...document.querySelectorAll('#items :is(input, select, button, audio, img, .mark)')].filter((e) => "
        "!(e.labels?.length || e.textContent.trim() && !e.matches('.mark') || e.ariaLabel || e.alt)).length"
    )
    assert browser.run(nameless) == 0
    assert browser.run("document.documentElement.lang") == "en"


def test_print(browser: Browser, pages: Pages) -> None:
    show(browser, pages.two, "#items?item=dailyomni/item-0")
    browser.wait("document.querySelector('.trace')")
    browser.emulate(media="print")
    shown = browser.run(
        "Object.fromEntries(['#filters', '#list', 'audio', '.trace', '.frames'].map((name) => "
        "[name, getComputedStyle(document.querySelector(name)).display !== 'none']))"
    )
    assert shown == {"#filters": False, "#list": False, "audio": False, ".trace": True, ".frames": True}


def test_speed_is_measured(browser: Browser, pages: Pages, record_property: Any) -> None:
    """Open and filter times go into the test report (``--junitxml``); what keeps them short is asserted elsewhere."""
    browser.open(pages.two, "#items")
    opened = browser.run("performance.getEntriesByType('navigation')[0].domComplete")
    filtering = browser.run(
        """(async () => {
            const times = [];
            for (const value of ['wrong', 'none', 'logic', '']) {
                const field = document.querySelector('[name=result]');
                const begin = performance.now();
                const drawn = new Promise((resolve) => new MutationObserver((_, observer) => {
                    observer.disconnect();
                    resolve();
                }).observe(document.querySelector('#rows'), {childList: true}));
                field.value = value;
                field.dispatchEvent(new Event('input', {bubbles: true}));
                await drawn;
                document.body.getBoundingClientRect();  // the layout, too
                times.push(performance.now() - begin);
            }
            return times;
        })()"""
    )
    record_property("open_ms", round(opened))
    record_property("filter_ms", [round(time, 1) for time in filtering])
    print(
        f"\nopen {opened:.0f} ms, filter {', '.join(f'{time:.1f}' for time in filtering)} ms, {ITEMS} items, two runs"
    )
    assert len(filtering) == 4


def _brightness(color: str) -> float:
    return sum(float(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))
