"""Training on shards of another tool as they are, and after converting them: the same samples, the same losses."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from avrt.data.clip_workers import ClipSettings
from avrt.data.packing import PackOptions, pack
from avrt.data.shard_questions import read_shards
from avrt.storage.shard_cache import ShardCache
from tests.foreign_shard_files import clip_bytes, question, write_video2dataset
from tests.lightning_modules.training import fit, grpo_data, grpo_module, sft_data, sft_module


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with questions and reasoning, and a failed download, as video2dataset writes them."""
    folder = tmp_path_factory.mktemp("v2d")
    rows = []
    for i in range(4):
        reasoning = f"<think>It barks.</think>\n<answer>{'AB'[i % 2]}</answer>"
        rows.append((f"{i:06d}", question(i, av_reasoning=reasoning), clip_bytes(folder, 100 * i, seconds=1)))
    return write_video2dataset(folder / "00000.tar", [*rows, ("000009", question(9), None)])


def test_sft_directly_and_converted(
    student_folder: Path, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"shuffle": False, "batch_size": 2}
    with caplog.at_level(logging.INFO):
        direct = fit(sft_module(student_folder), sft_data(shards, num_workers=1, **settings))
    assert "4 samples are in shards of another tool" in caplog.text
    assert "pack --shards" in caplog.text
    assert direct.ids == [["q-0", "q-1"], ["q-2", "q-3"]] * 2

    found = read_shards([str(shards)], ShardCache(), show_progress=False)
    pack(found.samples, found.clips, tmp_path / "out", ClipSettings(), PackOptions(show_progress=False))
    converted = fit(sft_module(student_folder), sft_data(tmp_path / "out", **settings))
    assert converted.ids == direct.ids
    assert converted.losses == direct.losses


def test_grpo_directly(student_folder: Path, shards: Path) -> None:
    run = fit(grpo_module(student_folder), grpo_data(shards), max_steps=1)
    assert len({name for ids in run.ids for name in ids}) == 2
