"""The report of several runs, and the facts of a run: its prompt, speed, date, hardware and categories."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from avrt.evaluation.category_names import category_name
from avrt.evaluation.report.page import write_report
from avrt.evaluation.scoring import score_run
from avrt.evaluation.sent_prompts import prompt_settings
from avrt.text.prompts import PromptTemplate
from tests.evaluation.report.report_runs import gold_of, make_records, make_replies, write_run
from tests.pages.page_reader import Page, details_of


def test_any_number_of_runs(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, make_records("dailyomni", make_replies(120, n, skill=0.3 + 0.1 * n)))
        for n, name in enumerate("pqrs")
    ]
    page = Page(write_report(runs[0], tmp_path / "out", *runs[1:]).page)
    right = [[bool(record.correct_strict) for record in score_run(run)[0].records] for run in runs]
    changes = [row for row in page.rows if row[0] == "DailyOmni" and row[1] == "120"]
    for row, other in zip(changes, right[1:], strict=True):
        won = sum(b and not a for a, b in zip(right[0], other, strict=True))
        lost = sum(a and not b for a, b in zip(right[0], other, strict=True))
        assert row[5:7] == [str(won), str(lost)]
    assert [row[0].split()[0] for row in page.rows if len(row) > 1 and "(tiny student)" in row[0]] == list("pqrs")
    details = details_of(tmp_path / "out")
    assert {len(item["replies"]) for item in details} == {4}


def test_speed_date_hardware_and_prompt(tmp_path: Path) -> None:
    records = make_records("dailyomni", make_replies(20, 1), completion_tokens=30, latency_seconds=0.25)
    prompt = prompt_settings(PromptTemplate(system="Look and listen.", letter_instruction="Letter!"), "letter")
    known = {"started": "2026-05-04T10:20:30+00:00", "hardware": "2 x NVIDIA H100 80GB HBM3", "prompt": prompt}
    run = write_run(tmp_path / "run", records, answer_format="letter", **known)
    page = Page(write_report(run, tmp_path / "out").page)
    assert page.row("Started")[1] == "2026-05-04 10:20 UTC"
    assert page.row("Hardware")[1] == "2 x NVIDIA H100 80GB HBM3"
    assert (page.row("Seconds per reply")[1], page.row("Tokens per second")[1]) == ("0.25", "120")
    first, *_ = details_of(tmp_path / "out")
    (asked,) = first["prompts"]
    assert asked == (
        "Look and listen.\n\n[video]\n\nQuestion 0: which animal is heard?\nA. cat\nB. dog\nC. owl\nD. cow\nLetter!"
    )
    assert first["replies"][0]["prompt"] == 0
    # Imported replies, and runs of earlier versions, have no prompt, date or hardware.
    bare = write_run(tmp_path / "bare", make_records("dailyomni", make_replies(20, 1), latency_seconds=None))
    page = Page(write_report(bare, tmp_path / "out").page)
    assert not [row for row in page.rows if row[0] in ("Started", "Hardware", "Seconds per reply")]
    assert details_of(tmp_path / "out")[0]["prompts"] == []


def test_several_files_of_a_prompt_are_at_their_places(tmp_path: Path) -> None:
    media = {"image": ("a.png", "b.png"), "audio": "c.wav"}
    records = make_records("dailyomni", make_replies(20, 1), question="Is <image2> heard?", media=media)
    prompt = prompt_settings(PromptTemplate(system=""), "letter")
    run = write_run(tmp_path / "run", records, answer_format="letter", prompt=prompt)
    write_report(run, tmp_path / "out", media=False)
    (asked,) = details_of(tmp_path / "out")[0]["prompts"]
    assert asked.startswith("[image] [audio]\n\nIs [image] heard?\nA. cat\n")


def test_categories_have_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_records("dailyomni", make_replies(20, 1)))
    page = Page(write_report(run, tmp_path / "out").page)
    assert {"Question type", "Video length"} <= {row[0] for row in page.rows}
    titles = [category["title"] for category in json.loads(page.scripts[0])["benchmarks"][0]["categories"]]
    assert titles == ["Question type", "Video length"]
    assert [category_name(key) for key in ("audio_class", "task type", "x")] == ["Audio class", "Task type", "X"]


def test_repeats_budgets_and_errors_by_clip(tmp_path: Path) -> None:
    """Four items about two clips, each with two replies: right 2, 1, 0 and 0 times; with no thinking, all wrong."""
    right = {(0, 0), (0, 1), (1, 1)}
    records = [
        dataclasses.replace(record, repeat=repeat, thinking_budget=budget, completion_tokens=10)
        for repeat in range(2)
        for budget in (None, 0)
        for record in make_records("dailyomni", [answer(n, (n, repeat) in right and budget is None) for n in range(4)])
    ]
    run = write_run(tmp_path / "run", records, items=4, decoding={"repeats": 2, "thinking_curve": [0]})
    page = Page(write_report(run, tmp_path / "out").page)
    assert page.row("DailyOmni", "A", "2")[3] == "37.5"  # 3 of 8 replies
    assert page.row("DailyOmni", "A", "2")[6:9] == ["37.5", "50.0", "25.0"]  # pass@1, pass@2, the first of a tie
    assert page.row("DailyOmni", "A", "0")[3] == "0.0"
    assert page.row("DailyOmni", "A", "no limit")[3:] == ["37.5", "23.94", "37.50", "10.0"]
    (line,) = [row[2] for row in page.rows if row[:2] == ["DailyOmni", "A"] and "clips" in row[2]]
    assert line.startswith("4 items about 2 clips")


def answer(number: int, is_right: bool) -> dict[str, object]:
    letter = gold_of(number) if is_right else "ABCD"["ABCD".index(gold_of(number)) - 1]
    return {"text": f"<think>I see and hear it.</think>\n<answer>{letter}</answer>"}
