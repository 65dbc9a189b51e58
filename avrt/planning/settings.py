"""Settings that determine a run's cost, read from its config files without building anything."""

from __future__ import annotations

import glob
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from avrt.config.class_paths import allowed_prefixes, enforce
from avrt.config.errors import UsageError
from avrt.config.optimizer_steps import accumulation, run_length
from avrt.config.scan import scan_arguments
from avrt.config.strategies import STRATEGIES
from avrt.families.registry import family_of_config
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.media.geometry import FRAMES_PER_TOKEN
from avrt.model.lora import LoRAConfig
from avrt.planning.engine_settings import check_engine, engine_settings
from avrt.planning.shapes import load_config

TEXT_TOKENS = 160
"""Text of a prompt: system text, question, options, instruction."""

DEFAULT_EPOCHS = 1000
"""Lightning's value for a run with neither steps nor epochs."""


@dataclass(frozen=True)
class RunSettings:
    """Settings that determine a run's cost.

    Attributes:
        task: ``sft`` or ``grpo``.
        student: path of the student.
        devices: over all `nodes` machines.
        weight_bytes: bytes of one weight in the model (2 for bfloat16).
        stage: ZeRO stage, or 0 for a plain strategy.
        offload: whether the optimizer state is in host memory.
        batch_size: prompts per device and micro-batch, accumulated `accumulate` times.
        prompt_tokens: length of the longest prompt that the settings allow.
        completion_tokens: length of the longest response (GRPO) or a long trace (SFT).
        mean_completion_tokens: mean length, for the time.
        longest_tokens: length of the longest response of a device's window, for the steps of decoding; 0 for
            `completion_tokens`, which one of a window's many responses is likely to reach.
        decoding: ``graphs`` where decoding's kernels are launched as one CUDA graph, else ``plain``.
        grad_accum_dtype: ``fp32`` or ``bf16``, of gradients summed over micro-batches under DeepSpeed.
        pin_memory: of an offloaded optimizer; None to pin it if the host has the memory.
        num_workers, prefetch, val_batch_size: of the data workers, see `datamodules.workers.read_batches`.
        max_pixels: bound on a frame's pixels as the student sees it.
        max_num_gen_batches: dynamic sampling rolls out at most so many times the prompts of a step; 1 without.
        reference: ``none``, ``device``, ``host`` or ``adapters off``.
        engine: what samples responses: ``builtin``, ``in process`` (vLLM on the same devices) or ``elsewhere``.
        engine_share: part of a device's memory that an engine in process takes.
        engine_sleeps: whether that engine leaves the device while training.
        sample_ahead: whether it samples while the policy is trained.
        total_steps: optimizer steps of the run, or None if they depend on data that is not on this machine.
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
    max_num_gen_batches: int = 1
    reference: str = "none"
    kv_cache_tokens: int = 0
    encoder_batch_tokens: int = 1
    lora: LoRAConfig | None = None
    reduce_bucket_size: int = 0
    overlap_comm: bool = False
    total_steps: int | None = None
    longest_tokens: int = 0
    decoding: str = "plain"
    grad_accum_dtype: str = "bf16"
    pin_memory: bool | None = None
    num_workers: int = 0
    prefetch: int = 2
    val_batch_size: int = 1
    max_pixels: int = MAX_FRAME_PIXELS
    engine: str = "builtin"
    engine_share: float = 0.0
    engine_sleeps: bool = False
    sample_ahead: bool = False

    def __post_init__(self) -> None:
        if not self.longest_tokens:
            object.__setattr__(self, "longest_tokens", self.completion_tokens)

    @property
    def fp32_sums(self) -> bool:
        """Whether DeepSpeed sums gradients of narrower weights in float32 over the micro-batches of a step."""
        if self.offload and self.accumulate == 1:  # nothing to sum
            return False
        return self.grad_accum_dtype == "fp32" and self.stage in (2, 3) and self.weight_bytes < 4

    @property
    def sums_on_device(self) -> bool:
        """Whether these sums are on the device until the step."""
        return self.fp32_sums and self.stage == 2

    @property
    def processes_per_node(self) -> int:
        return self.devices // self.nodes

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
    longest_tokens: int | None = None,
    prepare: Callable[[dict[str, Any]], None] = lambda config: None,
    allowed_classes: Sequence[str] = (),
) -> RunSettings:
    """Read the config files as ``fit`` would: later ones override earlier ones, and defaults are filled in.

    Args:
        devices: per machine, instead of the config's.
        nodes: machines, instead of the config's.
        student: instead of the config's `model.student.path`.
        samples: size of the training set, if its shards are not on this machine.
        prompt_tokens: length of a prompt; None for the longest that `max_pixels` and 10 s of audio allow.
        completion_tokens: mean length of a response; None for half the limit (GRPO) or 250 (SFT).
        longest_tokens: length of the longest response of a device's window; None for the limit.
        prepare: called with the parsed settings; may change them in place.
        allowed_classes: packages whose classes the configs may name, beside the project's own.

    Raises:
        UsageError: a config file is wrong.
        ValueError: the config is not of a training run, or the global batch cannot be divided over the devices.
    """
    config = parse(configs, allowed_classes)
    prepare(config)
    trainer, data = config["trainer"], config["data"]["init_args"]
    model = config["model"]["init_args"]
    task = "grpo" if "num_generations" in model else "sft"
    sampling = model["sampling"] if task == "grpo" else {}
    strategy = _strategy_arguments(trainer.get("strategy"))
    if task == "grpo" and strategy.get("stage") == 3:
        raise UsageError("trainer.strategy: ZeRO-3 does not support GRPO; set it to avrt_zero2_offload")
    nodes = nodes or trainer["num_nodes"]
    total_devices = (devices or _devices(trainer["devices"])) * nodes
    for name, value in (
        ("trainer.num_nodes", nodes),
        ("trainer.accumulate_grad_batches", trainer["accumulate_grad_batches"]),
    ):
        if value < 1:
            raise UsageError(f"{name} must be positive, got {value}")
    prompts_per_step = data.get("prompts_per_step")
    accumulate = trainer["accumulate_grad_batches"]
    if prompts_per_step is not None:
        accumulate = accumulation(prompts_per_step, data["batch_size"], total_devices, accumulate)
    check_engine(model.get("rollout", "builtin"), student or model["student"]["path"])
    limit = sampling.get("max_completion_length", 512)
    lora = LoRAConfig(**model["lora"]) if model.get("lora") else None
    bfloat16 = "bf16-true" in str(trainer["precision"]) or model["student"]["dtype"] == "bfloat16"
    settings = RunSettings(
        task=task,
        student=student or model["student"]["path"],
        devices=total_devices,
        nodes=nodes,
        weight_bytes=2 if bfloat16 else 4,
        stage=strategy.get("stage", 0),
        offload=bool(strategy.get("offload_optimizer", False)),
        batch_size=data["batch_size"],
        accumulate=accumulate,
        gradient_checkpointing=model["student"]["gradient_checkpointing"],
        chunk_rows=model["chunk_rows"],
        prompt_tokens=prompt_tokens or _longest_prompt(model["student"], student),
        completion_tokens=limit,
        mean_completion_tokens=completion_tokens or (limit // 2 if task == "grpo" else 250),
        num_generations=model.get("num_generations", 1),
        num_iterations=model.get("num_iterations", 1),
        max_num_gen_batches=(model.get("dynamic_sampling") or {}).get("max_num_gen_batches", 1),
        reference=_reference(task, model, lora),
        kv_cache_tokens=sampling.get("kv_cache_tokens", 0),
        encoder_batch_tokens=model["student"]["encoder_batch_tokens"],
        lora=lora,
        reduce_bucket_size=strategy.get("reduce_bucket_size", 0),
        overlap_comm=strategy.get("overlap_comm", False),
        longest_tokens=longest_tokens or 0,
        decoding=_decoding(sampling, trainer["accelerator"]),
        grad_accum_dtype=strategy.get("grad_accum_dtype", "bf16"),
        pin_memory=_pin_memory(strategy, trainer["accelerator"]),
        num_workers=data["num_workers"],
        prefetch=data["prefetch"],
        val_batch_size=data["val_batch_size"] if data.get("val") else 1,
        max_pixels=model["student"]["max_pixels"],
        sample_ahead=model.get("sample_ahead", False),
        **engine_settings(model.get("rollout", "builtin")),
    )
    steps = _total_steps(config, settings, samples)
    return replace(settings, total_steps=steps)


def parse(configs: Sequence[str], allowed_classes: Sequence[str] = ()) -> dict[str, Any]:
    """The merged settings of a run as plain values.

    Raises:
        UsageError: a config file is wrong, or is not a training config.
    """
    words = [word for config in configs for word in ("--config", config)]
    prefixes = allowed_prefixes(allowed_classes)
    scan_arguments(words)
    _check_training(configs)

    from lightning_modules import cli

    enforce(prefixes)
    return cli.read_settings("fit", words).as_dict()


def _strategy_arguments(strategy: Any) -> dict[str, Any]:
    """Arguments of the project's DeepSpeed strategy, defaults filled in; empty for a plain strategy."""
    if isinstance(strategy, dict):
        return strategy.get("init_args", {})
    if strategy not in STRATEGIES:
        return {}
    from lightning_modules.strategy import AVRTDeepSpeedStrategy

    parameters = inspect.signature(AVRTDeepSpeedStrategy).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters} | STRATEGIES[strategy]


