"""Any teachers over HTTP: three that answer, one that transcribes, one that reads the transcript."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from avrt.data.records import AUDIO_MEMBER
from avrt.data.shards import ShardSet
from avrt.servers.client import ServerError
from avrt.servers.outcome import Status
from avrt.traces.call_planner import CallPlanner
from avrt.traces.call_records import CallRecord
from avrt.traces.config import StageConfig, TeacherConfig, TracesConfig, load_config
from avrt.traces.ledger import LedgerIndex
from avrt.traces.merge_prompt import MergePrompt
from avrt.traces.pipeline import run_traces
from avrt.traces.teacher_replies import read_teacher
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import LETTERS, OPTIONS, change_stage, server_settings, write_shards

COUNT = 12
CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"


def words(digest: str) -> str:
    return f"these are the words of {digest[:8]}"


def respond(body: dict[str, Any], text: str, times: int) -> Reply:
    """The vision teacher is right except where the number is a multiple of 3; one of 4 samples of the audio teacher
    is right, all of the reader's, and the merger always."""
    if "file" in body:
        return Reply(body={"text": words(hashlib.sha256(body["file"]).hexdigest())})
    match = re.search(r"What is in clip number (\d+)\?", text)
    assert match is not None
    number = int(match[1])
    gold = number % 4
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    if "image_url" in kinds:
        letter = LETTERS[gold if number % 3 else gold - 1]
        return Reply(f"I see {number}.\nAnswer: ({letter}) {OPTIONS[LETTERS.index(letter)]}")
    if "input_audio" in kinds:
        letter = LETTERS[(gold + body.get("seed", 0)) % 4]
        return Reply(f"I hear {number} with seed {body.get('seed')}.\nAnswer: ({letter})")
    if "get a transcript" in text:
        return Reply(f"I read {number}.\nAnswer: ({LETTERS[gold]})")
    return Reply(f"<think>Merged {number}.</think>\n<answer>{LETTERS[gold]}</answer>")


def make_teachers(url: str, shards: Path, root: Path, **changes: Any) -> TracesConfig:
    server = {**server_settings(url), "sampling": {"max_tokens": 64, "temperature": 0.7}}
    transcriber = {**server_settings(url), "sampling": {"temperature": 0.0, "language": "en"}}
    teachers = {
        "vision": TeacherConfig(**server, inputs="frames"),
        "audio": TeacherConfig(**server, inputs="audio", samples=4),
        "words": TeacherConfig(**transcriber, inputs="audio", transcribes=True),
        "reader": TeacherConfig(**server, inputs="transcript"),
    }
    settings = {"val_share": None, "split": None, "filter": "majority", **changes}
    places = str(shards), str(root / "ledger"), str(root / "out")
    config = TracesConfig(*places, teachers, StageConfig(**server), **settings)
    config.check()
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TracesConfig, ScriptedServer, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("teachers")
    shards = write_shards(root / "shards", COUNT)
    with ScriptedServer(respond) as server:
        config = make_teachers(server.url, shards, root)
        statistics = run_traces(config)
        assert statistics is not None
        yield config, server, statistics


def test_the_rule_decides_and_every_teachers_text_is_kept(
    finished: tuple[TracesConfig, ScriptedServer, dict[str, Any]],
) -> None:
    """The audio teacher's samples disagree, so two of three are right where the vision teacher is."""
    config, _, statistics = finished
    assert statistics["yield"] == {"kept": 8, "no_majority": 4}
    assert statistics["outcomes"]["words"] == {"transcribed": COUNT}
    assert statistics["outcomes"]["reader"] == {"right": COUNT}
    assert statistics["outcomes"]["merge"] == {"right": 8, "not_needed": 4}
    for sample in ShardSet(Path(config.output) / "train"):
        number = int(sample.id[1:])
        assert number % 3
        assert set(sample.teacher_traces) == set(config.teachers)
        assert sample.teacher_traces["words"].startswith("these are the words of ")
        assert sample.teacher_traces["audio"].startswith(f"I hear {number} with seed None.")
        assert sample.trace == f"<think>Merged {number}.</think>\n<answer>{sample.gold}</answer>"


def test_how_sure_and_how_right_a_teacher_is_goes_into_the_statistics(
    finished: tuple[TracesConfig, ScriptedServer, dict[str, Any]],
) -> None:
    assert finished[2]["certainty"] == {
        "audio": {
            "agreement": [0.25, 0.0],
            "right_share": [0.25, 0.0],
            "by_agreement": {"0.25": {"questions": COUNT, "right": 100.0}},
        }
    }


