"""The readers of the newer benchmarks, on rows in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avrt.evaluation.benchmarks import BENCHMARKS, Item, new_record, present_benchmarks

NEW = ("worldsense", "omnivideobench", "jointavbench", "videomme_v2", "av_odyssey", "avhbench", "mmau_pro")

WORLDSENSE = {
    "dvOkwKAs": {
        "video_id": "dvOkwKAs",
        "video_duration": "60s",
        "duration": "<1min",
        "domain": "Music",
        "sub_category": "Covers",
        "audio_class": ["Music", "Speech"],
        "video_caption": "A band plays.",
        "task0": {
            "task_domain": "Recognition",
            "task_type": "Audio Recognition",
            "question": "Which instrument is heard first?",
            "answer": "B",
            "candidates": ["A. Drums.", "B. A flute.", "C. A harp.", "D. None."],
        },
        "task1": {
            "task_domain": "Reasoning",
            "task_type": "Causal Reasoning",
            "question": "Why do they stop?",
            "answer": "C",
            "candidates": ["A. Rain.", "B. Applause.", "C. A phone rings."],
        },
    }
}

OMNIVIDEOBENCH = [
    {
        "video": "video_1",
        "video_type": "Vlog",
        "duration": "03:28",
        "questions": [
            {
                "question": "How many cars?",
                "question_type": "counting",
                "audio_type": "Speech",
                "reasoning_steps": [],
                "answer": "2",
                "options": ["A.0", "B: 1", "C 2", "D. 3"],
                "correct_option": "C",
            },
            {
                "question": "In which tone?",
                "question_type": "sentiment analysis",
                "audio_type": "Speech",
                "options": [
                    "A. calm",
                    "B. angry",
                    "A. curious",
                    "B.surprised",
                ],  # as in three of the authors' questions
                "correct_option": "D",
            },
        ],
    }
]

JOINTAVBENCH = [
    {
        "qid": "-CEDoGn0w1s_task10_0",
        "video_name": "-CEDoGn0w1s",
        "task": "STL",
        "question": "Which object?",
        "correct_answer": "The broom",
        "options": ["The shovel", "The keys", "The hat", "The broom"],
        "video_url": "https://example.org",
        "segment_timestamp": [653.444, 699.657],
    }
]

VIDEOMME_V2 = [
    {
        "video_id": "001",
        "question_id": f"001-{number}",
        "group_type": "logic",
        "group_structure": "[1,[2,3],4]",
        "level": number if number == 4 else None,
        "second_head": "Order",
        "third_head": "Steps",
        "question": "What happens?",
        "options": "A. one\nB. two\nof them\nC. three\nD. four\nE. five\nF. six\nG. seven\nH. eight",
        "answer": "H",
    }
    for number in (1, 2, 3, 4)
]

AV_ODYSSEY = [
    {
        "question_id": "2_26",
        "question_type_id": 2,
        "data_type": "image_audio",
        "subfield": "Timbre",
        "question": "Which of [img1] to [img4] makes the sound in [audio1]?",
        "options": ["A. [img1]", "B. [img2]", "C. [img3]", "D. [img4]"],
        "answer": "C",
        "image_path": ["images/1.png", "images/2.png", "images/3.png", "images/4.png"],
        "audio_path": ["audio/2_26.wav"],
        "video_path": [],
    },
    {
        "question_id": "31_6",
        "question_type_id": 26,
        "data_type": "video_audio",
        "subfield": "Time",
        "question": "Which clip belongs to [video1]?",
        "options": ["A. [audio1]", "B. [audio2]", "C. both", "D. none"],
        "answer": "A",
        "image_path": None,
        "audio_path": ["audio/31_6_1.wav", "audio/31_6_2.wav"],
        "video_path": ["videos/31_6.mp4"],
    },
]

AVHBENCH = [
    {"video_id": "00191", "task": "AV Captioning", "text": "Describe.", "label": "A man sleeps."},
    {"video_id": "00191", "task": "AV Matching", "text": "Do they match?", "label": "Yes"},
    {"video_id": "00191", "task": "Audio-driven Video Hallucination", "text": "Is a car visible?", "label": "No"},
]

_MMAU_PRO = {
    "question": "Which sound?",
    "choices": ["a dog", "a cat"],
    "answer": "a cat",
    "category": "sound",
    "length_type": "short",
    "audio_path": ["data/a.wav"],
}
MMAU_PRO = [
    {"id": "m1", **_MMAU_PRO},
    {"id": "m2", **_MMAU_PRO, "answer": "A  Dog.", "audio_path": ["data/a.wav", "data/b.wav"]},
    {"id": "m3", **_MMAU_PRO, "answer": "a horse"},
    {"id": "m4", **_MMAU_PRO, "choices": ["a cat"]},
    {"id": "m5", **_MMAU_PRO, "choices": None, "category": "open"},
    {"id": "m6", **_MMAU_PRO, "category": "instruction following", "answer": None},
]


def load(folder: Path, name: str, content: Any) -> list[Item]:
    """The items of a file that is written under the benchmark's first name for JSON."""
    names = [file for file in BENCHMARKS[name].annotation_files if file.endswith((".json", ".jsonl"))]
    path = folder / names[0]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in content))
    else:
        path.write_text(json.dumps(content))
    return BENCHMARKS[name].load(folder)