def _check_training(configs: Sequence[str]) -> None:
    """Only the model of a training run has an optimizer."""
    models = [yaml.safe_load(Path(config).read_text(encoding="utf-8")).get("model") for config in configs]
    arguments = [model.get("init_args") for model in models if isinstance(model, dict)]
    if not any(isinstance(given, dict) and "optimizer" in given for given in arguments):
        raise UsageError(
            f"--config {configs[0]}: has no model.optimizer, so it is not a training config; plan takes the configs of "
            "`avrt fit`, for example cli_configs/grpo_7b.yaml"
        )


def _devices(devices: Any) -> int:
    """Number of devices in `trainer.devices`: a number, a list of indices, or either as text."""
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if isinstance(devices, str) and "," in devices:
        devices = [number for number in devices.split(",") if number.strip()]
    if isinstance(devices, list):
        return len(devices)
    if not isinstance(devices, int) or devices < 1:
        raise UsageError(f"trainer.devices is {devices!r}, which depends on the machine: add --devices")
    return devices


def _longest_prompt(student: dict[str, Any], path: str | None) -> int:
    """Tokens of the longest prompt that the settings allow.

    Args:
        path: of another student than the settings'.
    """
    config, _ = load_config(path or student["path"])
    family = family_of_config(config)
    visual = NUM_FRAMES // FRAMES_PER_TOKEN * (student["max_pixels"] // family.frame_pixels_per_token(config))
    audio = int(MAX_AUDIO_SECONDS * family.audio_tokens_per_second)
    return min(student.get("max_prompt_tokens") or 10**9, visual + audio + TEXT_TOKENS)


