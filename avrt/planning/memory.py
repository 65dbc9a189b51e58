"""Memory of a run per device and per host, part by part, in bytes.

With ZeRO-2 each device holds all weights and a share of gradients and optimizer state; offload moves these two to the
host. Rollout and training alternate, so a device needs the larger of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from avrt.families.registry import family_of_config
from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES
from avrt.model.offloaded_memory import SHARE_OF_HOST, offloaded_memory
from avrt.planning.dry_run import StepTrace
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters
from avrt.sample import SAMPLING_RATE

FLOAT32 = 4

MEL_BINS, MEL_HOP = 128, 160
"""Of the audio encoder's spectrum: bins, and samples between two frames."""

SAMPLER_BYTES = 20
"""Bytes per entry of a decoding step's logits: float32 logits, probabilities and their double-precision sum."""

VISION_BYTES = 24
"""Values per unit of a patch's width while the vision encoder runs: queries, keys, values, MLP."""


WORKER_BYTES = 200_000_000
"""Own memory of a data worker; imports are shared with the training process."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device.

    Attributes:
        gradients: sums over micro-batches, and what the optimizer takes of them.
        rollout_engine: vLLM's weights, caches and encoders on the same device.
        large_gradients: of weights larger than a bucket, which stay whole until the backward pass has ended.
        transfer_buffer: for the largest gradient on its way to the host; there from beginning to end.
        buckets: gradients on their way between devices.
        overhead: what tensors cannot use.
        adapted_experts: of one layer, with their adapters added, while responses are sampled.
    """

    weights: int
    gradients: int
    large_gradients: int
    optimizer: int
    reference: int
    media_features: int
    kv_cache: int
    rollout_logits: int
    encoders_at_work: int
    activations: int
    transfer_buffer: int
    buckets: int
    overhead: int
    rollout_engine: int = 0
    engine_sleeps: bool = False
    adapted_experts: int = 0

    @property
    def resident(self) -> int:
        """Bytes in use in every phase."""
        whole_run = self.weights + self.optimizer + self.reference + self.transfer_buffer
        return whole_run + self.media_features + self.overhead + (0 if self.engine_sleeps else self.rollout_engine)

    @property
    def rollout(self) -> int:
        """Peak while media are embedded and responses sampled."""
        awake = self.rollout_engine if self.engine_sleeps else 0
        return self.resident + max(
            self.kv_cache + self.rollout_logits + self.adapted_experts, awake + self.encoders_at_work
        )

    @property
    def training(self) -> int:
        return self.resident + self.gradients + self.large_gradients + self.activations + self.buckets

    @property
    def peak(self) -> int:
        return max(self.rollout, self.training)


@dataclass(frozen=True)
class HostMemory:
    """Bytes on one host (machine), over all its processes.

    Attributes:
        optimizer: float32 weights, two moments and gradients, when offloaded.
        gradient_sums: over micro-batches, where they are summed in host memory.
        staging: buffers for weights and the largest gradient on their way to and from the devices.
        reference: the reference policy's weights, if they are kept in host memory.
        rollout_engine: vLLM's weights while it sleeps.
        data_workers: own memory of the processes that read samples.
        shared_memory: what they pass on, in `/dev/shm`, at most.
        loading: weights of all processes at the start, before they are on the devices; not at the same time as the
            others.
        pinned: whether the offloaded optimizer's memory is pinned, in buffers whose sizes are powers of two.
    """

    optimizer: int
    gradient_sums: int
    staging: int
    reference: int
    data_workers: int
    shared_memory: int
    loading: int
    pinned: bool = False
    rollout_engine: int = 0

    @property
    def running(self) -> int:
        offloaded = self.optimizer + self.gradient_sums + self.staging
        return offloaded + self.reference + self.rollout_engine + self.data_workers + self.shared_memory

    @property
    def peak(self) -> int:
        return max(self.running, self.loading)


