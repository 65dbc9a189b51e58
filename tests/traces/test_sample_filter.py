"""The variants of the ablations come from one ledger, and teachers' real outputs become good targets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.data.shards import ShardSet
from avrt.sample import Sample
from avrt.servers.outcome import Status
from avrt.text.answers import first_think, is_formatted
from avrt.traces.call_records import CallRecord
from avrt.traces.config import StageConfig
from avrt.traces.filler import filler
from avrt.traces.pipeline import run_traces
from avrt.traces.prompts import trace_for_merger
from avrt.traces.sample_filter import teacher_target
from avrt.traces.teacher_replies import read_teacher
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import answer, audio_right, kept, make_config, merge_formatted, vision_right

COUNT = 40


def teacher_record(text: str) -> CallRecord:
    return CallRecord(key="k", stage="audio", sample="s", status=Status.OK, text=text, finish_reason="stop")


def test_all_variants_come_from_one_ledger_without_another_teacher_call(question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(answer) as server:
        config = make_config(question_shards, tmp_path, server.url)
        run_traces(config)
        teacher_calls = sum(len(body["messages"][0]["content"]) > 1 for body in server.bodies)
        assert teacher_calls == 2 * COUNT
        traces: dict[str, dict[int, str]] = {}
        for variant in ("merged", "audio_only", "vision_only", "answer_only", "format_only", "unfiltered"):
            run_traces(replace(config, variant=variant, output=str(tmp_path / variant)))  # type: ignore[arg-type]
            shards = ShardSet([tmp_path / variant / "train", tmp_path / variant / "val"])
            traces[variant] = {int(sample.id[1:]): sample.trace or "" for sample in shards}
        assert sum(len(body["messages"][0]["content"]) > 1 for body in server.bodies) == teacher_calls
    merged = {i for i in range(COUNT) if kept(i)}
    both = {i for i in range(COUNT) if vision_right(i) and audio_right(i)}
    assert set(traces["merged"]) == set(traces["answer_only"]) == set(traces["format_only"]) == merged
    assert set(traces["audio_only"]) == set(traces["vision_only"]) == both
    assert set(traces["unfiltered"]) == {i for i in range(COUNT) if merge_formatted(i)}
    for index in both:
        letter = "ABCD"[index % 4]
        assert f"calls in clip {index}" in traces["audio_only"][index]
        expected = f"<think>I look at clip {index}.\nIt shows fur.</think>\n<answer>{letter}</answer>"
        assert traces["vision_only"][index] == expected
        assert traces["audio_only"][index].endswith(f"<answer>{letter}</answer>")
        assert is_formatted(traces["audio_only"][index])
    for index in merged:
        letter = "ABCD"[index % 4]
        assert traces["answer_only"][index] == letter
        assert traces["format_only"][index] == f"<think>{filler(f'q{index:03d}')}</think>\n<answer>{letter}</answer>"


def test_another_merger_shares_the_teachers(question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(answer) as server, ScriptedServer(answer, models=("other",)) as other:
        config = make_config(question_shards, tmp_path, server.url)
        run_traces(config)
        calls = sum(server.seen.values())
        merge = StageConfig([other.url], model="other", sampling={"max_tokens": 64})
        run_traces(replace(config, merge=merge, output=str(tmp_path / "other")))
        assert sum(server.seen.values()) == calls
        assert sum(other.seen.values()) == sum(vision_right(i) and audio_right(i) for i in range(COUNT))


def test_unfiltered_keeps_the_mergers_own_wrong_answer(question_shards: Path, tmp_path: Path) -> None:
    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        reply = answer(body, text, times)
        if len(body["messages"][0]["content"]) == 1 and "clip number 3?" in text:
            reply.text = "<think>hm</think><answer>A</answer>"  # gold is D
        return reply

    with ScriptedServer(respond) as server:
        config = make_config(question_shards, tmp_path, server.url, variant="unfiltered")
        statistics = run_traces(config)
    assert statistics is not None
    traces = {sample.id: sample.trace for sample in ShardSet([tmp_path / "out" / "train", tmp_path / "out" / "val"])}
    assert traces["q003"] == "<think>hm</think>\n<answer>A</answer>"


def test_a_merger_whose_server_takes_its_thinking_out_is_read(question_shards: Path, tmp_path: Path) -> None:
    """The reply has the tags, and the model's own thinking is in a separate field."""

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        reply = answer(body, text, times)
        if len(body["messages"][0]["content"]) == 1:
            reply.message = {"reasoning_content": "Let me merge these two."}
        return reply

    with ScriptedServer(respond) as server:
        statistics = run_traces(make_config(question_shards, tmp_path, server.url))
    assert statistics is not None
    assert statistics["yield"]["kept"] == sum(kept(i) for i in range(COUNT))
    for sample in ShardSet(tmp_path / "out" / "train"):
        assert (sample.trace or "").startswith("<think>Heard and seen")


