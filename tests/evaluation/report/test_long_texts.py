"""Items with texts of any length: the page opens at once, shows their beginning, and the rest on request."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from avrt.evaluation.report.page import write_report
from tests.evaluation.report.report_runs import make_records, make_replies, write_run
from tests.pages.chromium import Browser
from tests.pages.reader import settle, show, texts

LENGTH = 100_000
SECONDS = 2.0
"""Time for a page with such an item, and for opening the item."""

KINDS = {
    "unbroken": "x" * LENGTH,
    "spaces": "x " * (LENGTH // 2),
    "lines": "x\n" * (LENGTH // 2),
    "wide": "漢" * LENGTH,
}

pytestmark = pytest.mark.usefixtures("clean_page")


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One item of each kind, with the text in every place that an item has."""
    root = tmp_path_factory.mktemp("long")
    replies = make_replies(8, 1)
    for number, text in enumerate(KINDS.values()):
        replies[number] = {
            "text": f"<think>{text}</think><answer>A</answer>",
            "question": text,
            "options": (text, "dog", "owl", text),
            "categories": {"Type": text, text[:200]: "30s"},
            "failure_detail": text,
            "finish_reason": text,
            "official_gold": text,
            "media": {"video": f"{text}.mp4"},
        }
    replies[5]["id"] = "i" * LENGTH
    return write_report(write_run(root / "run", make_records("dailyomni", replies)), root / "page").page


def busy_seconds(browser: Browser) -> float:
    """Processor time of the page's thread since it was opened: what a busy machine adds is not counted."""
    metrics = browser.call("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


@pytest.fixture(autouse=True)
def cpu_clock(browser: Browser) -> None:
    browser.call("Performance.disable")
    browser.call("Performance.enable", timeDomain="threadTicks")


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_an_item_of_100_000_characters_opens_at_once(browser: Browser, long_page: Path, number: int) -> None:
    begin = time.monotonic()
    show(browser, long_page, f"#items?item=dailyomni/item-{number}")
    browser.wait("document.querySelector('#item h2')")
    browser.run("document.body.getBoundingClientRect().height")
    settle(browser)
    busy = busy_seconds(browser)
    print(f"\n{list(KINDS)[number]}: {busy:.2f} s busy, {time.monotonic() - begin:.2f} s in all")
    assert busy < SECONDS
    (question,) = texts(browser, "#item h2")
    assert question.startswith(list(KINDS.values())[number].strip()[:1000])


def test_the_rest_is_shown_on_request(browser: Browser, long_page: Path) -> None:
    show(browser, long_page, "#items?item=dailyomni/item-1")
    browser.wait("document.querySelector('.trace button')")
    assert len(texts(browser, ".trace")[0]) < 10_000
    browser.click(".trace button")
    browser.wait(f"document.querySelector('.trace').textContent.length > {LENGTH}")
    (shown,) = texts(browser, ".trace")
    assert shown == f"<think>{KINDS['spaces']}</think><answer>A</answer>"


def test_the_summary_and_an_id_of_100_000_characters(browser: Browser, long_page: Path) -> None:
    browser.open(long_page)
    settle(browser)
    assert busy_seconds(browser) < SECONDS
    browser.open(long_page, "#items")
    browser.click("#rows li:nth-child(6) a")
    browser.wait("document.querySelector('#item h2')")
    settle(browser)
    assert busy_seconds(browser) < 2 * SECONDS