def test_worldsense(tmp_path: Path) -> None:
    first, second = load(tmp_path, "worldsense", WORLDSENSE)
    assert (first.sample.id, second.sample.id) == ("dvOkwKAs-0", "dvOkwKAs-1")
    assert (first.sample.gold, second.sample.gold) == ("B", "C")
    assert second.sample.options == ("Rain.", "Applause.", "A phone rings.")
    assert first.media == {"video": "videos/dvOkwKAs.mp4"}
    assert first.categories["audio_class"] == "Music, Speech"
    assert second.categories["task_domain"] == "Reasoning"


def test_worldsense_rows_are_the_same_items(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    shared = {name: value for name, value in WORLDSENSE["dvOkwKAs"].items() if not isinstance(value, dict)}
    tasks = [WORLDSENSE["dvOkwKAs"][name] for name in ("task0", "task1")]
    rows = [{"index": place, "video": "dvOkwKAs", **shared, **task} for place, task in enumerate(tasks)]  # type: ignore[dict-item]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert BENCHMARKS["worldsense"].load(tmp_path, annotations=tmp_path / "rows.parquet") == load(
        tmp_path, "worldsense", WORLDSENSE
    )


def test_omnivideobench_takes_labels_of_every_spelling(tmp_path: Path) -> None:
    first, second = load(tmp_path, "omnivideobench", OMNIVIDEOBENCH)
    assert first.sample.options == ("0", "1", "2", "3")
    assert first.sample.gold == "C"
    assert second.sample.options == ("calm", "angry", "curious", "surprised")
    assert second.sample.gold == "D"
    assert second.sample.id == "video_1-1"
    assert first.media == {"video": "videos/video_1.mp4"}


def test_jointavbench_has_a_clip_per_question(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "-CEDoGn0w1s_task10_0.m4a").touch()
    (item,) = load(tmp_path, "jointavbench", JOINTAVBENCH)
    assert item.sample.gold == "D"
    assert item.media == {
        "video": "videos/-CEDoGn0w1s_task10_0.mp4",
        "audio": "videos/-CEDoGn0w1s_task10_0.m4a",
    }
    assert item.missing == ("videos/-CEDoGn0w1s_task10_0.mp4",)
    assert item.categories == {"task": "STL", "scene": "multi", "ability": "temporal"}
    # Clips of one video are not independent.
    assert new_record(BENCHMARKS["jointavbench"], item).clip == item.sample.source == "-CEDoGn0w1s"


def test_videomme_v2(tmp_path: Path) -> None:
    items = load(tmp_path, "videomme_v2", VIDEOMME_V2)
    assert items[0].sample.options == ("one", "two of them", "three", "four", "five", "six", "seven", "eight")
    assert items[0].sample.gold == "H"
    assert items[0].categories["group_structure"] == "[1, [2, 3], 4]"
    assert [item.categories["level"] for item in items] == ["unknown"] * 3 + ["4"]


