"""A page of traces in a real browser: links from the tables, filters, an open sample, untrusted replies, windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages.chromium import Browser
from tests.pages.reader import HOSTILE, choose, listed, open_item, show, texts

pytestmark = pytest.mark.usefixtures("clean_page")


def test_a_reason_leads_to_its_samples(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.querySelector('#items').hidden")
    assert browser.run("[...document.querySelectorAll('svg')].every((plot) => plot.getAttribute('aria-label'))")
    browser.click('a[href="#items?reason=vision_wrong"]')
    browser.wait("!document.querySelector('#items').hidden")
    assert listed(browser) == 6
    (status,) = texts(browser, "#status")
    assert "chosen at random from 6 with this reason" in status
    assert set(texts(browser, "#rows .mark")) == {"✗"}


def test_filters(browser: Browser, page: Path) -> None:
    show(browser, page)
    choose(browser, reason="merge_trailing_text")
    assert texts(browser, "#rows .question") == [f"What is in clip number {n}?" for n in (11, 22, 33)]
    choose(browser, type="Come From")
    assert texts(browser, "#rows .question") == ["What is in clip number 33?"]
    choose(browser, reason="", type="", **{"a.audio": "wrong"})
    assert listed(browser) == 6
    choose(browser, **{"a.vision": "wrong"})
    assert listed(browser) == 2
    choose(browser, **{"a.vision": "", "a.audio": "", "a.merge": "none"})
    assert listed(browser) == 12


def test_an_open_sample_has_folded_thinking_and_its_trace(browser: Browser, page: Path) -> None:
    show(browser, page, "#items?reason=kept")
    browser.click('#rows a[data-item="q003"]')
    browser.wait("document.querySelector('#item code')?.textContent === 'q003'")
    assert texts(browser, ".options .gold .badge") == ["gold", "vision", "audio", "merge"]
    assert texts(browser, "#item h3 .badge") == ["vision", "audio", "merge"]
    summaries = texts(browser, "#item summary")
    assert summaries == ["Thinking (17 characters)", "Prompt", "Thinking (25 characters)"]
    hidden = "!document.querySelector('#item details pre').checkVisibility()"
    assert browser.run(hidden)
    browser.click("#item details summary")
    assert not browser.run(hidden)
    assert texts(browser, ".target .trace") == ["<think>Heard and seen in clip 3.</think>\n<answer>D</answer>"]
    browser.wait("[...document.querySelectorAll('.frame img')].every((e) => e.complete && e.naturalWidth)")
    browser.press("p")
    browser.wait("document.querySelector('audio').duration > 0.09")
    browser.press("j")
    browser.wait("document.querySelector('#item code')?.textContent !== 'q003'")


def test_search_in_replies(browser: Browser, page: Path) -> None:
    show(browser, page, "#items?q=look+at+clip+17.&replies=on")
    browser.wait("document.querySelectorAll('#rows li').length === 1")
    assert texts(browser, "#rows .question") == ["What is in clip number 17?"]


def test_untrusted_replies_run_no_script(browser: Browser, page: Path) -> None:
    show(browser, page, "#items?item=q005")
    browser.wait("document.querySelector('#item h2')")
    assert texts(browser, "#item .trace")[0] == HOSTILE
    assert HOSTILE in texts(browser, "#item .trace")[1]
    assert texts(browser, "#item svg, #item script, #item img[onerror]") == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_window_sizes_and_colors(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.emulate(width=width, dark=dark)
    for fragment in ("", "#items", "#items?item=q003"):
        browser.open(page, fragment)
        if "item=" in fragment:
            browser.wait("document.querySelector('#item h2')")
        assert browser.run("document.documentElement.scrollWidth") <= width
    kept, rejected = browser.run(
        "['kept', 'rejected'].map((kind) => getComputedStyle(document.querySelector(`.mark-${kind}`)).color)"
    )
    assert kept != rejected


def test_every_control_has_a_name(browser: Browser, page: Path) -> None:
    show(browser, page)
    open_item(browser, "q003")
    browser.wait("document.querySelector('.frame')")
    nameless = (
        "[...document.querySelectorAll('#items :is(input, select, button, audio, img, .mark)')].filter((e) => "
        "!(e.labels?.length || e.textContent.trim() && !e.matches('.mark') || e.ariaLabel || e.alt)).length"
    )
    assert browser.run(nameless) == 0
