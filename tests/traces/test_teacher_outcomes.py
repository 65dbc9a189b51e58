"""Difficulty lists from the ledger of a trace run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from avrt.cli import main
from avrt.data.id_lists import read_ids
from avrt.data.shards import ShardSet
from avrt.demo.prepare import cache_folder
from avrt.demo.settings import DemoSettings
from avrt.sample import LETTERS
from avrt.servers.outcome import Status
from avrt.traces.call_planner import CallPlanner
from avrt.traces.call_records import CallRecord
from avrt.traces.config import TeacherConfig, TracesConfig, load_config
from avrt.traces.ledger import LedgerWriter
from avrt.traces.teacher_outcomes import read_ledger_outcomes
from tests.traces.question_set import write_shards

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"
QUESTIONS = 8
URL = "http://localhost:1/v1"


def traces_config(folder: Path) -> TracesConfig:
    teachers = {
        name: TeacherConfig([URL], model="m", sampling={"max_tokens": 16}, inputs=inputs)  # type: ignore[arg-type]
        for name, inputs in (("vision", "frames"), ("audio", "audio"))
    }
    return TracesConfig(str(folder / "shards"), str(folder / "ledger"), "out", teachers, teachers["audio"], split=None)


def record_answers(config: TracesConfig, questions: int) -> None:
    """Vision is right about every second question, audio about every third; both in a teacher's own words."""
    planner = CallPlanner(config, ShardSet(config.shards))

    async def write() -> None:
        async with LedgerWriter(config.ledger, "calls") as writer:
            for index in range(questions):
                for stage, every in (("vision", 2), ("audio", 3)):
                    call = planner.teacher_call(stage, index)
                    assert call is not None
                    gold = LETTERS.index(call.sample.gold)
                    letter = call.sample.letters[gold if index % every == 0 else gold - 1]
                    # A right letter in a reply that was cut does not count.
                    cut = index == 6 and stage == "audio"
                    await writer.append(
                        CallRecord(
                            key=call.key,
                            stage=stage,
                            sample=call.sample.id,
                            status=Status.LENGTH if cut else Status.OK,
                            text=f"I looked and listened.\nAnswer: ({letter})",
                            finish_reason="length" if cut else "stop",
                        )
                    )

    asyncio.run(write())


def test_from_the_ledger_of_a_trace_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "shards", QUESTIONS)
    config = traces_config(tmp_path)
    ids = ShardSet(config.shards).keys
    record_answers(config, QUESTIONS)
    vision, audio = read_ledger_outcomes(config)
    assert vision == {item: index % 2 == 0 for index, item in enumerate(ids)}
    assert audio == {item: index % 3 == 0 and index != 6 for index, item in enumerate(ids)}
    stage = {"base_urls": [URL], "model": "m", "sampling": {"max_tokens": 16}}
    teachers = {"vision": {**stage, "inputs": "frames"}, "audio": {**stage, "inputs": "audio"}}
    settings = {"shards": config.shards, "ledger": config.ledger, "output": "out", "split": None}
    file = tmp_path / "traces.yaml"
    file.write_text(json.dumps({**settings, "teachers": teachers, "merge": stage}))
    assert main(["subsets", "--traces", str(file), "--out", str(tmp_path / "lists")]) == 0
    lists = {name: [ids.index(i) for i in read_ids(tmp_path / "lists" / f"{name}.txt")] for name in ("easy", "medium")}
    assert lists == {"easy": [0], "medium": [2, 3, 4, 6]}
    assert "1 easy, 4 medium, 3 hard" in capsys.readouterr().out


def test_the_demos_trace_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config names its shards by a ``demo:`` path."""
    monkeypatch.setenv("AVRT_CACHE", str(tmp_path))
    write_shards(cache_folder(DemoSettings()) / "shards" / "train", QUESTIONS)
    config = load_config([CONFIGS / "traces_demo.yaml"], [f"--ledger={tmp_path / 'ledger'}"])
    config.shards = str(cache_folder(DemoSettings()) / "shards" / "train")
    record_answers(config, QUESTIONS)
    file = tmp_path / "traces.yaml"
    text = (CONFIGS / "traces_demo.yaml").read_text().replace("runs/traces_demo/ledger", str(tmp_path / "ledger"))
    file.write_text(text)
    assert main(["subsets", "--traces", str(file), "--out", str(tmp_path / "lists")]) == 0


def test_an_unfinished_trace_run_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", QUESTIONS)
    config = traces_config(tmp_path)
    record_answers(config, QUESTIONS - 1)
    with pytest.raises(ValueError, match="2 calls of the teachers are missing"):
        read_ledger_outcomes(config)


@pytest.mark.parametrize("words", [[], ["--vision", "v"], ["--traces", "t", "--audio", "a"]])
def test_one_source_is_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["subsets", "--out", "x", *words]) == 2
    assert "give --vision and --audio, or --traces" in capsys.readouterr().err
