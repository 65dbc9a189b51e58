"""Settings that would train something else are refused, with the key and how to fix it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.distributed.runs import Run

REFUSALS = {
    "odd number of batches": ("trainer.limit_train_batches", "a multiple of trainer.accumulate_grad_batches"),
    "bfloat16 without masters": ("AVRTDeepSpeedStrategy", "trainer.precision to bf16-mixed"),
    "grpo zero3": ("trainer.strategy.init_args.stage: 3", "set it to 2"),
    "zero3 validation": ("trainer.strategy.init_args.stage: 3", "trainer.limit_val_batches to 0"),
    "zero3 export": ("ExportStudent cannot save", "python -m avrt export"),
    "plain from deepspeed": ("was written by DeepSpeed", "resume it with the strategy that wrote it"),
    "deepspeed from plain": ("is a single file", "export it and set model.init_args.student.path"),
    "full from lora": ("lacks the trained weight", "model.init_args.lora"),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_one_process(one_process: Mapping[str, Run], name: str) -> None:
    refusal = one_process[name].refusal
    for part in REFUSALS[name]:
        assert part in refusal
    assert not (one_process[name].folder / "steps_0.jsonl").exists()


def test_another_number_of_processes(two_processes: Mapping[str, Run]) -> None:
    refusal = two_processes["more processes"].refusal
    assert "was written by 1 devices, this run has 2" in refusal
    assert "export the checkpoint" in refusal
