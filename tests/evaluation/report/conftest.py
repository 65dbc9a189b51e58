"""The pages that the browser opens."""

from __future__ import annotations

import pytest

from avrt.evaluation.report.page import write_report
from avrt.evaluation.scoring import score_run
from tests.evaluation.report.report_pages import Pages
from tests.evaluation.report.report_runs import make_records, make_replies, write_clip, write_run
from tests.pages.browser_fixtures import browser, clean_page  # noqa: F401
from tests.pages.reader import HOSTILE


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """2,000 items: 1,600 of DailyOmni, the first two with a real clip, item 4 hostile; 400 of MMAR."""
    root = tmp_path_factory.mktemp("report")
    data = root / "data"
    write_clip(data / "DailyOmni" / "Videos" / "0.mp4", 10)
    for name, seed, skill in (("a", 1, 0.4), ("b", 2, 0.6)):
        replies = make_replies(1_600, seed, skill=skill)
        replies[4] = {
            "text": f"<think>{HOSTILE}</think><answer>A</answer>",
            "question": f"Hostile {HOSTILE}",
            "options": (HOSTILE, "dog", "owl", "cow"),
            "gold": "A",
            "categories": {"Type": HOSTILE, "video_duration": "30s"},
            "media": {"video": f"{HOSTILE}.mp4"},
        }
        masked = "V" if name == "b" else "AV"
        decoding = {"max_audio_seconds": 3.5}
        write_run(root / name, make_records("dailyomni", replies), modalities=masked, decoding=decoding)
        records = make_records("mmar", make_replies(400, seed + 10, skill=skill), categories={"task": "music"})
        write_run(root / name, records)
    one = write_report(root / "a", root / "one", data=data).page
    two = write_report(root / "a", root / "two", root / "b", data=data).page
    (a, music), (b, _) = ([entry.records for entry in score_run(root / name)] for name in "ab")
    return Pages(one, two, a, b, music)
