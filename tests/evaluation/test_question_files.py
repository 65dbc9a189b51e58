"""Questions of one's own: files with audio, images, labeled options and answers of every kind, and their categories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.question_sets import QuestionsConfig, QuestionSet, open_question_sets
from avrt.sample import Sample
from tests.distributed.runs import write_shards
from tests.evaluation.test_run_server import ModelServer, choice, evaluate


@pytest.fixture
def folder(real_data: Path, tmp_path: Path) -> Path:
    """A video, an audio file and an image, each at another of the places where media may be."""
    for name in ("videos", "audios", "pictures"):
        (tmp_path / name).mkdir()
    row = json.loads((real_data / "avqa" / "val_qa.json").read_text())[0]
    shutil.copy(real_data / "avqa" / "videos" / f"{row['video_name']}.mp4", tmp_path / "videos" / "v.mp4")
    (sound,) = (real_data / "benchmarks" / "mmau" / "test-mini-audios").iterdir()
    shutil.copy(sound, tmp_path / "audios" / "s.wav")
    Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / "pictures" / "p.png")
    return tmp_path


def open_file(folder: Path, rows: Any, **settings: Any) -> QuestionSet:
    (folder / "questions.json").write_text(json.dumps(rows))
    config = QuestionsConfig("mine", str(folder), str(folder / "questions.json"), **settings)
    (questions,) = open_question_sets(config)
    return questions


ROWS = [
    {"video": "v", "options": ["A. dog", "B. cat"], "answer": "B", "level": "easy", "n": 1},
    {"audio": "s.wav", "options": {"A": "bell", "B": "bus"}, "answer": "bus", "level": "easy"},
    {"image": "pictures/p.png", "audio": "s.wav", "options": ["x", "y"], "answer": 1, "n": 2},
    {"image": "lost.png", "options": ["x", "y"], "answer": "(B)", "level": "hard"},
]
ROWS = [{"id": f"q{number}", "question": "?", **row} for number, row in enumerate(ROWS)]


def test_media_options_and_answers_of_every_kind(folder: Path) -> None:
    questions = open_file(folder, ROWS)
    assert [item.sample.gold for item in questions.items] == ["B"] * 4
    assert [item.sample.options for item in questions.items] == [
        ("dog", "cat"),
        ("bell", "bus"),
        ("x", "y"),
        ("x", "y"),
    ]
    assert [item.media for item in questions.items] == [
        {"video": "videos/v.mp4"},
        {"audio": "audios/s.wav"},
        {"image": "pictures/p.png", "audio": "audios/s.wav"},
        {"image": "videos/lost.png"},
    ]
    assert [item.missing for item in questions.items] == [(), (), (), ("videos/lost.png",)]
    found = []
    for item in questions.items[:3]:
        shown = questions.show(item, MediaConfig(num_frames=2, max_audio_seconds=1.0))
        assert isinstance(shown, Sample)
        assert shown.clip is not None
        frames = 0 if shown.clip.frames is None else len(shown.clip.frames)
        found.append((frames, shown.clip.is_image, shown.clip.waveform is not None))
    assert found == [(2, False, True), (0, False, True), (1, True, True)]


def test_avqas_own_keys_take_audio_and_images(folder: Path) -> None:
    row = {"id": 1, "question_text": "?", "multi_choice": ["x", "y"], "answer": 0, "question_type": "Which"}
    rows = [row | {"audio": "s.wav"}, row | {"id": 2, "image": "pictures/p.png", "audio": "s.wav"}]
    items = open_file(folder, rows).items
    assert [sorted(item.media) for item in items] == [["audio"], ["audio", "image"]]
    assert not any(item.missing for item in items)
    assert items[0].categories == {"question_type": "Which"}


@pytest.mark.parametrize(
    ("answers", "base", "golds"),
    [
        ([1, 2, "2"], 1, "ABB"),
        ([0, 1, "1"], 0, "ABB"),
        (["A", "b", "(B)"], "letter", "ABB"),
        (["A", "B", "A"], None, "BAB"),  # options that are letters themselves are taken by their text
    ],
)
def test_answers_are_read_as_told(answers: list[Any], base: Any, golds: str, folder: Path) -> None:
    row = {"audio": "s.wav", "question": "?", "options": ["B", "A"]}
    rows = [row | {"id": number, "answer": answer} for number, answer in enumerate(answers)]
    assert "".join(item.sample.gold for item in open_file(folder, rows, answer_base=base).items) == golds


@pytest.mark.parametrize(("answer", "base"), [(1, "letter"), ("C", "letter"), ("dog", "letter"), (2, None), (0, 1)])
def test_an_answer_of_another_kind_is_refused(answer: Any, base: Any, folder: Path) -> None:
    row = {"id": 1, "audio": "s.wav", "question": "?", "options": ["dog", "cat"], "answer": answer}
    with pytest.raises(ValueError, match=r"questions\.json: .*entry 1.* gold answer"):
        open_file(folder, [row], answer_base=base)


def test_other_keys_are_categories(folder: Path) -> None:
    """Keys with values that repeat, or the chosen ones."""
    found = [item.categories for item in open_file(folder, ROWS).items]
    assert found == [{"level": "easy"}, {"level": "easy"}, {}, {"level": "hard"}]
    chosen = [item.categories for item in open_file(folder, ROWS, categories=["n"]).items]
    assert chosen == [{"n": "1"}, {}, {"n": "2"}, {}]
    assert all(not item.categories for item in open_file(folder, ROWS, categories=[]).items)
    with pytest.raises(ValueError, match=r"questions\.json: categories: .* levels; found `level`, `n`"):
        open_file(folder, ROWS, categories=["levels"])
    many = [{**ROWS[1], "id": n, "key": n // 2, "list": ["x", "y"], "no": {"a": 1}, "share": 0.5} for n in range(120)]
    assert open_file(folder, many).items[0].categories == {"level": "easy", "list": "x, y"}


def test_shards_have_the_categories_that_were_packed(tmp_path: Path) -> None:
    shards = str(write_shards(tmp_path / "shards", samples=4))
    with pytest.raises(ValueError, match="categories: no question has a value of level"):
        open_question_sets(QuestionsConfig("mine", shards=shards, categories=["level"]))
    with pytest.raises(ValueError, match="as they were packed"):
        open_question_sets(QuestionsConfig("mine", shards=shards, answer_base=1))


@pytest.mark.parametrize("settings", [{"benchmarks": "mmau", "annotations": "x"}, {"benchmarks": "mmau"}])
def test_a_benchmark_with_a_reader_of_its_own_takes_none_of_it(settings: dict[str, str], real_data: Path) -> None:
    settings = {"data_root": str(real_data / "benchmarks"), **settings}
    with pytest.raises(ValueError, match="are for questions of your own"):
        open_question_sets(QuestionsConfig(**settings, answer_base=1))  # type: ignore[arg-type]


def test_a_run_with_every_setting(folder: Path, tmp_path: Path) -> None:
    rows = [{"number": 1, "prompt": "?", "a": "dog", "b": "cat", "label": 2, "file": "v.mp4", "level": "easy"}]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (
        "questions.benchmarks=mine",
        f"questions.annotations={folder / 'mine.jsonl'}",
        "questions.fields=id=number,question=prompt,options=a+b,answer=label,video=file",
        "questions.answer_base=1",
        "questions.categories=[level]",
    )
    with ModelServer(lambda body, before: choice("B")).running() as url:
        assert evaluate(url, tmp_path / "run", folder, *words) == 0
    metrics = json.loads((tmp_path / "run" / "mine" / "metrics.json").read_text())
    assert metrics["strict"]["accuracy"] == 1.0
    assert metrics["categories"]["level"]["easy"]["strict"]["items"] == 1