def _reference(task: str, arguments: dict[str, Any], lora: LoRAConfig | None) -> str:
    if task == "sft" or not arguments["loss"]["beta"]:
        return "none"
    if lora is not None:
        return "adapters off"
    return "host" if arguments["reference_device"] == "cpu" else "device"


def _decoding(sampling: dict[str, Any], accelerator: str) -> str:
    """How the steps of decoding are launched: ``graphs`` or ``plain``. ``auto`` takes graphs on a GPU."""
    chosen = sampling.get("decoding", "plain")
    on_gpu = accelerator in ("gpu", "cuda", "auto")
    return "graphs" if chosen == "graphs" or (chosen == "auto" and on_gpu) else "plain"


def _pin_memory(strategy: dict[str, Any], accelerator: str) -> bool | None:
    chosen = strategy.get("pin_memory", False)
    if accelerator == "cpu":  # nothing crosses, and nothing is pinned
        return False
    return None if chosen == "auto" else bool(chosen)


def _total_steps(config: dict[str, Any], settings: RunSettings, samples: int | None) -> int | None:
    """Optimizer steps of the run, as Lightning counts them; None if its shards are not on this machine.

    Raises:
        UsageError: the run has no end, or the training set has too few samples for one step.
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
    if samples < settings.prompts_per_step:
        raise UsageError(
            f"one optimizer step takes {settings.prompts_per_step} prompts, and there are {samples}; lower "
            "data.prompts_per_step"
        )
    batches = samples // settings.prompts_per_step * settings.num_iterations * settings.accumulate
    return run_length(batches, settings.accumulate, epochs, most, limit)


def count_samples(train: str | list[str | dict[str, Any]], split: str | None = None) -> int | None:
    """Number of samples in shards, or None if they are not at hand. Of remote sets only the manifests are read.

    Args:
        train: as in `data.train`; a source is a mapping.
        split: only this split, for what is not a source with its own.

    Raises:
        UsageError: the shards are damaged, or a list of ids cannot be used.
    """
    from avrt.data.id_lists import limit_samples
    from avrt.data.shards import ShardSet
    from avrt.storage.locations import is_folder, is_remote

    total = 0
    for place in [train] if isinstance(train, str) else train:
        source = {"shards": place} if isinstance(place, str) else place
        shards = [source["shards"]] if isinstance(source["shards"], str) else source["shards"]
        try:
            if any(is_remote(name) and not is_folder(name) for name in shards):
                return None  # without a manifest, whole shards would be fetched
            if not all(is_remote(n) or Path(n).exists() or "{" in n or glob.glob(n) for n in shards):
                return None
            opened = ShardSet(shards, split=source.get("split") or split)
            total += len(limit_samples(opened, source.get("only"), source.get("never"))[0])
        except OSError:  # no connection or no permission, on a machine that only plans
            return None
        except ValueError as error:
            raise UsageError(f"data.train: {error}") from error
    return total