def prompts_at_once(settings: RunSettings) -> int:
    """Prompts whose responses are sampled together: as many as the cache's bound allows, at least one."""
    per_prompt = settings.prompt_tokens + settings.num_generations * settings.completion_tokens
    return min(settings.prompts_per_device, max(1, settings.kv_cache_tokens // per_prompt))


def kv_cache_bytes(config: Any, settings: RunSettings) -> int:
    """KV cache of the largest sub-batch of a rollout: prompts once, responses up to their limit.

    Where another engine samples, that of a validation batch.
    """
    if settings.task == "sft":
        return 0
    if settings.engine != "builtin":
        settings = replace(settings, batch_size=settings.val_batch_size, accumulate=1, num_generations=1)
    per_prompt = settings.prompt_tokens + settings.num_generations * settings.completion_tokens
    return prompts_at_once(settings) * per_prompt * kv_bytes_per_token(config, settings.weight_bytes)


def adapts_experts(config: Any, settings: RunSettings) -> bool:
    """Whether there are adapters on parameters of experts."""
    if settings.lora is None:
        return False
    _, parameters = family_of_config(config).lora_targets(settings.lora.target_modules, config.text_config)
    return bool(parameters)


def _adapted_experts(config: Any, settings: RunSettings) -> int:
    """Bytes of one layer's experts with their adapters added, which exist while the layer is computed."""
    if settings.task == "sft" or not adapts_experts(config, settings):
        return 0
    shape = family_of_config(config).language_shape(config)
    return shape.expert_parameters // shape.layers * settings.weight_bytes


def kv_bytes_per_token(config: Any, width: int) -> int:
    """Keys and values of one token in all layers."""
    shape = family_of_config(config).language_shape(config)
    return 2 * shape.layers * shape.kv_size * width


def device_memory(
    config: Any,
    settings: RunSettings,
    parameters: Parameters,
    trace: StepTrace,
    overhead_bytes: int = 0,
    device_bytes: int = 0,
) -> DeviceMemory:
    """Memory of one device.

    Args:
        overhead_bytes: the driver's context and what the allocator cannot reuse.
        device_bytes: all memory of the device, of which an engine in process takes a share.
    """
    s, width, trained = settings, settings.weight_bytes, trace.trained
    shards = s.devices
    frozen_language = parameters.language_model - (trained if s.lora is None else 0)
    encoders = parameters.vision + parameters.audio
    own = trained // shards if s.stage == 3 else trained
    weights = (own + frozen_language + encoders) * width
    optimizer = trained * 2 * FLOAT32 if s.stage == 0 else 0 if s.offload else trained * 3 * FLOAT32 // shards
    # DeepSpeed allocates whole buckets, however small the weights are.
    buckets = s.reduce_bucket_size * width * (2 if s.overlap_comm else 1) if s.stage else 0
    large = [size for size in trace.sizes if size > s.reduce_bucket_size] if s.stage in (1, 2) else []
    text: Any = config.text_config
    vision: Any = config.vision_config
    hidden = text.hidden_size
    embedded = s.prompts_per_device if s.task == "grpo" else s.batch_size
    # Dynamic sampling holds the groups chosen so far beside those that it rolls out.
    held = 2 * embedded if s.max_num_gen_batches > 1 else embedded
    responses = s.responses_per_device if s.engine == "builtin" else s.val_batch_size
    rows = min(responses, max(1, s.kv_cache_tokens // max(1, s.completion_tokens)))
    # Prompts are encoded together up to a bound, a longer one alone.
    encoded = max(s.prompt_tokens, min(s.encoder_batch_tokens, embedded * s.prompt_tokens))
    patches = encoded * vision.spatial_merge_size**2
    return DeviceMemory(
        weights=weights,
        gradients=_gradients(s, trained),
        large_gradients=sum(large) * width,
        optimizer=optimizer,
        reference=parameters.language_model * width if s.reference == "device" else 0,
        adapted_experts=_adapted_experts(config, s),
        media_features=held * s.prompt_tokens * hidden * width * family_of_config(config).visual_rows(config),
        kv_cache=kv_cache_bytes(config, s),
        rollout_logits=0 if s.task == "sft" else rows * text.vocab_size * SAMPLER_BYTES,
        encoders_at_work=patches * vision.hidden_size * VISION_BYTES * width,
        activations=trace.activation_bytes,
        transfer_buffer=max(trace.sizes, default=0) * width if s.offload and s.stage < 3 else 0,
        buckets=buckets,
        overhead=overhead_bytes,
        rollout_engine=int(s.engine_share * device_bytes),
        engine_sleeps=s.engine_sleeps,
    )


def _gradients(s: RunSettings, trained: int) -> int:
    """Gradients on one device between the first backward pass and the optimizer's step."""
    if s.stage == 0:
        return trained * s.weight_bytes
    if s.sums_on_device:  # one float32 partition, which an optimizer on the device takes as it is
        return trained * FLOAT32 // s.devices
    if s.offload:
        return 0
    # The sums, and the float32 copy that the optimizer takes.
    sums = trained * (FLOAT32 if s.fp32_sums else s.weight_bytes) // (s.devices if s.stage >= 2 else 1)
    return sums + trained * FLOAT32 // s.devices


def host_memory(
    settings: RunSettings, parameters: Parameters, trace: StepTrace, available: int | None = None
) -> HostMemory:
    """Memory of one machine at its peak.

    Args:
        available: bytes that it has; decides whether an offloaded optimizer is pinned, if the settings do not.
    """
    s, here = settings, settings.processes_per_node
    language_model = parameters.language_model * s.weight_bytes * here
    reference = language_model if s.reference == "host" else 0
    workers = here * s.num_workers * WORKER_BYTES
    shared = here * shared_memory(s)

    def memory(pinned: bool) -> HostMemory:
        largest = max(trace.sizes, default=0)
        own = offloaded_memory(
            trace.trained, largest, s.weight_bytes, s.devices, s.stage, s.fp32_sums, s.accumulate > 1, pinned
        )
        kept = here if s.offload else 0
        return HostMemory(
            optimizer=kept * (own.masters + own.gradients + own.moments),
            gradient_sums=kept * own.sums,
            staging=kept * (own.weights + own.largest),
            reference=reference,
            data_workers=workers,
            shared_memory=shared,
            # A reference on the device is copied there weight by weight; one on the host is made there.
            loading=parameters.total * s.weight_bytes * here + reference,
            pinned=pinned,
            rollout_engine=here * parameters.total * s.weight_bytes if s.engine_sleeps else 0,
        )

    plain, pinned = memory(False), memory(True)
    if not s.offload or s.pin_memory is False:
        return plain
    if s.pin_memory:
        return pinned
    others = pinned.reference + pinned.rollout_engine + pinned.data_workers + pinned.shared_memory
    fits = available is not None and pinned.running - others <= SHARE_OF_HOST * (available - others)
    return pinned if fits else plain


def shared_memory(settings: RunSettings) -> int:
    """Most bytes of `/dev/shm` that the data workers of one process use, in training or in validation.

    `num_workers * prefetch` parts of a batch wait there, and one more while it is taken.
    """
    s = settings
    if not s.num_workers:
        return 0
    part = max(-(-batch // s.num_workers) for batch in (s.batch_size, s.val_batch_size))
    return (s.num_workers * s.prefetch + 1) * part * prompt_bytes(s)


def prompt_bytes(settings: RunSettings) -> int:
    """Bytes of a prompt with the longest media: packed frames in 8 bits, those made smaller for the student too,
    audio and its mel spectrum in float32, token ids."""
    pixels = MAX_FRAME_PIXELS + (settings.max_pixels if settings.max_pixels < MAX_FRAME_PIXELS else 0)
    samples = int(MAX_AUDIO_SECONDS * SAMPLING_RATE)
    return NUM_FRAMES * 3 * pixels + (samples + MEL_BINS * samples // MEL_HOP) * FLOAT32 + 8 * settings.prompt_tokens
