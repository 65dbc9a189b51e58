"""Evaluations of a tiny student: killed and resumed, shared by two processes, on real items, from every source."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from PIL import Image

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.evaluation.published_results import COLUMNS
from avrt.evaluation.records.log import RecordWriter, read_records
from avrt.evaluation.records.run_info import RunInfo
from avrt.media.reader import read_clip
from avrt.model.trained_weights import weights_fingerprint
from tests.distributed.runs import write_shards
from tests.lightning_modules.callbacks.tiny_runs import events, scalars
from tests.lightning_modules.evaluations import (
    arguments,
    evaluate,
    kill_when,
    lines,
    logged_ids,
    replies,
    run_to_end,
    train_student,
)

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"
QUESTIONS = 61


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with samples of every combination of streams; an odd number, so no split is even."""
    return write_shards(tmp_path_factory.mktemp("questions"), samples=QUESTIONS)


@pytest.fixture(scope="module")
def trained(student_folder: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training's folder: ``student`` (exported) and ``checkpoints``. It answers in tags, right or wrong."""
    run = tmp_path_factory.mktemp("trained") / "sft"
    train_student(run, student_folder, questions)
    return run


@pytest.fixture(scope="module")
def whole(trained: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert evaluate(run, trained / "student", benchmarks="mine", shards=questions) == 0
    return run / "mine"


def test_the_student_says_something(whole: Path) -> None:
    """Else the comparisons below would compare nothing."""
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["complete"]
    assert 0 < metrics["strict"]["correct"] < QUESTIONS
    assert metrics["formatted"] > 0.5


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_a_random_moment_and_run_again(
    devices: int, trained: Path, questions: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings: dict[str, Any] = {"benchmarks": "mine", "shards": questions, "trainer__devices": devices}
    if devices > 1:
        settings["trainer__strategy"] = "ddp"
    moment = random.Random().randint(1, QUESTIONS // 2)
    done = kill_when(run, trained / "student", "mine", moment, **settings)
    assert moment <= done < QUESTIONS, f"killed after {done} records"
    assert not (run / "mine" / "metrics.json").exists()
    kept = set(logged_ids(run / "mine"))
    if devices == 1:
        assert evaluate(run, trained / "student", **settings) == 0
    else:
        output = run_to_end(run, trained / "student", **settings)
        assert output.count("evaluation: accuracy in percent") == 1, "one process prints"
        assert {path.name for path in (run / "mine").glob("records.rank*")} == {
            "records.rank0.jsonl",
            "records.rank1.jsonl",
        }
    written = logged_ids(run / "mine")
    assert len(written) == len(set(written)) == QUESTIONS, "each item is written once"
    assert kept <= set(written)
    assert replies(run / "mine") == replies(whole)
    assert (run / "mine" / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert_logged(run, "mine")


def assert_logged(run: Path, benchmark: str) -> None:
    """The curves agree with the numbers that come from the records."""
    found, metrics = events(run), json.loads((run / benchmark / "metrics.json").read_text())
    expected = {
        "accuracy": metrics["strict"]["accuracy"],
        "official_accuracy": metrics["official"]["accuracy"],
        "no_reply": metrics["errors"]["no_reply"] / metrics["items"],
        "logic_errors": metrics["errors"]["logic"] / metrics["items"],
        "instruction_format_errors": metrics["errors"]["instruction_format"] / metrics["items"],
        "completion_tokens": metrics["tokens"]["completion_mean"],
    }
    for name, value in expected.items():
        tag = f"test/{benchmark}/{name}"
        if value is None:
            assert tag not in found.Tags()["scalars"]
        else:
            assert [point[1] for point in scalars(found, tag)] == pytest.approx([value], rel=1e-6), name


def test_a_limited_run_resumes_and_a_finished_one_stays(
    trained: Path, questions: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, settings = tmp_path / "run", {"benchmarks": "mine", "shards": questions}
    assert evaluate(run, trained / "student", **settings, trainer__limit_test_batches=3) == 0
    assert f"mine: 6 of {QUESTIONS} items are done" in capsys.readouterr().out
    assert lines(run / "mine") == 6
    assert not (run / "mine" / "metrics.json").exists()
    # A batch of which a kill left one record is answered whole and written in part.
    log = run / "mine" / "records.rank0.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]) + b'{"id": "cut off')
    assert evaluate(run, trained / "student", **settings) == 0
    assert sorted(logged_ids(run / "mine")) == sorted(record.id for record in replies(whole))
    assert replies(run / "mine") == replies(whole)
    before = {path.name: path.read_bytes() for path in (run / "mine").iterdir()}
    assert evaluate(run, trained / "student", **settings) == 0
    assert {path.name: path.read_bytes() for path in (run / "mine").iterdir()} == before
    assert len(list((run / "harness").glob("*/results_*.json"))) == 1
    # Another mask in the same folder would mix two runs.
    capsys.readouterr()
    assert evaluate(run, trained / "student", **settings, modalities="A") == 1
    assert "`modalities` 'AV', this one has 'A'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("model__init_args__student__template__tags_instruction", "Think first.", "prompt.tags_instruction"),
        ("model__init_args__student__template__system", "You are a parrot.", "prompt.system"),
        ("model__init_args__student__answer_format", "letter", "answer_format"),
        ("model__init_args__student__max_pixels", 6272, "decoding.max_pixels"),
        ("model__init_args__max_completion_length", 20, "decoding.max_completion_length"),
        ("benchmarks", "mine", "prompt.shards"),
    ],
)
def test_another_prompt_in_the_same_folder_is_refused(
    setting: str,
    value: Any,
    name: str,
    trained: Path,
    questions: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Items that are not answered yet would be asked with another prompt than the others were."""
    shutil.copytree(whole, tmp_path / "run" / "mine")
    shards = questions
    if name == "prompt.shards":  # the same questions, with other media under them
        shards = tmp_path / "shards"
        with ShardWriter(shards, samples_per_shard=1000) as writer:
            for sample in ShardSet(questions):
                writer.write(sample)
    settings = {"benchmarks": "mine", "shards": shards, setting: value}
    capsys.readouterr()
    assert evaluate(tmp_path / "run", trained / "student", **settings) == 1
    error = capsys.readouterr().err
    assert f"`{name}` " in error
    assert "use another run folder" in error


def test_another_chat_template_is_another_prompt(
    trained: Path, questions: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies beside the weights, which are the same."""
    student = tmp_path / "student"
    shutil.copytree(trained / "student", student)
    changed = [path for path in student.glob("*") if path.suffix in (".jinja", ".json") and "template" in path.name]
    assert changed
    for path in changed:
        path.write_text(path.read_text().replace("assistant", "helper"))
    shutil.copytree(whole, tmp_path / "run" / "mine")
    info = RunInfo.read(whole)
    text = (tmp_path / "run" / "mine" / "run.json").read_text().replace(info.model, str(student))
    (tmp_path / "run" / "mine" / "run.json").write_text(text)
    capsys.readouterr()
    assert evaluate(tmp_path / "run", student, benchmarks="mine", shards=questions) == 1
    assert "`prompt.tokens_sha256` " in capsys.readouterr().err


def test_one_changed_weight_is_another_student() -> None:
    module = torch.nn.Linear(300, 300)
    before = weights_fingerprint(module)
    assert before == weights_fingerprint(module)
    with torch.no_grad():
        module.weight[250, 250] += 1e-3
    assert weights_fingerprint(module) != before
    module.to(torch.bfloat16)
    in_half = weights_fingerprint(module)
    with torch.no_grad():
        module.weight[250, 250] += 1
    assert weights_fingerprint(module) != in_half


def test_a_second_run_on_the_folder_is_refused(
    trained: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with RecordWriter(run / "mine"):  # as the first one has it open
        assert evaluate(run, trained / "student", benchmarks="mine", shards=questions) == 1
    assert str(run / "mine") in capsys.readouterr().err


def test_a_checkpoint_answers_as_its_export(
    student_folder: Path, trained: Path, questions: Path, whole: Path, tmp_path: Path
) -> None:
    (*_, checkpoint) = sorted((trained / "checkpoints").glob("step=*.ckpt"))
    words = {"benchmarks": "mine", "shards": questions}
    command = arguments(tmp_path / "run", student_folder, words)
    assert main([*command, "--ckpt_path", str(checkpoint)]) == 0
    assert [record.text for record in replies(tmp_path / "run" / "mine")] == [record.text for record in replies(whole)]
    ours, theirs = RunInfo.read(tmp_path / "run" / "mine"), RunInfo.read(whole)
    assert (ours.model, ours.decoding["base"]) == (str(checkpoint), str(student_folder))
    assert ours.weights == theirs.weights
    # The untrained student under the same name of a checkpoint is another run.
    assert main(arguments(tmp_path / "run", student_folder, words)) == 1


@pytest.fixture(scope="module")
def real_root(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every benchmark of which real media are at hand, and faults in one of them."""
    root = tmp_path_factory.mktemp("data")
    for name in ("dailyomni", "rivabench", "mmau"):
        (root / name).symlink_to(real_data / "benchmarks" / name)
    avqa = root / "avqa"
    (avqa / "videos").mkdir(parents=True)
    rows = json.loads((real_data / "avqa" / "val_qa.json").read_text())
    (avqa / "val_qa.json").write_text(json.dumps(rows))
    shutil.copy(real_data / "odd" / "derived_truncated_moov_last.mp4", avqa / "videos" / f"{rows[1]['video_name']}.mp4")
    for row in rows[2:]:
        name = f"{row['video_name']}.mp4"
        (avqa / "videos" / name).symlink_to(real_data / "avqa" / "videos" / name)
    omnibench = root / "omnibench"
    for folder in ("dataset", "mm_data/image", "mm_data/audio"):
        (omnibench / folder).mkdir(parents=True)
    row = json.loads((real_data / "annotations" / "omnibench.sample.jsonl").read_text().splitlines()[0])
    (omnibench / "dataset" / "batch-5_1142_20240817.jsonl").write_text(json.dumps(row) + "\n")
    clip = read_clip(real_data / "avqa" / "videos" / f"{rows[3]['video_name']}.mp4", num_frames=1)
    assert clip.frames is not None
    assert clip.waveform is not None
    image = Image.fromarray(clip.frames[0].permute(1, 2, 0).contiguous().numpy())
    for folder, key in (("image", "image_path"), ("audio", "audio_path")):
        path = omnibench / "mm_data" / folder / row[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder == "image":
            image.save(path, format="PNG")
        else:
            soundfile.write(path, clip.waveform.numpy(), 16_000, format="WAV")
    return root


def test_real_items_end_to_end(
    trained: Path, real_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is present, with the decoding in a worker; what is missing or broken is counted, with its reason."""
    run = tmp_path / "run"
    assert evaluate(run, trained / "student", benchmarks="all", shards=None, data_root=real_root, num_workers=1) == 0
    found = {path.parent.name: read_records(path.parent) for path in run.glob("*/run.json")}
    assert {name: len(records) for name, records in found.items()} == {
        "avqa": 4,
        "dailyomni": 4,
        "omnibench": 1,
        "rivabench_standup": 1,
        "mmau": 1,
    }
    assert [record.failure for record in found["avqa"]] == ["missing_media", "unreadable_media", None, None]
    said = capsys.readouterr().out
    video = found["avqa"][0].media["video"]
    assert "avqa: media of 1 of 4 items are missing and these items count as wrong; looked in" in said
    assert f"{real_root / 'avqa'} for {video}" in said
    assert "1 missing_media, 1 unreadable_media (" in said
    assert found["avqa"][0].failure_detail == f"not found: {found['avqa'][0].media['video']}"
    assert re.match(r"(truncated|unreadable|corrupt_video): ", found["avqa"][1].failure_detail or "")
    for name, records in found.items():
        metrics = json.loads((run / name / "metrics.json").read_text())
        assert metrics["strict"]["items"] == len(records) == metrics["items"]
        assert_logged(run, name)
        for record in records:
            assert record.correct_strict is not None
            if record.failure is None:
                assert record.text
                assert record.completion_tokens
    # The prompt has the streams of the item only: an image is not a video, audio alone has no frames.
    (image,), (audio,) = found["omnibench"], found["mmau"]
    assert image.media.keys() == {"image", "audio"}
    assert image.prompt_tokens > 250  # 10 s of audio
    assert audio.categories["task"] == "sound"
    assert {path.name.split("_")[1] for path in run.glob("harness/*/samples_*.jsonl")} == {"avrt"}


def test_a_masked_stream_stays_in_the_prompt(trained: Path, real_root: Path, tmp_path: Path) -> None:
    tokens = {}
    for mask in ("AV", "A", "V"):
        run = tmp_path / mask
        settings = {"benchmarks": "omnibench", "shards": None, "data_root": real_root, "modalities": mask}
        assert evaluate(run, trained / "student", **settings) == 0
        (record,) = read_records(run / "omnibench")
        tokens[mask] = record.prompt_tokens
        assert RunInfo.read(run / "omnibench").modalities == mask
    assert len(set(tokens.values())) == 1


def test_the_shipped_evaluation_covers_every_column_of_the_papers_table() -> None:
    from lightning_modules import cli as lightning_cli

    def read(*words: str) -> Any:
        return lightning_cli.read_settings("test", ["--config", str(CONFIGS / "eval.yaml"), *words])

    settings = read()
    data = settings.data.init_args
    assert settings.model.class_path == "lightning_modules.evaluate.EvaluateModule"
    # Every model gets 8 frames and up to 10 s of audio.
    assert (data.benchmarks, data.num_frames, data.max_audio_seconds) == ("all", 8, 10.0)
    text = (CONFIGS / "eval.yaml").read_text(encoding="utf-8")
    for name in COLUMNS:
        assert re.search(rf"\b{name}\b", text), name
        assert read("--data.benchmarks", name).data.init_args.benchmarks == name
    assert read("--data.benchmarks=[mmar, mmau]").data.init_args.benchmarks == ["mmar", "mmau"]
