"""A run's settings as far as they cost something, read from its config files without building anything."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from avrt.config.errors import UsageError
from avrt.config.run_length import run_length
from avrt.demo.paths import DEMO_PREFIX
from avrt.media.defaults import MAX_AUDIO_SECONDS, NUM_FRAMES
from avrt.media.geometry import AUDIO_TOKENS_PER_SECOND, FRAMES_PER_TOKEN, TOKEN_PIXELS
from avrt.model.lora import LoRAConfig

TEXT_TOKENS = 160
"""Of a prompt beside its media: system text, question, options, instruction."""

DEFAULT_EPOCHS = 1000
"""Lightning's, for a run that says neither steps nor epochs."""


@dataclass(frozen=True)
class RunSettings:
    """What a run costs depends on these.

    Attributes:
        task: ``sft`` or ``grpo``.
        student: path of the student.
        devices: over all machines; `nodes` machines.
        weight_bytes: of one weight in the model (2 for bfloat16).
        stage: of ZeRO, or 0 for a plain strategy.
        offload: optimizer state in host memory.
        batch_size: prompts per device and micro-batch, accumulated `accumulate` times.
        prompt_tokens: of the longest prompt that the settings allow.
        completion_tokens: of the longest response (GRPO) or a long trace (SFT).
        mean_completion_tokens: what time is computed with.
        reference: ``none``, ``device``, ``host`` or ``adapters off``.
        total_steps: optimizer steps of the run, or None when they depend on data that is not there.
    """

    task: str
    student: str
    devices: int
    nodes: int
    weight_bytes: int
    stage: int
    offload: bool
    batch_size: int
    accumulate: int
    gradient_checkpointing: bool
    chunk_rows: int
    prompt_tokens: int
    completion_tokens: int
    mean_completion_tokens: int
    num_generations: int = 1
    num_iterations: int = 1
    reference: str = "none"
    kv_cache_tokens: int = 0
    encoder_batch_tokens: int = 1
    lora: LoRAConfig | None = None
    reduce_bucket_size: int = 0
    overlap_comm: bool = False
    total_steps: int | None = None

    @property
    def prompts_per_device(self) -> int:
        """Prompts of one optimizer step on one device."""
        return self.batch_size * self.accumulate

    @property
    def prompts_per_step(self) -> int:
        return self.prompts_per_device * self.devices

    @property
    def responses_per_device(self) -> int:
        return self.prompts_per_device * self.num_generations


