"""The report in a real browser, opened from the disk: summary, filters, items, audio, comparison, keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avrt.evaluation.category_names import category_name
from avrt.evaluation.report.page import write_report
from avrt.evaluation.scoring import score_run
from tests.evaluation.report.report_pages import ITEMS, Pages, flips
from tests.evaluation.report.report_runs import make_records, make_replies, write_run
from tests.pages.chromium import Browser
from tests.pages.reader import choose, listed, open_item, settle, show, texts

pytestmark = pytest.mark.usefixtures("clean_page")

MAX_ELEMENTS = 1_500
"""A page of 100 rows has about 900 elements; a list that is drawn whole would have ten times as many."""


def test_summary_opens_first_and_its_numbers_lead_to_the_items(browser: Browser, pages: Pages) -> None:
    browser.open(pages.two)
    assert browser.run("document.querySelector('#items').hidden && !document.querySelector('#summary').hidden")
    assert len(texts(browser, "svg")) > 10
    assert browser.run("[...document.querySelectorAll('svg')].every((plot) => plot.getAttribute('aria-label'))")
    won, lost = flips(pages.a, pages.b)
    browser.click('a[href*="dailyomni"][href*="change=won"]')
    browser.wait("!document.querySelector('#items').hidden")
    assert listed(browser) == len(won) > 0
    assert browser.run("document.querySelector('[name=change]').value") == "won"
    browser.run("history.back()")
    browser.wait("document.querySelector('#items').hidden")
    browser.click('a[href*="dailyomni"][href*="change=lost"]')
    browser.wait("document.querySelector('[name=change]').value === 'lost'")
    settle(browser)
    assert listed(browser) == len(lost) > 0


def test_the_list_stays_small_and_turns_its_pages(browser: Browser, pages: Pages) -> None:
    show(browser, pages.two)
    assert browser.run("document.querySelectorAll('#items *').length") < MAX_ELEMENTS
    assert browser.run("document.querySelectorAll('#rows li').length") == 100
    # Nothing of single items is loaded before one is opened: no data, no frames, no audio.
    assert browser.requests == [pages.two.as_uri()]
    browser.click("#next-page")
    assert texts(browser, "#page") == ["101–200 of 2,000"]
    assert texts(browser, "#rows .question")[0] == pages.a[100].question
    browser.click("#previous-page")
    assert texts(browser, "#page") == ["1–100 of 2,000"]
    open_item(browser, "dailyomni/item-0")
    browser.wait("[...document.querySelectorAll('.frame img')].every((e) => e.complete)")
    loaded = [Path(url).name for url in browser.requests[1:] if url.startswith("file:")]
    assert loaded == ["items-0000.js", *(f"frame{number:02}.jpg" for number in range(8))]
    assert browser.run("document.querySelectorAll('*').length") < 2 * MAX_ELEMENTS


def test_keys(browser: Browser, pages: Pages) -> None:
    show(browser, pages.one, "#items?benchmark=mmar&result=wrong")
    wrong = [record for record in pages.music if not record.correct_strict]
    for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        browser.press(key)
        browser.wait(f"document.querySelector('#item code')?.textContent === {json.dumps(wrong[place].id)}")
    assert texts(browser, "#rows a[aria-current] .question") == [wrong[1].question]
    # Past the end of a page the list follows.
    show(browser, pages.one, f"#items?item=dailyomni/{pages.a[99].id}")
    browser.wait("document.querySelector('#item code')")
    browser.press("j")
    browser.wait("document.querySelector('#page').textContent.startsWith('101–200')")
    browser.press("/")
    assert browser.run("document.activeElement.name") == "q"
    browser.type("Question 123:")
    browser.wait("document.querySelectorAll('#rows li').length === 2")  # one in each benchmark
    browser.press("Escape")
    assert browser.run("document.activeElement.name") is None
    browser.press("Escape")
    browser.wait("!document.querySelector('#item h2')")


def test_frames_are_shown_and_audio_plays(browser: Browser, pages: Pages) -> None:
    show(browser, pages.one)
    open_item(browser, "dailyomni/item-0")
    browser.wait(
        "[...document.querySelectorAll('.frame img')].filter((e) => e.complete && e.naturalWidth).length === 8"
    )
    # Eight frames of 4 s, the middles of eight equal parts: 0.25, 0.75, ...
    assert texts(browser, ".frame span")[::7] == ["0.3 s", "3.8 s"]
    attributes = "document.querySelector('.frame img').loading + document.querySelector('audio').preload"
    assert browser.run(attributes) == "lazynone"
    assert browser.run("document.querySelector('audio').duration || 0") == 0
    browser.press("p")
    browser.wait("document.querySelector('audio').currentTime > 0.1")
    assert browser.run("document.querySelector('audio').duration") == pytest.approx(3.5, abs=0.1)
    assert "clip of 4.0 s; audio of its first 3.5 s" in texts(browser, ".audio .note")
    browser.press("p")
    browser.wait("document.querySelector('audio').paused")
    browser.click(".frame:nth-child(7)")
    browser.wait("document.querySelector('audio').currentTime >= 3.25 && !document.querySelector('audio').paused")
    # The last frame, at 3.75 s, is after the end of the audio: it does not play.
    assert browser.run("document.querySelectorAll('button.frame').length") == 7


def test_two_runs_are_shown_side_by_side(browser: Browser, pages: Pages) -> None:
    won, lost = flips(pages.a, pages.b)
    show(browser, pages.two)
    choose(browser, benchmark="dailyomni", change="won")
    assert listed(browser) == len(won)
    (status,) = texts(browser, "#status")
    assert status.endswith(f"A right in 0 · B right in {len(won)} · {len(won)} won by B · 0 lost by B")
    assert browser.run("document.querySelectorAll('#rows a:not(.won)').length") == 0
    first = pages.a.index(next(record for record in pages.a if record.id == won[0]))
    open_item(browser, f"dailyomni/{won[0]}")
    assert texts(browser, ".trace") == [pages.a[first].text, pages.b[first].text]
    assert texts(browser, "#item .chip.won") == ["won by B: A wrong, B right"]
    assert "Run B got silent audio (mask V: frames only)." in texts(browser, "#item .note")
    places = browser.run("[...document.querySelectorAll('.replies section')].map((e) => e.getBoundingClientRect().x)")
    assert places[0] < places[1]
    choose(browser, change="lost")
    assert listed(browser) == len(lost)
    choose(browser, change="answers")
    assert listed(browser) == sum(a.answer != b.answer for a, b in zip(pages.a, pages.b, strict=True))
    choose(browser, change="both_wrong", resultb="logic")
    both = [b for a, b in zip(pages.a, pages.b, strict=True) if not a.correct_strict and b.error_type == "logic"]
    assert listed(browser) == len(both) > 0


def test_every_filter_lists_the_items_that_python_finds(browser: Browser, pages: Pages) -> None:
    show(browser, pages.one)
    assert listed(browser) == ITEMS
    choose(browser, benchmark="dailyomni")
    assert listed(browser) == 1_600
    wrong = [record for record in pages.a if not record.correct_strict]
    choose(browser, result="wrong")
    assert listed(browser) == len(wrong)
    choose(browser, **{"c.Type": "Inference"})
    inference = [record for record in wrong if record.categories["Type"] == "Inference"]
    assert listed(browser) == len(inference)
    choose(browser, reason="truncated")
    cut = [record for record in inference if record.reason == "truncated"]
    assert listed(browser) == len(cut) > 0
    assert texts(browser, "#rows .question") == [record.question for record in cut]
    choose(browser, **{"c.video_duration": "30s"})
    assert listed(browser) == sum(record.categories["video_duration"] == "30s" for record in cut)
    browser.click("button[type=reset]")
    browser.wait("location.hash === '#items'")
    settle(browser)
    assert listed(browser) == ITEMS
    for result in ("none", "logic", "instruction_format", "no_reply"):
        choose(browser, result=result)
        assert listed(browser) == sum(record.error_type == result for record in [*pages.a, *pages.music])
    choose(browser, result="rules")
    differ = [r for r in [*pages.a, *pages.music] if r.correct_official not in (None, r.correct_strict)]
    assert listed(browser) == len(differ) > 0
    choose(browser, result="", benchmark="mmar", **{"c.task": "music"})
    assert listed(browser) == 400


def test_an_item_shows_all_its_facts(browser: Browser, pages: Pages) -> None:
    show(browser, pages.one)
    record = pages.a[1]
    open_item(browser, "dailyomni/item-1")
    assert texts(browser, "#item h2") == [record.question]
    assert texts(browser, ".options li > span:nth-child(2)") == list(record.options)
    assert texts(browser, ".options .gold .letter") == [record.gold]
    assert texts(browser, ".trace") == [record.text]
    assert texts(browser, ".chip") == [f"{category_name(key)}: {value}" for key, value in record.categories.items()]
    facts = dict(zip(texts(browser, "#item dt"), texts(browser, "#item dd"), strict=True))
    assert facts["Answer"] == record.answer
    assert facts["Strict"] == {"none": "right", "logic": "logic error"}[str(record.error_type)]
    assert facts["Official"] == "wrong"  # DailyOmni's rule requires the letter first
    assert facts["Tokens"] == "100 + 11"
    assert browser.run("document.activeElement.id") == "item"


def test_an_address_reproduces_its_view(browser: Browser, pages: Pages) -> None:
    show(browser, pages.two)
    choose(browser, benchmark="dailyomni", change="won", **{"c.Type": "Inference"})
    browser.press("j")
    browser.wait("document.querySelector('#item h2')")
    fragment, view = browser.run("[location.hash, document.querySelector('#items').innerText]")
    show(browser, pages.two, fragment)
    browser.wait("document.querySelector('#item h2')")
    settle(browser)
    assert browser.run("document.querySelector('#items').innerText") == view


def test_a_search_in_replies_loads_all_of_them(browser: Browser, pages: Pages) -> None:
    show(browser, pages.one)
    browser.press("/")
    browser.type("WORD1X1234")
    browser.wait("document.querySelectorAll('#rows li').length === 0")
    browser.click("[name=replies]")
    browser.wait("document.querySelectorAll('#rows li').length === 1")
    assert texts(browser, "#rows .question") == [pages.a[1234].question]


def test_several_runs_have_filters_of_their_own(browser: Browser, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, make_records("dailyomni", make_replies(150, n, skill=0.3 + 0.2 * n)))
        for n, name in enumerate("pqr")
    ]
    first, _, third = (score_run(run)[0].records for run in runs)
    show(browser, write_report(runs[0], tmp_path / "out", *runs[1:], media=False).page)
    assert texts(browser, "#heads .run") == ["A", "B", "C"]
    won, lost = flips(first, third)
    choose(browser, changec="won")
    assert listed(browser) == len(won) > 0
    choose(browser, changec="lost")
    assert listed(browser) == len(lost) > 0
    choose(browser, changec="", resultc="wrong", reasonc="truncated")
    assert listed(browser) == sum(record.reason == "truncated" for record in third) > 0
    browser.press("j")
    browser.wait("document.querySelectorAll('.replies section').length === 3")
    assert texts(browser, ".replies h3 .badge") == ["A", "B", "C"]