def test_a_transcriber_gets_the_clips_audio_as_a_form_and_its_reader_the_text_alone(
    finished: tuple[TracesConfig, ScriptedServer, dict[str, Any]],
) -> None:
    config, server, _ = finished
    forms = [body for body in server.bodies if "file" in body]
    assert len(forms) == COUNT
    assert {(form["model"], form["language"], form["temperature"]) for form in forms} == {("m", "en", "0.0")}
    clip = ShardSet(config.shards).media(0)
    expected, _ = soundfile.read(io.BytesIO(clip.members[AUDIO_MEMBER]), dtype="int16")
    heard = [soundfile.read(io.BytesIO(form["file"]), dtype="int16")[0] for form in forms]
    assert any((samples == expected).all() for samples in heard)
    readers = [
        body["messages"][0]["content"]
        for body in server.bodies
        if "messages" in body and "get a transcript" in body["messages"][0]["content"][-1]["text"]
    ]
    assert len(readers) == COUNT
    digests = {words(hashlib.sha256(form["file"]).hexdigest()) for form in forms}
    for content in readers:
        assert [part["type"] for part in content] == ["text"]
        assert re.search(r"Transcript: (.*)", content[0]["text"])[1] in digests  # type: ignore[index]


def test_the_merger_reads_all_of_them_and_how_sure_they_are(
    finished: tuple[TracesConfig, ScriptedServer, dict[str, Any]],
) -> None:
    _, server, _ = finished
    texts = [body["messages"][0]["content"][-1]["text"] for body in server.bodies if "messages" in body]
    merges = [text for text in texts if "Assistants have looked" in text]
    assert len(merges) == 8
    for text in merges:
        titles = ("From the frames:", "From the sound:", "wrote down:", "From a transcript of the speech:")
        places = [text.index(title) for title in titles]
        assert places == sorted(places)
        assert text.count("Asked 4 times") == 1
        assert "only 1 times: its answer is close to a guess" in text


def test_a_finished_run_and_its_variants_call_nobody(
    finished: tuple[TracesConfig, ScriptedServer, dict[str, Any]], tmp_path: Path
) -> None:
    config, server, _ = finished
    calls = len(server.bodies)
    assert calls == COUNT * (1 + 4 + 1 + 1) + 8
    again = run_traces(replace(config, output=str(tmp_path / "again")))
    # The audio teacher is right in one of four samples only.
    strict = replace(config, output=str(tmp_path / "strict"), variant="reader_only", filter="all_right")
    with pytest.raises(ValueError, match="8 audio_wrong, 4 several_wrong"):
        run_traces(strict, steps=["write"])
    assert len(server.bodies) == calls
    assert again is not None
    assert again["yield"]["kept"] == 8


def test_fewer_right_samples_are_enough_if_the_share_says_so(
    finished: tuple[TracesConfig, ScriptedServer, dict[str, Any]], tmp_path: Path
) -> None:
    config, _, _ = finished
    changes: dict[str, Any] = {"filter": "all_right", "variant": "reader_only", "min_right_share": 0.25}
    statistics = run_traces(replace(config, output=str(tmp_path / "out"), **changes), steps=["write"])
    assert statistics is not None
    assert statistics["yield"] == {"kept": 8, "vision_wrong": 4}


