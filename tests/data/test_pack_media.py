"""Packing images with audio, audio alone, and media that lie in the annotations themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avrt.cli import main
from avrt.data.shards import ShardSet
from tests.media_files import as_int16, numbered_frame, tone, write_audio, write_video

RATE = 16_000


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AVQA-R1-6K's layout: ``train/images`` and ``train/audios``; and a video."""
    folder = tmp_path_factory.mktemp("AVQA_R1")
    for name in ("images", "audios"):
        (folder / "train" / name).mkdir(parents=True)
    for number in range(3):
        Image.fromarray(numbered_frame(number)).save(folder / "train" / "images" / f"sample_{number}.jpg", quality=95)
        sound = as_int16(tone(300 + 100 * number, 2, RATE))
        write_audio(folder / "train" / "audios" / f"sample_{number}.wav", sound, RATE)
    write_video(folder / "train" / "silent.mp4", [numbered_frame(i) for i in range(20)])
    return folder


def pack(tmp_path: Path, rows: list[dict], media: Path, *words: str) -> int:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = ["pack", "--annotations", tmp_path / "rows.json", "--videos", media, "--out", tmp_path / "out", *words]
    return main([str(word) for word in command])


def pitch(waveform: np.ndarray) -> float:
    """The strongest frequency in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(waveform))) * RATE / len(waveform))


def problem(number: int, **path: str) -> dict:
    return {
        "problem_id": number,
        "problem": "What is heard?",
        "data_type": "image_audio",
        "problem_type": "multiple choice",
        "options": ["A. dog", "B. cat"],
        "solution": "<answer>B</answer>",
        "path": path,
    }


def test_images_with_audio(media: Path, tmp_path: Path) -> None:
    """Two questions about one image with other audio are two clips; paths are found from the folder above too."""
    rows = [problem(n, image=f"images/sample_{n}.jpg", audio=f"audios/sample_{n}.wav") for n in range(3)]
    rows.append(problem(3, image="images/sample_0.jpg", audio="./AVQA_R1/train/audios/sample_2.wav"))
    assert pack(tmp_path, rows, media / "train") == 0
    shards = ShardSet(tmp_path / "out", verify=True)
    assert shards.keys == ["0", "1", "2", "3"]
    for sample, frequency in zip(shards, (300, 400, 500, 500), strict=True):
        assert sample.clip is not None
        assert sample.clip.waveform is not None
        assert (sample.clip.is_image, len(sample.clip.frames), sample.clip.duration) == (True, 1, 2.0)
        assert pitch(sample.clip.waveform.numpy()) == pytest.approx(frequency, abs=1)
    assert (shards[3].source, shards[3].audio_source) == ("images/sample_0.jpg", "AVQA_R1/train/audios/sample_2.wav")


def test_audio_alone_and_images_alone(media: Path, tmp_path: Path) -> None:
    """No option is needed where no row names another stream."""
    for kind, ending in (("audio", "wav"), ("image", "jpg")):
        folder = tmp_path / kind
        folder.mkdir()
        row = {"id": 1, "question": "?", "choices": ["a", "b"], "answer": 0, kind: f"sample_1.{ending}"}
        assert pack(folder, [row], media / "train" / f"{kind}s") == 0
        clip = ShardSet(folder / "out")[0].clip
        assert (clip.waveform is None, clip.frames is None) == (kind == "image", kind == "audio")


def test_a_silent_video_with_its_audio_file(media: Path, tmp_path: Path) -> None:
    row = {"id": 1, "question": "?", "options": ["a", "b"], "answer": 0, "video": "silent", "audio": "sample_1.wav"}
    assert pack(tmp_path, [row | {"audio": "audios/sample_1.wav"}], media / "train") == 0
    clip = ShardSet(tmp_path / "out")[0].clip
    assert len(clip.frames) == 8
    assert pitch(clip.waveform.numpy()) == pytest.approx(400, abs=1)


def test_missing_media_name_the_path(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(tmp_path, [problem(0, image="images/none.jpg", audio="audios/sample_0.wav")], media / "train") != 0
    error = capsys.readouterr().err
    assert str(media / "train" / "images" / "none.jpg") in error
    assert "missing_file 1" in error


def test_a_changed_audio_file_is_packed_again(media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "x.jpg").write_bytes((media / "train" / "images" / "sample_0.jpg").read_bytes())
    for frequency in (300, 700):
        write_audio(folder / "x.wav", as_int16(tone(frequency, 2, RATE)), RATE)
        assert pack(tmp_path, [problem(0, image="x.jpg", audio="x.wav")], folder) == 0
        clip = ShardSet(tmp_path / "out")[0].clip
        assert pitch(clip.waveform.numpy()) == pytest.approx(frequency, abs=1)


def test_media_in_the_rows(media: Path, tmp_path: Path) -> None:
    """OmniInstruct's published columns, with images and audio as `datasets` stores them."""
    datasets = pytest.importorskip("datasets", reason="the file is written by `datasets`")
    rows = []
    for number in range(3):
        image, audio = io.BytesIO(), media / "train" / "audios" / f"sample_{number}.wav"
        Image.fromarray(numbered_frame(number)).save(image, format="PNG")
        rows.append(
            {
                "answer": "a cat",
                "audio": {"bytes": audio.read_bytes(), "path": None},
                "image": {"bytes": image.getvalue(), "path": f"{number}.png"},
                "audio_label": "sound event",
                "source": "AVQA",
                "original_meta": "{}",
                "question": "What is heard?",
                "options": ["a dog", "a cat", "a cow", "a bird"],
            }
        )
    features = datasets.Features(
        {
            **dict.fromkeys(("answer", "audio_label", "source", "original_meta", "question"), datasets.Value("string")),
            # What `datasets.Audio` stores; encoding by it would need torchcodec.
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "image": datasets.Image(decode=False),
            "options": datasets.Sequence(datasets.Value("string")),
        }
    )
    folder = tmp_path / "OmniInstruct_v1" / "data"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    command = ["pack", "--annotations", folder.parent, "--videos", tmp_path / "media", "--out", tmp_path / "out"]
    assert main([str(word) for word in command]) == 0
    shards = ShardSet(tmp_path / "out", verify=True)
    assert shards.keys == ["row-000001", "row-000002", "row-000003"]
    for number, sample in enumerate(shards):
        assert (sample.options[sample.answer], sample.clip.is_image) == ("a cat", True)
        assert pitch(sample.clip.waveform.numpy()) == pytest.approx(300 + 100 * number, abs=1)
        assert sample.extra == {"audio_label": "sound event", "source": "AVQA", "original_meta": "{}"}
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "media" / "embedded").iterdir()}
    assert sorted(path.suffix for path in written) == [".png"] * 3 + [".wav"] * 3
    assert main([str(word) for word in command]) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_reasoning_that_was_not_checked_is_no_target(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A form with other uses than fine-tuning: reasoning is packed on request, and only what can be taught."""
    rows = [problem(n, image=f"images/sample_{n}.jpg", audio=f"audios/sample_{n}.wav") for n in range(3)]
    rows[0]["solution"] = "<think>A cat is heard.</think><answer>B</answer>"
    rows[1]["solution"] = "<context>c</context><think>A cat is heard.</think><answer>B</answer>"
    assert pack(tmp_path, rows, media / "train") == 0
    assert "2 rows have reasoning" in capsys.readouterr().out
    assert [sample.trace for sample in ShardSet(tmp_path / "out")] == [None] * 3
    (tmp_path / "filtered").mkdir()
    assert pack(tmp_path / "filtered", rows, media / "train", "--reasoning", "filter", "--val-share", "0") == 0
    (sample,) = ShardSet(tmp_path / "filtered" / "out" / "train")
    assert (sample.id, sample.trace) == ("0", "<think>A cat is heard.</think>\n<answer>B</answer>")


def test_a_name_too_long_for_a_file_is_a_missing_file(media: Path, tmp_path: Path) -> None:
    row = {
        "id": 1,
        "question": "?",
        "options": ["a", "b"],
        "answer": 0,
        "video": "silent",
        "audio": "audios/sample_1.wav",
    }
    rows = [row, row | {"id": 2, "video": f"{'x' * 300}/{'y' * 300}"}]
    assert pack(tmp_path, rows, media / "train") == 0
    (line,) = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "missing_file"


def test_a_row_that_is_left_out_later_is_listed(media: Path, tmp_path: Path) -> None:
    """Although the shards stay as they are."""
    row = problem(0, image="images/sample_0.jpg", audio="audios/sample_0.wav")
    for rows in ([row], [row, problem(1) | {"options": [], "solution": "a dog"}]):
        assert pack(tmp_path, rows, media / "train") == 0
        listed = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
        assert [json.loads(line)["reason"] for line in listed] == ["open_ended"] * (len(rows) - 1)
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["left_out"] == ({} if len(rows) == 1 else {"open_ended": 1})
