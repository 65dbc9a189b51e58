"""Ledgers of earlier versions stay valid: keys and prompts as the version with two fixed teachers made them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from avrt.data.shards import ShardSet
from avrt.servers.outcome import Status
from avrt.traces.call_planner import CallPlanner
from avrt.traces.call_records import CallRecord
from avrt.traces.config import TracesConfig, load_config
from avrt.traces.teacher_replies import read_teacher
from tests.traces.question_set import change_stage, make_config, write_shards

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"

KEYS = {
    "plain": (
        "095e9c05f28623bd1b68ded38150d0b677e47d61865f25ed94bc85d25169d86f",
        "f3f7ad59f42cc1fc7f8b0f2359c5f00e248f367eb5cdbdf1d415102e29c7f974",
        "f096826d3e99917a0b4c1cf1d8523184e805288319f4062688bb144f4b385e62",
    ),
    "avqa": (
        "d8f2f0ca204e8e21b0edef1d78f25a70104af60dd0be94199b620cf392643423",
        "e6ef8f466869e2405a4744e19952250174f0d4e5e962af77afeab40dfab3dc41",
        "18deda24311da9e3ac5421d69559d8a2cfd2cdf53a17b8b92e3ad2e2e705c910",
    ),
}
"""Keys of the vision, audio and merge call about question 1, computed by that version."""

MERGE_PROMPT_SHA256 = "376a748076b42ab3b775b1a1c6c90ba2f0dfd0c4703be6fea65addc0e60ac339"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("questions") / "shards", 4)


def config_of(name: str, shards: Path, folder: Path) -> TracesConfig:
    if name == "plain":
        return make_config(shards, folder, "http://h/v1")
    return load_config([CONFIGS / "traces_avqa.yaml"], [f"--shards={shards}"])


def merge_prompt_and_keys(config: TracesConfig) -> tuple[str, tuple[str, ...]]:
    planner = CallPlanner(config, ShardSet(config.shards))
    calls = [planner.teacher_call(name, 1) for name in ("vision", "audio")]
    assert calls[0] is not None
    replies = {}
    for name in config.teachers:
        record = CallRecord(
            status=Status.OK,
            text=f"I {name}.\nAnswer: (B) grey owl",
            finish_reason="stop",
            key="k",
            stage=name,
            sample="q001",
        )
        replies[name] = read_teacher([record] * planner.repeats(name), calls[0].sample)
    merge = planner.merge_call(1, calls[0].sample, replies)
    assert merge is not None
    return merge.prompt, tuple(call.key for call in (*calls, merge) if call is not None)


@pytest.mark.parametrize("name", KEYS)
def test_two_teachers_have_the_keys_and_the_mergers_prompt_of_earlier_versions(
    name: str, shards: Path, tmp_path: Path
) -> None:
    prompt, keys = merge_prompt_and_keys(config_of(name, shards, tmp_path))
    assert keys == KEYS[name]
    assert hashlib.sha256(prompt.encode()).hexdigest() == MERGE_PROMPT_SHA256


def test_the_teachers_order_in_the_config_changes_no_key(shards: Path, tmp_path: Path) -> None:
    config = config_of("plain", shards, tmp_path)
    config.teachers = dict(reversed(config.teachers.items()))
    assert merge_prompt_and_keys(config)[1] == KEYS["plain"]


def test_more_samples_keep_the_first_call(shards: Path, tmp_path: Path) -> None:
    """A ledger with one reply per question only lacks the further ones."""
    sampling = {"max_tokens": 64, "temperature": 0.0, "top_k": 5}
    config = change_stage(config_of("plain", shards, tmp_path), "vision", samples=3, sampling=sampling)
    planner = CallPlanner(config, ShardSet(config.shards))
    calls = [planner.teacher_call("vision", 1, repeat) for repeat in range(3)]
    assert [call.sampling.get("seed") for call in calls if call is not None] == [None, 1, 2]
    keys = [call.key for call in calls if call is not None]
    assert keys[0] == KEYS["plain"][0]
    assert len(set(keys)) == 3
