"""`predict` writes every answer to the validation split, as validation would read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from avrt.data.shards import ShardSet
from lightning_modules.answering import PREDICTIONS_NAME
from tests.lightning_modules.training import grpo_data, grpo_module, sft_data, sft_module


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_answers_are_written(layout_folder: Path, shards: Path, tmp_path: Path, kind: str) -> None:
    make_module, make_data = (sft_module, sft_data) if kind == "sft" else (grpo_module, grpo_data)
    data = make_data(shards, val=str(shards), val_samples=5, val_batch_size=2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    batches = trainer.predict(make_module(layout_folder), datamodule=data)
    lines = [json.loads(line) for line in (tmp_path / PREDICTIONS_NAME).read_text("utf-8").splitlines()]
    samples = [ShardSet(shards)[i] for i in range(5)]
    assert [line["id"] for line in lines] == [sample.id for sample in samples]
    assert [line["gold"] for line in lines] == [sample.gold for sample in samples]
    assert lines == [record for batch in batches for record in batch]
    for line in lines:
        assert line["right"] == (line["answer"] == line["gold"])
        assert line["reason"] != "ok"  # a random student
        assert line["text"]
