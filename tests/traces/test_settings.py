"""Config, prompts, presets, statistics, and that keys stay secret."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.config.errors import UsageError
from avrt.sample import Sample
from avrt.servers.config import ServerConfig
from avrt.servers.outcome import Status
from avrt.servers.presets import PRESETS
from avrt.traces.call_records import CallRecord
from avrt.traces.config import load_config
from avrt.traces.merge_prompt import MergePrompt
from avrt.traces.prompts import PROMPTS, fill_prompt, load_prompt
from avrt.traces.splits import split_of
from avrt.traces.statistics import mean_and_deviation, token_counter
from avrt.traces.teacher_replies import read_teacher
from tests.servers.scripted_server import Reply, ScriptedServer
from tests.traces.question_set import answer

TEACHERS = {"vision": "frames", "audio": "audio"}
CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"
AVQA = CONFIGS / "traces_avqa.yaml"
SAMPLE = Sample("s", "What {options} is it? {frames}", ("a {question}", "b"), 0)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("traces_*.yaml")), ids=lambda path: path.name)
def test_every_config_loads(path: Path) -> None:
    config = load_config([path])
    for stage in config.stages:
        enough = 40 if path.name == "traces_demo_student.yaml" else 1024  # the tiny student's replies have 25 tokens
        if stage != config.transcriber:
            assert config.stage(stage).resolve_model().sampling["max_tokens"] >= enough


def test_the_two_mergers_share_their_teachers() -> None:
    first, second = load_config([AVQA]), load_config([CONFIGS / "traces_avqa_gemma.yaml"])
    assert first.ledger == second.ledger
    assert first.output != second.output
    for stage in ("vision", "audio"):
        assert first.stage(stage).resolve_model() == second.stage(stage).resolve_model()
    assert second.merge is not None
    assert second.merge.resolve_model().name == "google/gemma-3-12b-it"


def test_a_setting_on_the_command_line_wins() -> None:
    config = load_config(
        [AVQA], ["--variant=audio_only", "--merge.max_concurrency=8", "--teachers.vision.sampling={temperature: null}"]
    )
    assert config.merge is not None
    assert (config.variant, config.merge.max_concurrency) == ("audio_only", 8)
    assert "temperature" not in config.teachers["vision"].resolve_model().sampling


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("variant=foo", "variant: must be one of"),
        ("teachers.vision.max_concurrency=0", "teachers.vision.max_concurrency: "),
        ("teachers.audio.backoff_seconds=0", "teachers.audio.backoff_seconds: "),
        ("samples_per_shard=0", "samples_per_shard: "),
        ("teachers.vision.preset=foo", "teachers.vision.preset: 'foo' is none of"),
        ("teachers.vision.preset=gemma-3-12b-it", "teachers.vision.preset: 'gemma-3-12b-it' takes no images"),
        (
            "teachers.audio.preset=kimi-vl-a3b-thinking-2506",
            "takes no audio, .* audio-flamingo-3-think or .*qwen3-omni",
        ),
        ("teachers.audio.sampling={max_tokens: null}", "teachers.audio.sampling.max_tokens: must be a whole number"),
        ("merge.base_urls=[]", "merge.base_urls: give at least one"),
        ("merge.base_urls=[ftp://h/v1]", r"merge.base_urls\[0\]: must look like"),
        ("merge.prompt_file=/no/such/file", "merge.prompt_file: /no/such/file"),
        ("teachers.vision.transport=file", "teachers.vision.media_dir: give a folder"),
        ("val_share=1", "val_share: must be 0 or more and below 1"),
        ("nonsense=1", "nonsense: unknown key"),
    ],
)
def test_a_wrong_setting_names_its_key(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config([AVQA], [f"--{setting}"])


@pytest.mark.parametrize(
    "line",
    [
        "  api_key: sk-secret-1234",
        "  base_urls: ['http://user:sk-secret-1234@h/v1']",
        "  base_urls: ['http://h/v1?api_key=sk-secret-1234']",
        "  api_key_env: sk-secret-1234",
    ],
)
def test_a_key_in_a_config_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    text = AVQA.read_text()
    if "base_urls" in line:
        text = text.replace("    base_urls:\n      - http://localhost:8001/v1", f"  {line}")
    else:
        text = text.replace("  vision:\n", f"  vision:\n  {line}\n")
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load_config([path])
    assert "sk-secret" not in str(caught.value)


def test_an_unset_key_variable_is_named(question_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avrt.traces.pipeline import run_traces
    from tests.traces.question_set import make_config

    config = make_config(question_shards, tmp_path, "http://127.0.0.1:1/v1")
    config.teachers["audio"].api_key_env = "NO_SUCH_VARIABLE_SET"
    with pytest.raises(
        ValueError, match=r"teachers\.audio\.api_key_env: the environment variable NO_SUCH_VARIABLE_SET is not set"
    ):
        run_traces(config)


def test_the_key_is_sent_and_written_nowhere(question_shards: Path, tmp_path: Path) -> None:
    """A whole run of the command, with a server that repeats the key in errors and replies."""
    secret = "sk-secret-1234567890"

    def respond(body: dict[str, Any], text: str, times: int) -> Reply:
        if "clip number 3?" in text:
            return Reply(f"Incorrect API key provided: {secret}", status=400)
        if "clip number 4?" in text and times == 0:
            return Reply(f"overloaded, {secret}", status=500)
        reply = answer(body, text, times)
        if "clip number 5?" in text:
            reply.text = f"{secret} {reply.text}"
        return reply

    with ScriptedServer(respond) as server:
        config = tmp_path / "config.yaml"
        stage = (
            f"{{base_urls: [{server.url}], model: m, api_key_env: TEACHER_KEY, backoff_seconds: 0.01, "
            "sampling: {max_tokens: 8}}"
        )
        config.write_text(
            f"shards: {question_shards}\nledger: {tmp_path / 'ledger'}\noutput: {tmp_path / 'out'}\n"
            + f"merge: {stage}\nteachers:\n"
            + "".join(f"  {name}: {stage[:-1]}, inputs: {inputs}}}\n" for name, inputs in TEACHERS.items())
        )
        done = subprocess.run(
            [sys.executable, "-m", "avrt", "traces", "--config", str(config)],
            env={**os.environ, "TEACHER_KEY": secret, "OPENAI_LOG": "debug"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert secret in server.headers[0]
    assert "Reasoning Format Compliance" in done.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 4
    for path in written:
        assert secret.encode() not in path.read_bytes(), path
    assert secret not in done.stdout + done.stderr


def reply(name: str, text: str) -> CallRecord:
    return CallRecord(key="k", stage=name, sample="s", status=Status.OK, text=text, finish_reason="stop")


def test_placeholders_inside_questions_and_traces_stay_text() -> None:
    prompt = "Q {question}\n{options}\nA {audio_trace} V {vision_trace} <{x}>"
    text = fill_prompt(prompt, SAMPLE, audio_trace="{vision_trace}", vision_trace="{question}")
    assert text == "Q What {options} is it? {frames}\n(A) a {question}\n(B) b\nA {vision_trace} V {question} <{x}>"


def test_a_prompt_like_the_papers_works_from_a_file(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.txt"
    teacher.write_text("Describe the frames, reason, answer. Here is the input question:\n")
    prompt = load_prompt("vision", "frames", str(teacher))
    assert fill_prompt(prompt, SAMPLE).endswith(
        "input question:\nWhat {options} is it? {frames}\n(A) a {question}\n(B) b"
    )
    merger = tmp_path / "merger.txt"
    merger.write_text("Question: {question}{formatted_choices} Audio: {audio_reasoning} Visual: {vision_reasoning}")
    config = load_config([AVQA], [f"--merge.prompt_file={merger}"])
    replies = {name: read_teacher([reply(name, text)], SAMPLE) for name, text in (("vision", "red"), ("audio", "hum"))}
    assert "Audio: hum Visual: red" in MergePrompt(config).fill(SAMPLE, replies, "")
    blind = tmp_path / "blind.txt"
    blind.write_text("Question: {question}")
    with pytest.raises(ValueError, match=r"must contain \{audio_trace\}, \{vision_trace\}"):
        MergePrompt(load_config([AVQA], [f"--merge.prompt_file={blind}"]))
    with pytest.raises(ValueError, match=r"audio\.prompt_file: .*merger\.txt"):
        load_prompt("teachers.audio", "audio", str(merger))


def test_own_prompts_ask_for_description_reasoning_and_answer() -> None:
    for name in TEACHERS.values():
        assert "Description:" in PROMPTS[name]
        assert "Reasoning:" in PROMPTS[name]
        assert PROMPTS[name].endswith("Question: {question}\n{options}")


def test_audio_flamingos_sentence_ends_its_prompt() -> None:
    suffix = PRESETS["audio-flamingo-3-think"].suffix
    assert suffix == "Please think and reason about the input audio before you respond."
    assert fill_prompt(load_prompt("audio", "audio", None), SAMPLE, suffix=suffix).endswith(f"(B) b\n{suffix}")


def test_every_preset_sends_a_token_limit_and_has_its_servers_command_in_the_docs() -> None:
    pages = [(CONFIGS.parent / "docs" / name).read_text() for name in ("traces.md", "evaluation.md")]
    docs = "\n".join(pages).replace(" \\\n    ", " ")
    for name, preset in PRESETS.items():
        assert preset.transcribes or preset.sampling["max_tokens"] >= 1024, name
        assert f"\n{preset.serve}\n" in docs, name


def test_the_split_has_its_share_and_depends_only_on_the_clip() -> None:
    splits = [split_of(f"clip{i}", 0, 0.05) for i in range(20_000)]
    assert splits.count("val") == pytest.approx(1000, abs=4 * (20_000 * 0.05 * 0.95) ** 0.5)
    assert [split_of(f"clip{i}", 0, 0.05) for i in range(100)] == splits[:100]
    assert {split_of(f"clip{i}", 0, 0.0) for i in range(100)} == {"train"}
    # A larger share only adds clips.
    assert all(split_of(f"clip{i}", 0, 0.1) == "val" for i in range(20_000) if splits[i] == "val")


def test_mean_and_deviation_are_the_samples() -> None:
    assert mean_and_deviation([1, 2, 3, 4]) == [2.5, 1.291]
    assert mean_and_deviation([7]) == [7, 0.0]
    assert mean_and_deviation([]) is None


def test_tokens_are_counted_by_a_tokenizer_or_by_words(tmp_path: Path) -> None:
    count, unit = token_counter(None)
    assert (count("It's a dog, I think."), unit) == (9, "words and punctuation marks")
    with pytest.raises(ValueError, match=r"tokenizer: .*none"):
        token_counter(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"tokenizer: "):
        token_counter(str(tmp_path))
    from avrt.demo.tokenizer import build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer(["a red bell rings"] * 3, vocab_size=300)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    count, unit = token_counter(str(tmp_path / "tokenizer"))
    assert count("a red bell rings") == len(tokenizer.encode("a red bell rings"))
    assert unit == "tokens of tokenizer"


def test_no_config_file_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--config: expects a file"):
        load_config([])


@pytest.mark.parametrize("extra", [{"n": 4}, {"stream": True}, {"messages": []}, {"model": "other"}])
def test_a_call_has_one_reply_and_one_model(extra: dict[str, Any]) -> None:
    """With any server, every call would fail or request something else."""
    config = ServerConfig(["http://h/v1"], model="m", sampling={"max_tokens": 5, **extra})
    with pytest.raises(ValueError, match=rf"^sampling: .*{next(iter(extra))}"):
        config.check()
    assert replace(config, sampling={"max_tokens": 5, "n": 1}).resolve_model().sampling["n"] == 1
