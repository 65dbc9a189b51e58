"""All runs of the tests in this folder, made once: one set in one process, one in two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.runs import Assets, PresetRun, Run, make_assets, run_all
from tests.programs import ForkServer
from tests.tiny_student import SIZES, save_student

CHECKPOINTS = [
    {"class_path": "lightning_modules.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 2, "keep": 2}}
]
EXPORT = {"class_path": "lightning_modules.callbacks.ExportStudent"}
SMOOTH = {"model.init_args.optimizer.eps": 1e-4}
"""Adam divides a gradient by its own size, rounding noise included; this epsilon leaves noise small."""

ARGUMENTS = "trainer.strategy.init_args"
STUDENT = "model.init_args.student"
BF16 = {"trainer.precision": "bf16-true", f"{STUDENT}.dtype": "bfloat16"}
LORA = {"model.init_args.lora": {"rank": 4, "alpha": 8}}

PRESETS = {
    "grpo_3b": 2,
    "sft_7b": 2,
    "grpo_7b lora": 2,
    "grpo_3b no_offload": 2,
    "sft_7b zero3": 2,
    "grpo_3b slurm": 2,
    "sft_3b torchrun": 2,
    "grpo_3b debug": 2,
    "grpo_3b dynamic_sampling": 2,
    "grpo_3b one_gpu": 1,
}
"""Devices by preset and overlay; an optimizer step takes 32 prompts but for `debug`."""

STOPS = {(1, "sft"): 3, (1, "grpo"): 4, (2, "sft"): 3, (2, "grpo"): 3}
"""Steps before a run is stopped, by number of processes and task."""


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return make_assets(tmp_path_factory.mktemp("assets"))


def preset_runs(root: Path, assets: Assets, devices: int) -> list[Run]:
    runs: list[Run] = []
    for name, number in PRESETS.items():
        preset, _, overlay = name.partition(" ")
        if number == devices:
            runs.append(PresetRun(root / name, assets, preset=preset, overlay=overlay, devices=devices, steps=1))
    return runs


def resumed(run: Run) -> tuple[Run, tuple[str, ...]]:
    """The run resumes from its last checkpoint, up to six steps."""
    return replace(run, steps=6), ("--ckpt_path", "last")


@pytest.fixture(scope="session")
def one_process(fork_server: ForkServer, assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    root = tmp_path_factory.mktemp("one_process")
    runs: dict[str, Run] = {}

    def add(name: str, overrides: dict[str, Any], **settings: Any) -> Run:
        runs[name] = Run(root / name, assets, overrides=overrides, **settings)
        return runs[name]

    jobs: list[Any] = []
    for task in ("sft", "grpo"):
        for strategy in ("plain", "deepspeed"):
            for batch_size, accumulate in ((4, 1), (1, 4)):
                name = f"{task} {strategy} {batch_size}x{accumulate}"
                jobs.append(
                    add(name, SMOOTH, task=task, strategy=strategy, batch_size=batch_size, accumulate=accumulate)
                )
        # A data worker and two epochs of four steps. SFT stops in the middle of the first, GRPO at its end.
        longer: dict[str, Any] = {"data.init_args.num_workers": 1, "trainer.max_epochs": 2}
        common: dict[str, Any] = {"task": task, "strategy": "deepspeed", "batch_size": 4, "accumulate": 2}
        jobs.append(add(f"{task} whole", longer, steps=6, callbacks=CHECKPOINTS, **common))
        part = add(f"{task} resumed", longer, steps=STOPS[1, task], callbacks=CHECKPOINTS, **common)
        jobs += [part, resumed(part)]
    deepspeed: dict[str, Any] = {"strategy": "deepspeed", "batch_size": 2, "callbacks": CHECKPOINTS}
    jobs.append(add("sft bfloat16", BF16, **deepspeed))
    jobs.append(add("grpo bfloat16", BF16 | {f"{STUDENT}.gradient_checkpointing": True}, task="grpo", **deepspeed))
    jobs.append(
        add("grpo host reference", SMOOTH | {"model.init_args.reference_device": "cpu"}, task="grpo", batch_size=4)
    )
    jobs.append(
        add(
            "sft checkpointing",
            SMOOTH | {f"{STUDENT}.gradient_checkpointing": True},
            strategy="deepspeed",
            batch_size=4,
        )
    )
    jobs.append(add("sft lora", LORA, batch_size=2, callbacks=CHECKPOINTS))
    lora = str(runs["sft lora"].folder / "checkpoints/step=0000003.ckpt")
    jobs.append(add("grpo lora", LORA | BF16, task="grpo", **deepspeed))
    for size, shape in SIZES.items():
        own = replace(assets, student=save_student(root / f"student {size}", shape))
        counter = {"class_path": "tests.distributed.runs.TensorCounter", "init_args": {"folder": str(root / size)}}
        jobs.append(
            Run(root / size, own, "grpo", "deepspeed", batch_size=2, steps=2, overrides=BF16, callbacks=[counter])
        )
        runs[size] = jobs[-1]
    saved = add("sft plain saved", {}, batch_size=2, callbacks=CHECKPOINTS)
    jobs.append(saved)

    plain = str(saved.folder / "checkpoints/step=0000003.ckpt")
    folder = str(runs["sft bfloat16"].folder / "checkpoints/step=0000003.ckpt")
    refused: dict[str, Any] = {"batch_size": 2, "refused": True}
    odd = {"trainer.limit_train_batches": 3, "trainer.max_epochs": 1}
    jobs.append(add("odd number of batches", odd, accumulate=2, **refused))
    jobs.append(add("bfloat16 without masters", BF16, **refused))
    jobs.append(add("grpo zero3", {f"{ARGUMENTS}.stage": 3}, task="grpo", strategy="deepspeed", **refused))
    validated = {f"{ARGUMENTS}.stage": 3, "trainer.limit_val_batches": 1, "data.init_args.val": str(assets.val)}
    jobs.append(add("zero3 validation", validated, strategy="deepspeed", **refused))
    jobs.append(add("zero3 export", {f"{ARGUMENTS}.stage": 3}, strategy="deepspeed", callbacks=[EXPORT], **refused))
    jobs.append((add("plain from deepspeed", {}, **refused), ("--ckpt_path", folder)))
    jobs.append((add("deepspeed from plain", {}, strategy="deepspeed", **refused), ("--ckpt_path", plain)))
    jobs.append((add("full from lora", {}, **refused), ("--ckpt_path", lora)))
    presets = preset_runs(root, assets, 1)
    runs |= {run.folder.name: run for run in presets}
    run_all(fork_server, [*jobs, *presets], timeout=400)
    return runs


@pytest.fixture(scope="session")
def two_processes(
    fork_server: ForkServer,
    assets: Assets,
    one_process: Mapping[str, Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Run]:
    root = tmp_path_factory.mktemp("two_processes")
    runs: dict[str, Run] = {}

    def add(name: str, overrides: dict[str, Any], **settings: Any) -> Run:
        settings = {"devices": 2, "batch_size": 2} | settings
        runs[name] = Run(root / name, assets, overrides=overrides, **settings)
        return runs[name]

    jobs: list[Any] = []
    for task in ("sft", "grpo"):
        jobs.append(add(f"{task} plain", SMOOTH, task=task))
        jobs.append(add(f"{task} deepspeed", SMOOTH, task=task, strategy="deepspeed", callbacks=[EXPORT]))
        offload = SMOOTH | {f"{ARGUMENTS}.offload_optimizer": True}
        jobs.append(add(f"{task} offload", offload, task=task, strategy="deepspeed"))
        stated = SMOOTH | {"data.init_args.prompts_per_step": 4}  # one prompt per process: two micro-batches
        jobs.append(add(f"{task} stated", stated, task=task, strategy="deepspeed", batch_size=1))
        common: dict[str, Any] = {"task": task, "strategy": "deepspeed", "batch_size": 1, "accumulate": 2}
        jobs.append(add(f"{task} whole", {}, steps=6, callbacks=CHECKPOINTS, **common))
        part = add(f"{task} resumed", {}, steps=STOPS[2, task], callbacks=CHECKPOINTS, **common)
        jobs += [part, resumed(part)]
    poison = {"class_path": "tests.distributed.runs.PoisonLoss", "init_args": {"step": 1, "rank": 1}}
    for strategy in ("plain", "deepspeed"):
        jobs.append(add(f"poisoned {strategy}", SMOOTH, strategy=strategy, steps=4, callbacks=[poison]))
    offload = BF16 | {f"{ARGUMENTS}.offload_optimizer": True}
    jobs.append(add("poisoned offload", offload, strategy="deepspeed", steps=4, callbacks=[poison]))
    run = root / "offloaded middle"
    counter = {"class_path": "tests.distributed.runs.TensorCounter", "init_args": {"folder": str(run)}}
    middle = replace(assets, student=one_process["middle"].assets.student)
    runs[run.name] = Run(run, middle, "sft", "deepspeed", 2, batch_size=2, steps=2, overrides=BF16, callbacks=[counter])
    runs[run.name].overrides = BF16 | {f"{ARGUMENTS}.offload_optimizer": True}
    jobs.append(runs[run.name])
    stage3 = SMOOTH | {f"{ARGUMENTS}.stage": 3}
    jobs.append(add("sft zero3", stage3, strategy="deepspeed", callbacks=CHECKPOINTS))
    validation = {
        "trainer.limit_val_batches": 2,
        "trainer.val_check_interval": 2,
        "trainer.check_val_every_n_epoch": None,
        "data.init_args.val": str(assets.val),
        "data.init_args.val_batch_size": 3,
        "model.init_args.val_max_completion_length": 4,
    }
    jobs.append(add("sft validated", SMOOTH | validation, strategy="deepspeed"))
    alone = str(one_process["sft bfloat16"].folder / "checkpoints/step=0000003.ckpt")
    more = add("more processes", {}, strategy="deepspeed", refused=True)
    jobs.append((more, ("--ckpt_path", alone)))
    presets = preset_runs(root, assets, 2)
    runs |= {run.folder.name: run for run in presets}
    run_all(fork_server, [*jobs, *presets], 2, timeout=500)
    return runs