def test_av_odyssey_names_several_media(tmp_path: Path) -> None:
    images, video = load(tmp_path, "av_odyssey", AV_ODYSSEY)
    assert images.media == {
        "image": ("images/1.png", "images/2.png", "images/3.png", "images/4.png"),
        "audio": ("audio/2_26.wav",),
    }
    # Each file has one place; named again, it is meant by its number.
    assert images.sample.question == "Which of <image1> to <image4> makes the sound in <audio1>?"
    assert images.sample.options == ("image 1", "<image2>", "<image3>", "image 4")
    assert video.media == {"video": "videos/31_6.mp4", "audio": ("audio/31_6_1.wav", "audio/31_6_2.wav")}
    assert video.sample.question == "Which clip belongs to <video1>?"
    assert video.sample.options == ("<audio1>", "<audio2>", "both", "none")


def test_avhbench_reads_yes_and_no_only(tmp_path: Path) -> None:
    items = load(tmp_path, "avhbench", AVHBENCH)
    assert [(item.sample.id, item.sample.options, item.sample.gold) for item in items] == [
        ("00191-0", ("Yes", "No"), "A"),
        ("00191-1", ("Yes", "No"), "B"),
    ]


def test_mmau_pro_reads_multiple_choice_only(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 of 3 questions .* left out \(m3\)"):
        items = load(tmp_path, "mmau_pro", MMAU_PRO)
    assert [(item.sample.id, item.sample.gold) for item in items] == [("m1", "B"), ("m2", "A")]
    assert items[0].media == {"audio": "data/a.wav"}
    assert items[1].media == {"audio": ("data/a.wav", "data/b.wav")}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "worldsense",
            {"v": {"task0": {"candidates": ["A. x", "B. y"], "answer": "A"}}},
            "entry 1 has no key 'question'",
        ),
        ("worldsense", {"v": "text"}, "video 'v' is not a JSON object"),
        ("omnivideobench", [{"video": "v", "questions": [{"options": ["x", "y"]}]}], "entry 1: .* begin with a letter"),
        ("jointavbench", [{**JOINTAVBENCH[0], "correct_answer": "x"}], "entry 1: the gold answer 'x' is none"),
        ("videomme_v2", [{**VIDEOMME_V2[0], "group_structure": "[2, 1]"}], "entry 1: `group_structure` must be one of"),
        ("videomme_v2", [{**VIDEOMME_V2[0], "group_type": "x"}], "entry 1: `group_type` must be relevance or logic"),
        ("videomme_v2", [{**VIDEOMME_V2[0], "answer": "I"}], "entry 1: the gold answer 'I' is not a letter"),
        ("av_odyssey", [{"question_id": "1", "audio_1": "x"}], "entry 1: this file holds the media themselves"),
        ("av_odyssey", [{**AV_ODYSSEY[0], "audio_path": []}], "entry 1: .* at least one file"),
        (
            "av_odyssey",
            [{**AV_ODYSSEY[1], "video_path": ["a.mp4", "b.mp4"]}],
            "entry 1: `video_path` must name one file",
        ),
        ("avhbench", [{**AVHBENCH[1], "label": "maybe"}], "entry 1: the gold answer 'Maybe' is none"),
        ("mmau_pro", [{"id": "m1", **_MMAU_PRO, "audio_path": ["../x.wav"]}], "entry 1: the media path"),
    ],
)
def test_wrong_annotations_name_file_and_entry(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, name, content)
    assert str(tmp_path) in str(caught.value)


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"test\.parquet: cannot be read as parquet"):
        BENCHMARKS["videomme_v2"].load(tmp_path)


def test_they_are_found_in_their_folders_and_in_no_average(tmp_path: Path) -> None:
    for name in NEW:
        folder = tmp_path / BENCHMARKS[name].folders[0] / BENCHMARKS[name].annotation_files[0]
        folder.parent.mkdir(parents=True)
        folder.touch()
    assert [benchmark.name for benchmark in present_benchmarks(tmp_path)] == list(NEW)
    assert not any(BENCHMARKS[name].in_average for name in NEW)
    assert {name: BENCHMARKS[name].items for name in NEW} == {
        "worldsense": 3172,
        "omnivideobench": 1000,
        "jointavbench": 2853,
        "videomme_v2": 3200,
        "av_odyssey": 4555,
        "avhbench": 5302,
        "mmau_pro": 0,
    }