def test_real_audio_flamingo_outputs_are_read(real_data: Path) -> None:
    """Untagged reasoning with the option inline; gold letters as the texts themselves state them."""
    lines = [json.loads(line) for line in (real_data / "traces" / "af3_think.jsonl").read_text().splitlines()]
    gold = {
        "Which genre": "C",
        "What type of soundtrack": "D",
        "Which musical style": "B",
        "How does the emotional": "A",
    }
    read = 0
    for line in lines:
        question = line.get("question", "")
        letter = next((letter for start, letter in gold.items() if question.startswith(start)), None)
        if letter is None:
            continue
        options = tuple(
            text.strip(" ,.\n") for text in re.findall(r"\([A-D]\) (.+?)(?=\s*\([A-D]\)|\. Please|$)", question, re.S)
        )
        sample = Sample("s", question, options, "ABCD".index(letter))
        assert read_teacher([teacher_record(line["text"])], sample).right, line["text"]
        target = teacher_target(line["text"], letter)
        assert target is not None
        assert is_formatted(target)
        read += 1
    assert read == 4


def test_real_kimi_outputs_lose_their_markers_and_keep_their_words(real_data: Path) -> None:
    for line in (real_data / "traces" / "kimi_vl.jsonl").read_text().splitlines():
        text = json.loads(line)["text"]
        merged = trace_for_merger(text, 16_000)
        assert "◁think▷" not in merged
        assert "◁/think▷" not in merged
        assert "<|im_assistant|>" not in merged
        assert merged.split()[:5] == text.removeprefix("◁think▷").split()[:5]
        target = teacher_target(text, "A")
        assert target is not None
        assert is_formatted(target)


def test_a_reply_that_was_cut_inside_its_closing_marker_has_no_answer() -> None:
    sample = Sample("s", "q", ("cat", "dog"), 0)
    for text in ("◁think▷It could be (A) cat.◁/", "◁think▷Answer: (A) cat"):
        assert not read_teacher([teacher_record(text)], sample).right
    cut = CallRecord(
        key="k",
        stage="vision",
        sample="s",
        status=Status.LENGTH,
        text="◁think▷x◁/think▷Answer: (A) cat",
        finish_reason="length",
    )
    assert read_teacher([cut], sample).parsed is None


def test_a_teacher_that_only_answers_gives_no_trace() -> None:
    assert teacher_target("Answer: (B) dog", "B") is None
    target = teacher_target("I hear barking.\n**Answer:** (B) dog<|im_end|>", "B")
    assert target == "<think>I hear barking.</think>\n<answer>B</answer>"
    tagged = teacher_target("<think>Barks.</think><answer>B</answer>", "B")
    assert first_think(tagged or "") == "Barks."


@pytest.mark.parametrize(
    ("limit", "expected"), [(1000, "long thought\nfinal words"), (20, "final words"), (7, "l words")]
)
def test_long_replies_reach_the_merger_shortened(limit: int, expected: str) -> None:
    assert trace_for_merger("<think>long thought</think>\nfinal words", limit) == expected
