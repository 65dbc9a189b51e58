"""FLOPs and time of an optimizer step.

Time is computed: dense arithmetic at the speed that is reached of the peak; decoding at the speed of launching its
kernels or of reading weights and caches, whichever is slower; the offloaded optimizer at the host's memory bandwidth,
and its gradients and weights at that of the link. Left out: loading data, waiting for the device with the longest
responses, the exchange of gradients between devices (it overlaps with the backward pass), validation, checkpoints. With
dynamic sampling a step's prompts are counted once, and `StepCost.most_seconds` counts as many as the bound allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avrt.families.registry import family_of_config
from avrt.planning.dry_run import StepFlops
from avrt.planning.hardware import Hardware
from avrt.planning.memory import adapts_experts, kv_bytes_per_token, prompts_at_once
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters

ADAM_BYTES = 42
"""Bytes of host memory read and written per trained weight in an update. Clipping reads and writes the gradient (8);
Adam reads weight, gradient and two moments in float32 and writes all but the gradient (28); the weight is read and
written in bfloat16 for the device (6)."""

EXPERT_ADAPTER_PASSES = 6
"""Passes over all experts of a layer that adapters on them cost in every forward: each matrix with its adapters is
computed twice and copied once, and each reads and writes it; counted on CPUs."""

OTHER_LAUNCHES, SAMPLING_LAUNCHES = 22, 13
"""Kernels of a decoding step beside those of its layers: of the rest of the model, and of sampling; counted on CPUs."""


@dataclass(frozen=True)
class StepCost:
    """Cost of one optimizer step over all devices.

    Attributes:
        prompt_tokens, response_tokens: tokens that pass the policy in training.
        encoder_runs: prompts whose media are embedded.
        flops: by phase: ``embedding``, ``prefill``, ``decoding``, ``reference``, ``training``.
        seconds: by phase, and of the ``optimizer`` and its ``transfers``; devices work at the same time.
        decoding: seconds of decoding that each of its bounds alone would take: ``launches``, ``bytes``, ``flops``.
        crossed: bytes per trained weight that an offloaded optimizer moves between a device and its host.
        most_rollouts: dynamic sampling rolls out at most so many times the prompts of a step.
        samples_ahead: other devices sample while these train.
    """

    prompt_tokens: int
    response_tokens: int
    encoder_runs: int
    flops: dict[str, float]
    seconds: dict[str, float]
    decoding: dict[str, float]
    crossed: int = 0
    most_rollouts: int = 1
    samples_ahead: bool = False

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())

    @property
    def total_seconds(self) -> float:
        sampling, rest = self.sampling_seconds, self.other_seconds
        return max(sampling, rest) if self.samples_ahead else sampling + rest

    @property
    def sampling_seconds(self) -> float:
        """Of the part that other devices do where responses are sampled ahead."""
        return sum(self.seconds.get(phase, 0.0) for phase in ("prefill", "decoding"))

    @property
    def other_seconds(self) -> float:
        return sum(self.seconds.values()) - self.sampling_seconds

    @property
    def most_seconds(self) -> float:
        """`total_seconds` of a step that rolls out as many prompts as dynamic sampling allows."""
        once = sum(self.seconds.get(phase, 0.0) for phase in ("embedding", "prefill", "decoding"))
        return self.total_seconds + (self.most_rollouts - 1) * once


def step_cost(
    config: Any,
    settings: RunSettings,
    parameters: Parameters,
    trained: int,
    micro_batch: StepFlops,
    hardware: Hardware,
    pinned: bool = True,
) -> StepCost:
    """Cost of one optimizer step with responses of mean length, the longest of them of `longest_tokens`.

    Args:
        trained: number of trained parameters.
        micro_batch: FLOPs of one micro-batch with responses of mean length.
        pinned: whether the offloaded optimizer's memory is pinned.
    """
    s = settings
    prompts, responses = s.prompts_per_device, s.responses_per_device
    flops = {"embedding": prompts * _encoder_flops(config, s, parameters)}
    seconds: dict[str, float] = {}
    decoding: dict[str, float] = {}
    windows = 1 / s.num_iterations  # windows per optimizer step
    if s.task == "grpo":
        flops["prefill"] = prompts * _prefill_flops(config, s, parameters)
        flops["decoding"] = responses * _decoding_flops(config, s, parameters)
        decoding = {
            "launches": decoding_steps(s) * launches(config, s) * hardware.launch_us * 1e-6,
            "bytes": _decoding_bytes(config, s, parameters) / hardware.decoding_bandwidth,
            "flops": flops["decoding"] / hardware.flops,
        }
        decoding = {bound: value * windows for bound, value in decoding.items()}
        if s.reference != "none":
            flops["reference"] = s.accumulate * micro_batch.forward
            if s.reference == "host":
                seconds["reference"] = hardware.transfer(parameters.language_model * s.weight_bytes, pinned=True)
    for name in flops:
        flops[name] *= windows
        seconds[name] = max(decoding.values()) if name == "decoding" else seconds.get(name, 0.0) * windows
        if name != "decoding":
            seconds[name] += flops[name] / hardware.flops
    flops["training"] = s.accumulate * micro_batch.step
    seconds["training"] = flops["training"] / hardware.flops
    crossed = crossing_bytes(s)
    if s.offload:
        share = trained / s.devices
        per_host = share * (s.devices // s.nodes)
        seconds["optimizer"] = per_host * ADAM_BYTES / (hardware.host_bandwidth_gb * 1e9)
        seconds["transfers"] = hardware.transfer(share * crossed, pinned)
    return StepCost(
        prompt_tokens=s.prompts_per_step * s.prompt_tokens,
        response_tokens=s.prompts_per_step * s.num_generations * s.mean_completion_tokens,
        encoder_runs=s.prompts_per_step,
        flops={name: value * s.devices for name, value in flops.items()},
        seconds=seconds,
        decoding=decoding,
        crossed=crossed,
        most_rollouts=s.max_num_gen_batches,
        samples_ahead=s.sample_ahead,
    )


def crossing_bytes(settings: RunSettings) -> int:
    """Bytes per trained weight that cross between device and host in an optimizer step; 0 without offload.

    Read off DeepSpeed 0.19.8 and counted in a run (`tests/distributed/test_gradient_sums.py`). Every gradient reaches
    the host in float32 once, and the new weight comes back. Sums that are not in float32 on the device are in host
    memory: the first micro-batch's gradient is written there, and for each further one the sum is read and written.
    """
    s = settings
    if not s.offload:
        return 0
    once = 4 + s.weight_bytes
    if s.stage == 3:  # the first gradient is read back, too
        return once + 2 * s.accumulate * (4 if s.fp32_sums else s.weight_bytes)
    if s.sums_on_device or s.accumulate == 1:
        return once
    return once + s.weight_bytes * (2 * s.accumulate - 1)


def decoding_steps(settings: RunSettings) -> int:
    """Decoding steps of a window: those of the longest response, for each of the parts that the cache's bound makes."""
    parts = -(-settings.prompts_per_device // prompts_at_once(settings))
    return parts * settings.longest_tokens


def launches(config: Any, settings: RunSettings) -> int:
    """Launches of a decoding step: a captured graph is one."""
    if settings.decoding == "graphs":
        return 1
    return plain_launches(config)


def plain_launches(config: Any, layers: int | None = None) -> int:
    """Kernels of a decoding step, of the model's number of layers or of another one."""
    shape = family_of_config(config).language_shape(config)
    return (layers or shape.layers) * shape.launches_per_layer + OTHER_LAUNCHES + SAMPLING_LAUNCHES


def _decoding_bytes(config: Any, s: RunSettings, p: Parameters) -> float:
    """Bytes that a window's decoding reads: weights in every step, a prompt's keys and values as long as one of its
    responses is not finished, a response's own up to its end."""
    text: Any = config.text_config
    shape = family_of_config(config).language_shape(config)
    # Which experts a step reads depends on how many tokens choose: prompts of a window's part, each with its group.
    experts = shape.parameters_read(min(s.prompts_per_device, prompts_at_once(s)) * s.num_generations)
    read = p.layers - shape.expert_parameters + experts
    if adapts_experts(config, s):
        read += EXPERT_ADAPTER_PASSES * shape.expert_parameters
    weights = decoding_steps(s) * (read + text.vocab_size * text.hidden_size) * s.weight_bytes
    mean = s.mean_completion_tokens
    cached = s.prompts_per_device * s.prompt_tokens * s.longest_tokens + s.responses_per_device * mean**2 / 2
    return weights + cached * kv_bytes_per_token(config, s.weight_bytes)


def _encoder_flops(config: Any, s: RunSettings, p: Parameters) -> float:
    """Both encoders on one prompt: two FLOPs per weight and token, and attention within whole frames."""
    vision: Any = config.vision_config
    patches = s.prompt_tokens * vision.spatial_merge_size**2
    full = family_of_config(config).encoder_attention_flops(config, patches)
    heard = family_of_config(config).audio_positions(1000)
    return 2 * p.vision * patches + full + 2 * p.audio * heard


def _prefill_flops(config: Any, s: RunSettings, p: Parameters) -> float:
    shape = family_of_config(config).language_shape(config)
    attention = shape.layers * 4 * s.prompt_tokens**2 / 2 * shape.attention_size
    return 2 * p.active_layers * s.prompt_tokens + attention


def _decoding_flops(config: Any, s: RunSettings, p: Parameters) -> float:
    text: Any = config.text_config
    length = s.mean_completion_tokens
    head = text.vocab_size * text.hidden_size
    shape = family_of_config(config).language_shape(config)
    attention = shape.layers * 4 * shape.attention_size * (s.prompt_tokens + length / 2)
    flops = length * (2 * (p.active_layers + head) + attention)
    if s.lora is not None and adapts_experts(config, s):
        # Of each step, which all responses share.
        flops += decoding_steps(s) / s.responses_per_device * 2 * 2 * s.lora.rank * shape.expert_parameters
    return flops
