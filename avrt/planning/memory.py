"""Memory of a run per device and per host, part by part, in bytes.

With ZeRO-2 each device holds all weights and a share of gradients and optimizer state; offload moves these two to the
host. Rollout and training alternate, so a device needs the larger of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5OmniThinkerConfig

from avrt.planning.dry_run import StepTrace
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters

FLOAT32 = 4
SAMPLER_BYTES = 20
"""Bytes per entry of a decoding step's logits: float32 logits, probabilities and their double-precision sum."""

VISION_BYTES = 24
"""Values per unit of a patch's width while the vision encoder runs: queries, keys, values, MLP."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    media_features: int
    kv_cache: int
    rollout_logits: int
    encoders_at_work: int
    activations: int
    buckets: int
    overhead: int

    @property
    def resident(self) -> int:
        """Bytes in use in every phase."""
        return self.weights + self.optimizer + self.reference + self.media_features + self.overhead

    @property
    def rollout(self) -> int:
        """Peak while media are embedded and responses sampled."""
        return self.resident + max(self.kv_cache + self.rollout_logits, self.encoders_at_work)

    @property
    def training(self) -> int:
        return self.resident + self.gradients + self.activations + self.buckets

    @property
    def peak(self) -> int:
        return max(self.rollout, self.training)


@dataclass(frozen=True)
class HostMemory:
    """Bytes on one host (machine), over all its processes.

    Attributes:
        optimizer: float32 weights, two moments and gradients, when offloaded.
        staging: buffer for weights on their way to the devices.
        reference: the reference policy's weights, if they are kept in host memory.
        loading: weights of all processes at the start; not at the same time as the others.
    """

    optimizer: int
    staging: int
    reference: int
    loading: int

    @property
    def peak(self) -> int:
        return max(self.optimizer + self.staging + self.reference, self.loading)


def kv_cache_bytes(config: Qwen2_5OmniThinkerConfig, settings: RunSettings) -> int:
    """KV cache of the largest sub-batch of a rollout: prompts once, responses up to their limit."""
    if settings.task == "sft":
        return 0
    per_prompt = settings.prompt_tokens + settings.num_generations * settings.completion_tokens
    prompts = min(settings.prompts_per_device, max(1, settings.kv_cache_tokens // per_prompt))
    return prompts * per_prompt * kv_bytes_per_token(config, settings.weight_bytes)


def kv_bytes_per_token(config: Qwen2_5OmniThinkerConfig, width: int) -> int:
    """Keys and values of one token in all layers."""
    text: Any = config.text_config
    head = text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * text.num_key_value_heads * head * width


def device_memory(
    config: Qwen2_5OmniThinkerConfig,
    settings: RunSettings,
    parameters: Parameters,
    trace: StepTrace,
    overhead_bytes: int = 0,
) -> DeviceMemory:
    """Memory of one device.

    Args:
        overhead_bytes: the driver's context and what the allocator cannot reuse.
    """
    s, width, trained = settings, settings.weight_bytes, trace.trained
    shards = s.devices
    frozen_language = parameters.language_model - (trained if s.lora is None else 0)
    encoders = parameters.vision + parameters.audio
    own = trained // shards if s.stage == 3 else trained
    weights = (own + frozen_language + encoders) * width
    if s.stage == 0:
        gradients, optimizer = trained * width, trained * 2 * FLOAT32
    else:
        grad_share = shards if s.stage >= 2 else 1
        gradients = 0 if s.offload else trained * width // grad_share + trained * FLOAT32 // shards
        optimizer = 0 if s.offload else trained * 3 * FLOAT32 // shards
    buckets = min(s.reduce_bucket_size, trained) * width * (2 if s.overlap_comm else 1) if s.stage else 0
    text: Any = config.text_config
    vision: Any = config.vision_config
    hidden = text.hidden_size
    embedded = s.prompts_per_device if s.task == "grpo" else s.batch_size
    # Dynamic sampling holds the groups chosen so far beside those that it rolls out.
    held = 2 * embedded if s.max_num_gen_batches > 1 else embedded
    rows = min(s.responses_per_device, max(1, s.kv_cache_tokens // max(1, s.completion_tokens)))
    # Prompts are encoded together up to a bound, a longer one alone.
    encoded = max(s.prompt_tokens, min(s.encoder_batch_tokens, embedded * s.prompt_tokens))
    patches = encoded * vision.spatial_merge_size**2
    return DeviceMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        reference=parameters.language_model * width if s.reference == "device" else 0,
        media_features=held * s.prompt_tokens * hidden * width,
        kv_cache=kv_cache_bytes(config, s),
        rollout_logits=0 if s.task == "sft" else rows * text.vocab_size * SAMPLER_BYTES,
        encoders_at_work=patches * vision.hidden_size * VISION_BYTES * width,
        activations=trace.activation_bytes,
        buckets=buckets,
        overhead=overhead_bytes,
    )


def host_memory(settings: RunSettings, parameters: Parameters, trained: int) -> HostMemory:
    """Memory of one machine."""
    s = settings
    here = s.devices // s.nodes
    share = trained * here // s.devices
    copies = 2 if s.reference in ("device", "host") else 1
    model = (parameters.total + (copies - 1) * parameters.language_model) * s.weight_bytes
    return HostMemory(
        optimizer=share * 4 * FLOAT32 if s.offload else 0,
        staging=share * s.weight_bytes if s.offload else 0,
        reference=parameters.language_model * s.weight_bytes * here if s.reference == "host" else 0,
        loading=model * here,
    )
