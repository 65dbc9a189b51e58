"""Runs for reports: questions with categories, replies of every kind, clips with known content."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo
from tests.media_files import as_int16, numbered_frame, tone, write_video

ANIMALS = ("cat", "dog", "owl", "cow")
KINDS = ("Comparative", "Event Sequence", "Inference")


def write_clip(path: Path, first: int, *, seconds: int = 4) -> Path:
    """A clip with 8 frames per second that show the numbers from `first` on, and a tone of 440 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [np.ascontiguousarray(numbered_frame(first + n, height=112)) for n in range(8 * seconds)]
    audio = as_int16(tone(440, seconds, 16_000))
    options = {"crf": "12", "g": "1"}
    return write_video(path, frames, time_base=Fraction(1, 8), options=options, audio=audio, audio_codec="aac")


def make_replies(count: int, seed: int, *, skill: float = 0.5) -> list[dict[str, object]]:
    """Replies to questions of `make_records`: right and wrong, wrong format, truncated, without media."""
    source = random.Random(seed)
    replies: list[dict[str, object]] = []
    for number in range(count):
        gold = gold_of(number)
        letter = gold if source.random() < skill else source.choice("ABCD")
        think = f"<think>I saw item {number}. It has to be {letter}, word{seed}x{number}.</think>"
        kind = number % 50
        if kind == 47:
            replies.append(
                {"failure": "missing_media", "failure_detail": "not found: v.mp4", "finish_reason": "missing"}
            )
        elif kind == 48:
            replies.append({"text": think[:20], "finish_reason": "length"})
        elif kind == 49:
            replies.append({"text": f"{think} The answer is {letter}."})
        else:
            replies.append({"text": f"{think}\n<answer>{letter}</answer>"})
    return replies


def gold_of(number: int) -> str:
    """The gold letter of a question of `make_records`."""
    return "ABCD"[number * 7 % 4]


def make_records(benchmark: str, replies: Iterable[dict[str, object]], **changes: object) -> list[Record]:
    """One record per reply; two categories; every question names its number and a clip that does not exist."""
    records = []
    for number, reply in enumerate(replies):
        values: dict[str, object] = {
            "id": f"item-{number}",
            "index": number,
            "question": f"Question {number}: which animal is heard?",
            "options": ANIMALS,
            "gold": gold_of(number),
            "official_gold": ANIMALS["ABCD".index(gold_of(number))],
            "categories": {"Type": KINDS[number % 3], "video_duration": "30s" if number % 2 else "60s"},
            "media": {"video": f"Videos/{number // 2}.mp4"},
            "prompt_tokens": 100,
            "completion_tokens": 10 + number,
            "latency_seconds": 0.5,
        }
        records.append(Record(benchmark=benchmark, **(values | changes | reply)))  # type: ignore[arg-type]
    return records


def write_run(place: Path, records: Sequence[Record], *, folder: str = "", **changes: object) -> Path:
    """Write one benchmark of a run (into `folder`, its name by default), and return the run's folder."""
    values: dict[str, object] = {
        "run": place.name,
        "benchmark": records[0].benchmark,
        "model": "tiny student",
        "items": len(records),
        "dataset_fingerprint": "0" * 64,
        "avrt_version": "0.1.0",
    }
    path = place / (folder or records[0].benchmark)
    RunInfo(**(values | changes)).write(path)  # type: ignore[arg-type]
    with RecordWriter(path) as writer:
        writer.append(*records)
    return place
