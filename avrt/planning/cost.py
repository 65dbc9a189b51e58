"""FLOPs and time of an optimizer step.

Time is computed, not measured: dense arithmetic at `peak x efficiency`, decoding at the speed of reading weights and
caches, the offloaded optimizer at the host's memory bandwidth. Left out: loading data, waiting for the device with the
longest response, validation, checkpoints. With dynamic sampling a step's prompts are counted once, and
`StepCost.most_seconds` counts as many as the bound allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5OmniThinkerConfig

from avrt.planning.dry_run import StepFlops
from avrt.planning.memory import kv_bytes_per_token
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters

ADAM_BYTES = 32
"""Bytes of host memory read and written per trained weight in an update: weight, gradient and two moments in float32
(both ways), and the weight in bfloat16."""


@dataclass(frozen=True)
class Hardware:
    """Hardware that the time is computed for. Defaults: an H100's data sheet, and the share that training reaches.

    Attributes:
        peak_tflops: dense bfloat16 TFLOP/s of one device.
        efficiency: share of the peak that training and scoring reach.
        bandwidth_gb: memory bandwidth of one device, GB/s.
        bandwidth_efficiency: share of that bandwidth that decoding reaches.
        host_bandwidth_gb: memory bandwidth of one machine, for the offloaded optimizer, GB/s.
        link_gb: bandwidth between one device and its host, GB/s.
    """

    peak_tflops: float = 989.0
    efficiency: float = 0.35
    bandwidth_gb: float = 3350.0
    bandwidth_efficiency: float = 0.3
    host_bandwidth_gb: float = 200.0
    link_gb: float = 25.0


@dataclass(frozen=True)
class StepCost:
    """Cost of one optimizer step over all devices.

    Attributes:
        prompt_tokens, response_tokens: tokens that pass the policy in training.
        encoder_runs: prompts whose media are embedded.
        flops: by phase: ``embedding``, ``prefill``, ``decoding``, ``reference``, ``training``.
        seconds: by phase, and of the ``optimizer``; devices work at the same time.
        most_rollouts: dynamic sampling rolls out at most so many times the prompts of a step.
    """

    prompt_tokens: int
    response_tokens: int
    encoder_runs: int
    flops: dict[str, float]
    seconds: dict[str, float]
    most_rollouts: int = 1

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def most_seconds(self) -> float:
        """`total_seconds` of a step that rolls out as many prompts as dynamic sampling allows."""
        once = sum(self.seconds.get(phase, 0.0) for phase in ("embedding", "prefill", "decoding"))
        return self.total_seconds + (self.most_rollouts - 1) * once


def step_cost(
    config: Qwen2_5OmniThinkerConfig,
    settings: RunSettings,
    parameters: Parameters,
    trained: int,
    micro_batch: StepFlops,
    hardware: Hardware,
) -> StepCost:
    """Cost of one optimizer step with responses of mean length.

    Args:
        trained: number of trained parameters.
        micro_batch: FLOPs of one micro-batch with responses of mean length.
    """
    s = settings
    prompts, responses = s.prompts_per_device, s.responses_per_device
    flops = {"embedding": prompts * _encoder_flops(config, s, parameters)}
    seconds: dict[str, float] = {}
    rate = hardware.peak_tflops * 1e12 * hardware.efficiency
    windows = 1 / s.num_iterations  # windows per optimizer step
    if s.task == "grpo":
        flops["prefill"] = prompts * _prefill_flops(config, s, parameters)
        flops["decoding"] = responses * _decoding_flops(config, s, parameters)
        reads = s.mean_completion_tokens * (parameters.layers + parameters.head) * s.weight_bytes
        cached = (prompts * s.prompt_tokens + responses * s.mean_completion_tokens / 2) * s.mean_completion_tokens
        reads_cache = cached * kv_bytes_per_token(config, s.weight_bytes)
        bandwidth = hardware.bandwidth_gb * 1e9 * hardware.bandwidth_efficiency
        seconds["decoding"] = max((reads + reads_cache) / bandwidth, flops["decoding"] / rate)
        if s.reference != "none":
            flops["reference"] = s.accumulate * micro_batch.forward
            if s.reference == "host":
                seconds["reference"] = parameters.language_model * s.weight_bytes / (hardware.link_gb * 1e9)
    for name in flops:
        flops[name] *= windows
        seconds[name] = seconds.get(name, 0.0) * windows
        if name != "decoding":
            seconds[name] += flops[name] / rate
    flops["training"] = s.accumulate * micro_batch.step
    seconds["training"] = flops["training"] / rate
    if s.offload:
        share = trained / s.devices
        per_host = share * (s.devices // s.nodes)
        moved = 2 * share * s.weight_bytes / (hardware.link_gb * 1e9)
        seconds["optimizer"] = per_host * ADAM_BYTES / (hardware.host_bandwidth_gb * 1e9) + moved
    return StepCost(
        prompt_tokens=s.prompts_per_step * s.prompt_tokens,
        response_tokens=s.prompts_per_step * s.num_generations * s.mean_completion_tokens,
        encoder_runs=s.prompts_per_step,
        flops={name: value * s.devices for name, value in flops.items()},
        seconds=seconds,
        most_rollouts=s.max_num_gen_batches,
    )


def _encoder_flops(config: Qwen2_5OmniThinkerConfig, s: RunSettings, p: Parameters) -> float:
    """Both encoders on one prompt: two FLOPs per weight and token, and full attention in a few layers."""
    vision: Any = config.vision_config
    patches = s.prompt_tokens * vision.spatial_merge_size**2
    full = len(vision.fullatt_block_indexes) * 4 * patches**2 / 4 * vision.hidden_size  # four pairs of frames apart
    mel_frames = 1000
    return 2 * p.vision * patches + full + 2 * p.audio * mel_frames / 2


def _prefill_flops(config: Qwen2_5OmniThinkerConfig, s: RunSettings, p: Parameters) -> float:
    text: Any = config.text_config
    attention = text.num_hidden_layers * 4 * s.prompt_tokens**2 / 2 * text.hidden_size
    return 2 * p.layers * s.prompt_tokens + attention


def _decoding_flops(config: Qwen2_5OmniThinkerConfig, s: RunSettings, p: Parameters) -> float:
    text: Any = config.text_config
    length = s.mean_completion_tokens
    head = text.vocab_size * text.hidden_size
    attention = text.num_hidden_layers * 4 * text.hidden_size * (s.prompt_tokens + length / 2)
    return length * (2 * (p.layers + head) + attention)