def test_a_chat_server_without_transcriptions_stops_the_stage(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", 2)
    with ScriptedServer(lambda *_: Reply("no such route", status=404)) as server:
        config = make_teachers(server.url, shards, tmp_path)
        with pytest.raises(ServerError, match=r"teachers\.words\.base_urls\[0\]: no audio transcriptions"):
            run_traces(config, steps=["words"])


@pytest.mark.parametrize(
    ("body", "status"), [({"text": "", "usage": {"type": "duration"}}, Status.OK), ({"texts": "x"}, Status.GAVE_UP)]
)
def test_an_empty_transcript_is_a_reply_and_another_body_is_not(
    body: dict[str, Any], status: Status, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards", 2)
    with ScriptedServer(lambda *_: Reply(body=body)) as server:
        config = change_stage(make_teachers(server.url, shards, tmp_path), "words", max_attempts=2)
        if status is Status.OK:
            run_traces(config, steps=["words"])
        else:
            with pytest.raises(ServerError, match="transcription without text"):
                run_traces(config, steps=["words"])
    ledger = LedgerIndex(config.ledger)
    calls = list(CallPlanner(config, ShardSet(config.shards)).calls("words", ledger))
    assert [ledger.status(call.key) for call in calls] == [status] * 2
    readers = list(CallPlanner(config, ShardSet(config.shards)).calls("reader", ledger))
    assert ["(no words recognized)" in call.prompt for call in readers] == ([True] * 2 if status is Status.OK else [])


def test_a_clip_without_audio_has_no_transcript_and_no_reader(tmp_path: Path) -> None:
    from avrt.data.writer import ShardWriter

    source = ShardSet(write_shards(tmp_path / "with_audio", 2))
    with ShardWriter(tmp_path / "shards", samples_per_shard=4, image_format="png") as writer:
        for sample in source:
            assert sample.clip is not None
            writer.write(replace(sample, clip=replace(sample.clip, waveform=None)))
    config = make_teachers("http://h/v1", tmp_path / "shards", tmp_path)
    planner = CallPlanner(config, ShardSet(config.shards))
    _, replies = planner.teacher_replies(0, LedgerIndex(config.ledger))
    assert {name: reply.has_stream for name, reply in replies.items()} == {
        "vision": True,
        "audio": False,
        "words": False,
        "reader": False,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers.transcript.samples": 2}, "teachers.transcript.samples: must be 1"),
        ({"teachers.transcript.inputs": "both"}, "teachers.transcript.(inputs|preset): "),
        ({"teachers.transcript.sampling": {"response_format": "srt"}}, "response_format: must be json"),
        ({"teachers.audio.samples": 3}, "teachers.audio.samples: 3 replies at temperature 0"),
        ({"teachers.vision.sampling": {"seed": "x"}}, "teachers.vision.sampling.seed: must be a whole number"),
        ({"teachers.audio.inputs": "transcript"}, "teachers.audio: list it after 'transcript'"),
        ({"teachers.speech.prompt": "song"}, "teachers.speech.prompt: 'song' is none of"),
        ({"merge.preset": "whisper-large-v3"}, "merge.preset: 'whisper-large-v3' writes down speech"),
        ({"variant": "transcript_only"}, "variant: must be one of"),
        ({"min_right_share": 0}, "min_right_share: must be above 0"),
        ({"filter": "some"}, "filter: must be one of"),
        ({"wording_file": "/no/such/file"}, "wording_file: /no/such/file is not a file"),
    ],
)
def test_a_wrong_setting_of_a_teacher_names_its_key(
    changes: dict[str, Any], message: str, question_shards: Path
) -> None:
    options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items()]

    def plan() -> CallPlanner:
        config = load_config([CONFIGS / "traces_avqa_speech.yaml"], [*options, f"--shards={question_shards}"])
        return CallPlanner(config, ShardSet(config.shards))

    with pytest.raises(ValueError, match=message):
        plan()


def test_the_form_of_earlier_versions_is_refused_with_the_new_one(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    text = (CONFIGS / "traces_avqa.yaml").read_text()
    old.write_text(text.replace("teachers:\n", "").replace("  vision:", "vision:").replace("  audio:", "audio:"))
    with pytest.raises(ValueError, match=r"vision: .* write teachers: \{vision: \{inputs: frames, ...\}, audio: "):
        load_config([old])
    with pytest.raises(ValueError, match=r"write --teachers\.vision\.samples"):
        load_config([CONFIGS / "traces_avqa.yaml"], ["--vision.samples=3"])


def test_a_second_file_changes_one_key_of_one_teacher(tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("teachers:\n  audio:\n    max_concurrency: 3\n")
    first = load_config([CONFIGS / "traces_avqa.yaml"])
    both = load_config([CONFIGS / "traces_avqa.yaml", second])
    assert list(both.teachers) == ["vision", "audio"]
    assert both.teachers["audio"] == replace(first.teachers["audio"], max_concurrency=3)
    assert both.teachers["vision"] == first.teachers["vision"]


def records_of(letters: str) -> list[CallRecord]:
    return [
        CallRecord(key="k", stage="t", sample="s", status=Status.OK, text=f"Seen.\nAnswer: ({x})", finish_reason="stop")
        for x in letters
    ]


def test_the_wording_of_certainty_comes_from_a_file(tmp_path: Path, question_shards: Path) -> None:
    sample = ShardSet(question_shards).metadata(1)
    wording = tmp_path / "wording.yaml"
    wording.write_text("certainty:\n- {at_least: 0.5, text: '{percent} % of {samples} say {letter}'}\n")
    silent = tmp_path / "silent.yaml"
    silent.write_text("certainty: []\n")
    replies = {"vision": read_teacher(records_of("BBAB"), sample), "audio": read_teacher(records_of("C"), sample)}
    texts = {}
    for name in ("", str(wording), str(silent)):
        options = [f"--wording_file={name}"] if name else []
        texts[name] = MergePrompt(load_config([CONFIGS / "traces_avqa.yaml"], options)).fill(sample, replies, "")
    assert "(B) 3 times: it is fairly sure." in texts[""]
    assert "Seen.\nAnswer: (B)\n75 % of 4 say B\n" in texts[str(wording)]
    assert texts[str(silent)] == texts[""].replace(
        "\nAsked 4 times, this assistant chose (B) 3 times: it is fairly sure.", ""
    )
    for text, message in (("no_such: x\n", "no_such"), ("certainty: [{at_least: 1, text: '{gold}'}]\n", "certainty: ")):
        wording.write_text(text)
        with pytest.raises(ValueError, match=f"wording_file: .*{message}"):
            MergePrompt(load_config([CONFIGS / "traces_avqa.yaml"], [f"--wording_file={wording}"]))