def read_settings(
    configs: Sequence[str],
    devices: int | None = None,
    nodes: int | None = None,
    student: str | None = None,
    samples: int | None = None,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
) -> RunSettings:
    """Read the config files as ``fit`` would, later ones over earlier ones, defaults filled in.

    Args:
        devices, nodes: instead of the config's.
        student: instead of the config's ``model.init_args.student.path``.
        samples: of the training set, where its shards are not on this machine.
        prompt_tokens: of a prompt; None for the longest that `max_pixels` and 10 s of sound allow.
        completion_tokens: of a response on average; None for half the limit (GRPO) or 250 (SFT).

    Raises:
        UsageError: a config file is wrong.
        ValueError: the settings are of no training run.
    """
    config = parse(configs)
    trainer, model, data = config["trainer"], config["model"], config["data"]
    arguments, data_arguments = model["init_args"], data["init_args"]
    task = "grpo" if "num_generations" in arguments else "sft"
    strategy = trainer.get("strategy")
    strategy_arguments = strategy.get("init_args", {}) if isinstance(strategy, dict) else {}
    nodes = nodes or trainer["num_nodes"]
    per_node = devices or _devices(trainer["devices"])
    for name, value in (
        ("trainer.num_nodes", nodes),
        ("trainer.accumulate_grad_batches", trainer["accumulate_grad_batches"]),
        ("data.init_args.batch_size", data_arguments["batch_size"]),
    ):
        if value < 1:
            raise UsageError(f"{name} must be positive, is {value}")
    limit = arguments["sampling"]["max_completion_length"] if task == "grpo" else 512
    lora = LoRAConfig(**arguments["lora"]) if arguments.get("lora") else None
    if task == "grpo" and strategy_arguments.get("stage") == 3:
        raise UsageError("trainer.strategy.init_args.stage: fit refuses GRPO under ZeRO-3; set it to 2")
    settings = RunSettings(
        task=task,
        student=student or _student_folder(arguments["student"]["path"]),
        devices=per_node * nodes,
        nodes=nodes,
        weight_bytes=2
        if "bf16-true" in str(trainer["precision"]) or arguments["student"]["dtype"] == "bfloat16"
        else 4,
        stage=strategy_arguments.get("stage", 0),
        offload=bool(strategy_arguments.get("offload_optimizer", False)),
        batch_size=data_arguments["batch_size"],
        accumulate=trainer["accumulate_grad_batches"],
        gradient_checkpointing=arguments["student"]["gradient_checkpointing"],
        chunk_rows=arguments["chunk_rows"],
        prompt_tokens=prompt_tokens or _longest_prompt(arguments["student"]),
        completion_tokens=limit,
        mean_completion_tokens=completion_tokens or (limit // 2 if task == "grpo" else 250),
        num_generations=arguments.get("num_generations", 1),
        num_iterations=arguments.get("num_iterations", 1),
        reference=_reference(task, arguments, lora),
        kv_cache_tokens=arguments["sampling"]["kv_cache_tokens"] if task == "grpo" else 0,
        encoder_batch_tokens=arguments["student"]["encoder_batch_tokens"],
        lora=lora,
        reduce_bucket_size=strategy_arguments.get("reduce_bucket_size", 0),
        overlap_comm=strategy_arguments.get("overlap_comm", False),
    )
    steps = _total_steps(config, settings.prompts_per_step, settings.num_iterations, samples)
    return replace(settings, total_steps=steps)


def parse(configs: Sequence[str]) -> dict[str, Any]:
    """The merged settings of a run as plain values.

    Raises:
        UsageError: a config file is wrong, or of something else than a training run.
    """
    from avrt.cli import TRAINING
    from avrt.config.class_paths import allowed_prefixes, enforce
    from avrt.config.scan import scan_arguments

    words = [word for config in configs for word in ("--config", config)]
    prefixes = allowed_prefixes()
    scan_arguments(words, tuple(TRAINING), prefixes)
    _check_training(configs)

    from lightning_modules.cli import read_settings

    enforce(prefixes)
    return read_settings("fit", words).as_dict()


def _student_folder(path: str) -> str:
    """All students of the demo have the shapes of the random one, which is built in a moment."""
    if not path.startswith(DEMO_PREFIX):
        return path
    from avrt.demo.prepare import DemoCache

    return str(DemoCache().get("student"))


def _shards_folder(path: str) -> str:
    """The demo's shards are looked for, not made."""
    if not path.startswith(DEMO_PREFIX):
        return path
    from avrt.demo.prepare import DemoCache

    return str(DemoCache().folder / path.removeprefix(DEMO_PREFIX))


def _check_training(configs: Sequence[str]) -> None:
    """Only a model that is trained has an optimizer; evaluations and trace runs have their own settings."""
    models = [yaml.safe_load(Path(config).read_text(encoding="utf-8")).get("model") for config in configs]
    arguments = [model.get("init_args") for model in models if isinstance(model, dict)]
    if not any(isinstance(given, dict) and "optimizer" in given for given in arguments):
        raise UsageError(
            f"--config {configs[0]}: has no model.init_args.optimizer, so it is not of a training run; plan computes "
            "what python -m avrt fit runs, for example cli_configs/grpo_7b.yaml"
        )


def _devices(devices: Any) -> int:
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if isinstance(devices, str) and "," in devices:
        devices = [number for number in devices.split(",") if number.strip()]
    if isinstance(devices, list):
        return len(devices)
    if not isinstance(devices, int) or devices < 1:
        raise UsageError(f"trainer.devices is {devices!r}, which depends on the machine: add --devices")
    return devices


def _longest_prompt(student: dict[str, Any]) -> int:
    visual = NUM_FRAMES // FRAMES_PER_TOKEN * (student["max_pixels"] // TOKEN_PIXELS)
    return min(
        student.get("max_prompt_tokens") or 10**9,
        visual + int(MAX_AUDIO_SECONDS * AUDIO_TOKENS_PER_SECOND) + TEXT_TOKENS,
    )


def _reference(task: str, arguments: dict[str, Any], lora: LoRAConfig | None) -> str:
    if task == "sft" or not arguments["loss"]["beta"]:
        return "none"
    if lora is not None:
        return "adapters off"
    return "host" if arguments["reference_device"] == "cpu" else "device"


def _total_steps(config: dict[str, Any], prompts_per_step: int, num_iterations: int, samples: int | None) -> int | None:
    """Optimizer steps until the run ends, as Lightning counts them; None when its shards are not here.

    Raises:
        UsageError: the run has no end, or the training set not enough samples for one step.
    """
    trainer, data = config["trainer"], config["data"]["init_args"]
    most, epochs, limit = trainer["max_steps"], trainer["max_epochs"], trainer["limit_train_batches"]
    if trainer["fast_dev_run"]:
        epochs, limit = 1, int(trainer["fast_dev_run"])
    if epochs is None:
        epochs = DEFAULT_EPOCHS if most == -1 else -1
    if epochs == -1:
        if most == -1:
            most = config["model"]["init_args"]["optimizer"]["total_steps"]
            if most is None:
                raise UsageError("the run has no end: set trainer.max_steps or trainer.max_epochs")
        return most
    samples = samples or count_samples(data["train"], data["train_split"])
    if samples is None:
        return None if most == -1 else most
    if samples < prompts_per_step:
        raise UsageError(
            f"one optimizer step takes {prompts_per_step} prompts, and there are {samples}; lower "
            "data.init_args.batch_size or trainer.accumulate_grad_batches"
        )
    accumulate = trainer["accumulate_grad_batches"]
    batches = samples // prompts_per_step * num_iterations * accumulate
    return run_length(batches, accumulate, epochs, most, limit)


def count_samples(train: str | list[str], split: str | None = None) -> int | None:
    """Samples in shards that are on this machine, or None."""
    from avrt.data.manifest import MANIFEST_NAME, read_manifest
    from avrt.data.shards import ShardSet

    places = [_shards_folder(place) for place in ([train] if isinstance(train, str) else train)]
    if not all(Path(place).exists() or glob.glob(place) for place in places):
        return None
    if split is None and all((Path(place) / MANIFEST_NAME).is_file() for place in places):
        return sum(shard.samples for place in places for shard in read_manifest(Path(place)).shards)
    return len(ShardSet(places, split=split))
