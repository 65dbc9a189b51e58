"""The whole pipeline over HTTP: what is kept, what is written, and that a killed run loses and repeats nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.data.manifest import read_manifest
from avrt.data.shards import ShardSet
from avrt.files.folder_lock import FolderInUseError, FolderLock
from avrt.servers.outcome import Status
from avrt.text.answers import is_formatted, parse
from avrt.traces.call_records import decode_record
from avrt.traces.ledger import LedgerError, LedgerIndex
from avrt.traces.pipeline import run_traces
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import (
    answer,
    audio_right,
    change_stage,
    kept,
    make_config,
    merge_formatted,
    vision_right,
)

COUNT = 40


def number(sample_id: str) -> int:
    return int(sample_id[1:])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(root: Path, **options: Any) -> ShardSet:
    """The samples of both splits."""
    return ShardSet([root / "out" / "train", root / "out" / "val"], **options)


@pytest.fixture(scope="module")
def finished(question_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ScriptedServer]]:
    """An undisturbed run: its folder and its server."""
    root = tmp_path_factory.mktemp("finished")
    with ScriptedServer(answer) as server:
        statistics = run_traces(make_config(question_shards, root, server.url))
        assert statistics is not None
        yield root, server


def test_exactly_the_samples_with_two_right_teachers_and_a_good_merge_are_kept(
    finished: tuple[Path, ScriptedServer],
) -> None:
    root, _ = finished
    traces = written(root, verify=True)
    assert {number(key) for key in traces.keys} == {i for i in range(COUNT) if kept(i)}
    for split in ("train", "val"):
        keys = ShardSet(root / "out" / split).keys
        assert keys == sorted(keys)
    for sample in traces:
        index = number(sample.id)
        assert sample.trace == f"<think>Heard and seen in clip {index}.</think>\n<answer>{sample.gold}</answer>"
        assert is_formatted(sample.trace)
        assert parse(sample.trace, sample).letter == sample.gold
        assert set(sample.teacher_traces) == {"vision", "audio"}
        assert sample.teacher_traces["vision"].startswith(f"◁think▷I look at clip {index}.")
        assert f"clip {index}," in sample.teacher_traces["audio"]


def test_media_are_the_input_shards_bytes(finished: tuple[Path, ScriptedServer], question_shards: Path) -> None:
    root, _ = finished
    source, traces = ShardSet(question_shards), written(root)
    for index, key in enumerate(traces.keys):
        before, after = source.media(source.keys.index(key)), traces.media(index)
        assert before.members == after.members
        assert before.info == after.info


def test_each_model_gets_its_own_stream_only(finished: tuple[Path, ScriptedServer]) -> None:
    _, server = finished
    kinds = Counter(tuple(part["type"] for part in body["messages"][0]["content"]) for body in server.bodies)
    both = sum(vision_right(i) and audio_right(i) for i in range(COUNT))
    assert kinds == {
        ("image_url", "image_url", "text"): COUNT,
        ("input_audio", "text"): COUNT,
        ("text",): both,
    }


def test_the_merger_reads_both_traces_and_never_the_gold_answer(finished: tuple[Path, ScriptedServer]) -> None:
    _, server = finished
    prompts = [
        body["messages"][0]["content"][0]["text"] for body in server.bodies if len(body["messages"][0]["content"]) == 1
    ]
    for prompt in prompts:
        assert "It shows fur." in prompt
        assert "Based on the calls" in prompt
        assert "◁" not in prompt
        assert "(A) red fox\n(B) grey owl\n(C) brown bear\n(D) white hare" in prompt


def test_the_split_is_by_clip(finished: tuple[Path, ScriptedServer]) -> None:
    root, _ = finished
    splits: dict[str, set[str]] = {}
    for sample in written(root):
        splits.setdefault(sample.source, set()).add(sample.split)
    assert all(len(names) == 1 for names in splits.values())
    assert {name for names in splits.values() for name in names} == {"train", "val"}


def test_statistics_count_what_was_kept_and_why_the_rest_was_not(finished: tuple[Path, ScriptedServer]) -> None:
    root, _ = finished
    statistics = json.loads((root / "out" / "statistics.json").read_text())
    indices = range(COUNT)
    assert statistics["yield"] == {
        "kept": sum(kept(i) for i in indices),
        "both_wrong": sum(not vision_right(i) and not audio_right(i) for i in indices),
        "vision_wrong": sum(not vision_right(i) and audio_right(i) for i in indices),
        "audio_wrong": sum(vision_right(i) and not audio_right(i) for i in indices),
        "merge_trailing_text": sum(vision_right(i) and audio_right(i) and not merge_formatted(i) for i in indices),
    }
    manifests = [read_manifest(root / "out" / split) for split in ("train", "val")]
    left_out = sum((Counter(manifest.left_out) for manifest in manifests), Counter())
    assert left_out == {k: v for k, v in statistics["yield"].items() if k != "kept"}
    letters: Counter[str] = Counter()
    for split in statistics["splits"].values():
        assert split["format_compliance"] == 100.0
        assert split["answer_tokens"] == [1.0, 0.0]
        for letter, share in split["answer_letters"].items():
            letters[letter] += round(share * split["samples"] / 100)
    assert letters == Counter("ABCD"[i % 4] for i in indices if kept(i))


def test_a_second_run_makes_no_call_and_writes_the_same(
    finished: tuple[Path, ScriptedServer], question_shards: Path
) -> None:
    root, server = finished
    before, calls = files(root / "out"), sum(server.seen.values())
    run_traces(make_config(question_shards, root, server.url))
    assert sum(server.seen.values()) == calls
    assert files(root / "out") == before


def test_shards_do_not_depend_on_the_order_of_the_ledger(
    finished: tuple[Path, ScriptedServer], question_shards: Path, tmp_path: Path
) -> None:
    """The same records in another order, over two files: the same bytes."""
    root, server = finished
    lines = (root / "ledger" / "calls.jsonl").read_bytes().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "b.jsonl").write_bytes(b"".join(lines[:50]))
    (tmp_path / "ledger" / "a.jsonl").write_bytes(b"".join(lines[50:]))
    run_traces(make_config(question_shards, tmp_path, server.url), steps=["write"])
    assert files(tmp_path / "out") == files(root / "out")


def test_missing_calls_are_refused_unless_allowed(
    finished: tuple[Path, ScriptedServer], question_shards: Path, tmp_path: Path
) -> None:
    root, server = finished
    lines = (root / "ledger" / "calls.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger").mkdir()
    rest = [line for line in lines if decode_record(line).sample not in ("q001", "q002")]
    (tmp_path / "ledger" / "calls.jsonl").write_bytes(b"".join(rest))
    config = make_config(question_shards, tmp_path, server.url)
    with pytest.raises(LedgerError, match="2 of stage vision, 2 of stage audio"):
        run_traces(config, steps=["write"])
    assert not (tmp_path / "out").exists()
    statistics = run_traces(replace(config, allow_missing=True), steps=["write"])
    assert statistics is not None
    assert statistics["yield"]["vision_missing"] == 2


def test_a_second_run_is_refused_before_it_reads_a_shard(tmp_path: Path) -> None:
    """Reading the headers of a large set takes many seconds."""
    config = make_config(tmp_path / "no_such_shards", tmp_path, "http://127.0.0.1:1/v1")
    with FolderLock(tmp_path / "ledger", "traces"), pytest.raises(FolderInUseError, match="traces"):
        run_traces(config)


def test_one_stage_at_a_time_gives_the_same(
    finished: tuple[Path, ScriptedServer], question_shards: Path, tmp_path: Path
) -> None:
    root, _ = finished
    with ScriptedServer(answer) as server:
        config = make_config(question_shards, tmp_path, server.url)
        for step in ("audio", "vision", "merge", "write"):
            run_traces(config, steps=[step])
    assert files(tmp_path / "out") == files(root / "out")


def test_bad_replies_never_become_traces(question_shards: Path, tmp_path: Path) -> None:
    """Some calls are cut, refused or given up; their samples are dropped, each with its reason."""
    faults = {
        ("image_url", 1): Reply("<think>cut", finish="length"),
        ("input_audio", 2): Reply("context too long", status=400),
        ("image_url", 3): Reply("Answer: (A) or (B)"),
        ("text", 4): Reply("<think>x</think><answer>A</answer>", finish="length"),
        ("text", 6): Reply("<think>x</think><answer>A</answer>"),  # gold is C
        ("input_audio", 8): Reply("oops", status=500),
    }

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        kind = body["messages"][0]["content"][0]["type"]
        for (at, index), fault in faults.items():
            if kind == at and f"clip number {index}?" in text:
                return fault
        return answer(body, text, times)

    with ScriptedServer(respond) as server:
        config = make_config(question_shards, tmp_path, server.url, allow_missing=True)
        statistics = run_traces(config)
        calls = dict(server.seen)
        run_traces(config)
        again = {text: count - calls.get(text, 0) for text, count in server.seen.items() if count != calls.get(text, 0)}
    assert statistics is not None
    reasons = statistics["yield"]
    assert reasons["vision_length"] == 1
    assert reasons["audio_rejected"] == 1
    assert reasons["vision_multi_letter"] == 1
    assert reasons["merge_length"] == 1
    assert reasons["merge_wrong"] == 1
    assert reasons["audio_missing"] == 1
    gone = {1, 2, 3, 4, 6, 8}
    assert {number(key) for key in written(tmp_path).keys} == {i for i in range(COUNT) if kept(i)} - gone
    # The second run calls again only for what was given up, and that alone.
    assert len(again) == 1
    assert "clip number 8?" in next(iter(again))


def test_refused_calls_are_repeated_on_request(question_shards: Path, tmp_path: Path) -> None:
    healed = threading.Event()

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        if "clip number 2?" in text and not healed.is_set():
            return Reply("too long", status=400)
        return answer(body, text, times)

    with ScriptedServer(respond) as server:
        config = make_config(question_shards, tmp_path, server.url)
        first = run_traces(config)
        healed.set()
        second = run_traces(config)
        third = run_traces(config, retry_rejected=True)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first["yield"] == second["yield"]
    assert third["yield"]["kept"] == first["yield"]["kept"] + 1


def test_a_stage_that_only_fails_stops_early(tmp_path: Path) -> None:
    from tests.traces.question_set import write_shards

    shards = write_shards(tmp_path / "shards", 150)
    with ScriptedServer(lambda *_: Reply("no such thing", status=422)) as server:
        config = make_config(shards, tmp_path, server.url)
        with pytest.raises(ValueError, match=r"vision: 100 of 100 calls failed.*HTTP 422: .*no such thing"):
            run_traces(config)
    assert sum(server.seen.values()) <= 100 + 4


def test_a_changed_prompt_or_model_is_another_call(
    finished: tuple[Path, ScriptedServer], question_shards: Path, tmp_path: Path
) -> None:
    root, _ = finished
    config = make_config(question_shards, root, "http://127.0.0.1:1/v1")
    from avrt.traces.call_planner import CallPlanner

    def keys(**changes: Any) -> set[str]:
        changed = change_stage(config, "vision", **changes)
        planner = CallPlanner(changed, ShardSet(question_shards))
        return {call.key for call in planner.calls("vision", LedgerIndex(tmp_path))}

    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Look closely.")
    known = keys()
    assert len(known) == COUNT
    for change in ({"revision": "r2"}, {"model": "n"}, {"sampling": {"max_tokens": 65}}, {"prompt_file": str(prompt)}):
        assert not known & keys(**change)
    for change in ({"base_urls": ["http://elsewhere/v1"]}, {"max_attempts": 1}, {"max_concurrency": 9}):
        assert known == keys(**change)


def test_file_transport_sends_addresses_of_copies(question_shards: Path, tmp_path: Path) -> None:
    with ScriptedServer(answer) as server:
        config = make_config(question_shards, tmp_path, server.url)
        for stage in config.teachers.values():
            stage.transport, stage.media_dir = "file", str(tmp_path / "media")
        run_traces(config)
    source = ShardSet(question_shards)
    for body in server.bodies:
        for part in body["messages"][0]["content"][:-1]:
            path = Path(part[part["type"]]["url"].removeprefix("file://"))
            assert path.parent == tmp_path / "media"
            if part["type"] == "image_url":
                index = source.keys.index(path.name.split(".")[0])
                assert path.read_bytes() == source.media(index).members[".".join(path.name.split(".")[2:])]
            else:
                assert part["type"] == "audio_url"
                assert path.read_bytes().startswith(b"RIFF")


@contextmanager
def forker() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.traces.run_forked"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run_child(
    process: subprocess.Popen[str], shards: Path, root: Path, url: str, kill_after: float | None
) -> tuple[int, float]:
    """One forked run, killed after that many seconds; returns its exit status and how long it lived."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{shards} {root} {url} {'never' if kill_after is None else kill_after}\n")
    process.stdin.flush()
    status, seconds = process.stdout.readline().split()
    return int(status), float(seconds)


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost_or_doubled(
    kills: int, finished: tuple[Path, ScriptedServer], question_shards: Path, tmp_path: Path
) -> None:
    """Runs that are killed repeatedly until one finishes, until there were enough kills."""
    undisturbed_root, undisturbed = finished
    rng = random.Random(kills)
    capacity = 4
    total = cycle = 0
    with forker() as process, ScriptedServer(answer, latency=0.02) as server:
        # The first run warms the process up, the second tells how long an undisturbed one takes.
        run_child(process, question_shards, tmp_path / "first", server.url, None)
        status, duration = run_child(process, question_shards, tmp_path / "second", server.url, None)
        assert status == 0
        while total < kills:
            cycle += 1
            root = tmp_path / f"cycle{cycle}"
            server.seen.clear()
            killed = 0
            while True:
                # Any moment: while planning, calling, between stages, writing shards.
                moment = rng.uniform(0, 0.7 * duration) if total < kills else None
                status, seconds = run_child(process, question_shards, root, server.url, moment)
                if status == 0:
                    if not killed:
                        duration = seconds  # the machine is faster now: earlier moments, or no kill would meet a run
                    break
                assert status == -signal.SIGKILL, f"the run failed by itself with {status}"
                killed += 1
                total += 1
            assert files(root / "out") == files(undisturbed_root / "out")
            lines = (root / "ledger" / "calls.jsonl").read_bytes().splitlines(keepends=True)
            records = [decode_record(line) for line in lines]
            assert len({item.key for item in records}) == len(records) == sum(undisturbed.seen.values())
            assert all(item.status is Status.OK for item in records)
            assert set(server.seen) == set(undisturbed.seen)
            assert sum(server.seen.values()) - len(records) <= killed * capacity
    print(f"{total} kills over {cycle} runs")
