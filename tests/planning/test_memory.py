"""Memory of a device and of a host, every part worked out by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from transformers import Qwen2_5OmniThinkerConfig

from avrt.media.defaults import MAX_FRAME_PIXELS
from avrt.model.lora import LoRAConfig
from avrt.planning.dry_run import StepTrace
from avrt.planning.memory import DeviceMemory, HostMemory, device_memory, host_memory, prompt_bytes, shared_memory
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters

CONFIG = Qwen2_5OmniThinkerConfig(
    text_config={
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 16,
    },
    vision_config={"hidden_size": 4, "spatial_merge_size": 2},
)
PARAMETERS = Parameters(language_model=1000, embeddings=128, head=128, vision=400, audio=200)
TRACE = StepTrace(activation_bytes=5000, trained=1000, sizes=(128, 128, 744))
SETTINGS = RunSettings(
    task="grpo",
    student="",
    devices=4,
    nodes=1,
    weight_bytes=2,
    stage=2,
    offload=True,
    batch_size=2,
    accumulate=3,
    gradient_checkpointing=True,
    chunk_rows=64,
    prompt_tokens=100,
    completion_tokens=20,
    mean_completion_tokens=10,
    num_generations=4,
    reference="device",
    kv_cache_tokens=400,
    encoder_batch_tokens=150,
    reduce_bucket_size=100,
    overlap_comm=True,
    grad_accum_dtype="fp32",
    num_workers=4,
    prefetch=2,
    val_batch_size=8,
)
DEVICE = DeviceMemory(
    weights=(1000 + 400 + 200) * 2,
    gradients=1000 * 4 // 4,  # a float32 quarter
    large_gradients=(128 + 128 + 744) * 2,  # all are larger than a bucket of 100
    optimizer=0,
    reference=1000 * 2,
    media_features=6 * 100 * 8 * 2,  # 2 x 3 prompts of 100 positions of width 8
    kv_cache=2 * (100 + 4 * 20) * 32,  # two prompts fit into 400; 32 bytes a token: 2 layers, both, one head of 4
    rollout_logits=20 * 16 * 20,  # 400 / 20 rows of 16 entries
    encoders_at_work=150 * 4 * 4 * 24 * 2,  # 150 positions of 4 patches, width 4
    activations=5000,
    transfer_buffer=744 * 2,
    buckets=2 * 100 * 2,
    overhead=7,
)
PROMPT = 8 * 3 * MAX_FRAME_PIXELS + 160_000 * 4 + 128 * 1000 * 4 + 100 * 8
"""Frames in 8 bits, 10 s of audio, its spectrum, token ids."""


def device(**changes: Any) -> DeviceMemory:
    return device_memory(CONFIG, replace(SETTINGS, **changes), PARAMETERS, TRACE, 7)


def host(available: int | None = None, **changes: Any) -> HostMemory:
    return host_memory(replace(SETTINGS, **changes), PARAMETERS, TRACE, available)


def changed(now: Any, base: Any) -> dict[str, int]:
    return {name: value for name, value in asdict(now).items() if value != asdict(base)[name]}


def test_a_device() -> None:
    assert device() == DEVICE
    # Weights, reference, buffer, features and overhead are always there.
    assert DEVICE.resident == 3200 + 2000 + 1488 + 9600 + 7
    assert DEVICE.rollout == DEVICE.resident + 115_200  # the encoders need more than cache and logits
    assert DEVICE.training == DEVICE.resident + 1000 + 2000 + 5000 + 400
    assert DEVICE.peak == DEVICE.rollout


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        # Sums in bfloat16 are in host memory.
        ({"grad_accum_dtype": "bf16"}, {"gradients": 0}),
        # On the device: the optimizer takes the float32 quarter as it is, and has masters and two moments there.
        ({"offload": False}, {"optimizer": 1000 * 12 // 4, "transfer_buffer": 0}),
        # A bfloat16 quarter, and a float32 copy of it.
        (
            {"offload": False, "grad_accum_dtype": "bf16"},
            {"gradients": 500 + 1000, "optimizer": 3000, "transfer_buffer": 0},
        ),
        # Stage 1: whole sums in bfloat16.
        ({"offload": False, "stage": 1}, {"gradients": 2000 + 1000, "optimizer": 3000, "transfer_buffer": 0}),
        # ZeRO-3: a quarter of the trained weights, sums in host memory.
        (
            {"stage": 3},
            {"weights": (250 + 600) * 2, "gradients": 0, "large_gradients": 0, "transfer_buffer": 0},
        ),
        (
            {"stage": 3, "offload": False},
            {
                "weights": (250 + 600) * 2,
                "gradients": 1000 + 1000,
                "optimizer": 3000,
                "large_gradients": 0,
                "transfer_buffer": 0,
            },
        ),
        # Without DeepSpeed: whole gradients and two moments.
        (
            {"stage": 0, "offload": False},
            {"gradients": 2000, "optimizer": 8000, "large_gradients": 0, "transfer_buffer": 0, "buckets": 0},
        ),
        ({"overlap_comm": False}, {"buckets": 200}),
        ({"reduce_bucket_size": 500}, {"buckets": 2000, "large_gradients": 744 * 2}),
        ({"reference": "host"}, {"reference": 0}),
        ({"max_num_gen_batches": 3}, {"media_features": 2 * 9600}),
    ],
)
def test_what_settings_change_on_a_device(changes: dict[str, Any], parts: dict[str, int]) -> None:
    assert changed(device(**changes), DEVICE) == parts


def test_adapters_leave_the_weights_and_train_few() -> None:
    trace = StepTrace(5000, 60, (30, 30))
    settings = replace(SETTINGS, lora=LoRAConfig(rank=1, alpha=1), offload=False, reference="adapters off")
    found = device_memory(CONFIG, settings, PARAMETERS, trace, 7)
    parts = changed(found, DEVICE)
    assert parts == {
        "weights": (60 + 1000 + 600) * 2,
        "gradients": 60 * 4 // 4,
        "optimizer": 60 * 12 // 4,
        "large_gradients": 0,
        "reference": 0,
        "transfer_buffer": 0,
    }


HOST = HostMemory(
    optimizer=4 * 250 * (4 + 4 + 8),  # four processes with a quarter each: masters, gradients, two moments
    gradient_sums=0,
    staging=4 * (250 + 744) * 2,  # new weights, and the largest gradient
    reference=0,
    data_workers=4 * 4 * 200_000_000,
    shared_memory=4 * (4 * 2 + 1) * 2 * PROMPT,  # nine parts of two prompts each wait in validation
    loading=4 * 1600 * 2,
)


def test_a_host() -> None:
    assert host() == HOST
    assert HOST.running == 16_000 + 7952 + 3_200_000_000 + HOST.shared_memory
    assert HOST.peak == HOST.running


def test_loading_is_the_peak_of_a_run_that_keeps_little_on_the_host() -> None:
    alone = host(offload=False, num_workers=0)
    assert alone == HostMemory(0, 0, 0, 0, 0, 0, loading=12_800)
    assert alone.peak == 12_800
    # A reference in host memory is made there, and stays; one on the device never was there.
    parked = host(offload=False, num_workers=0, reference="host")
    assert (parked.reference, parked.loading, parked.peak) == (4 * 2000, 12_800 + 8000, 20_800)


def test_processes_of_one_machine() -> None:
    two = host(devices=8, nodes=2)
    assert two.optimizer == 4 * 125 * 16
    assert two.shared_memory == HOST.shared_memory
    assert two.loading == HOST.loading


def test_sums_in_host_memory() -> None:
    assert changed(host(grad_accum_dtype="bf16"), HOST) == {"gradient_sums": 4 * 250 * 2}
    assert changed(host(stage=3), HOST) == {"gradient_sums": 4 * 250 * 4}


def test_pinned_where_the_host_has_the_memory() -> None:
    """Buffers of 1,000, 500 and 1,488 bytes become 1,024, 512 and 2,048."""
    pinned = {"optimizer": 4 * (1024 + 1024 + 2000), "staging": 4 * (512 + 2048), "pinned": True}
    assert changed(host(pin_memory=True), HOST) == pinned
    assert not host(pin_memory=False, available=10**12).pinned
    # It takes 26,432 bytes; 80 % of 33,040 that nothing else uses.
    others = HOST.data_workers + HOST.shared_memory
    assert changed(host(available=others + 33_040), HOST) == pinned
    assert host(available=others + 33_039) == HOST
    assert host() == HOST


def test_shared_memory() -> None:
    """Training waits for parts of one prompt, validation for parts of two."""
    assert prompt_bytes(SETTINGS) == PROMPT
    assert shared_memory(SETTINGS) == 9 * 2 * PROMPT
    assert shared_memory(replace(SETTINGS, val_batch_size=1)) == 9 * PROMPT
    assert shared_memory(replace(SETTINGS, num_workers=1, prefetch=1)) == 2 * 8 * PROMPT
    assert shared_memory(replace(SETTINGS, num_workers=0)) == 0
    # Frames made smaller for the student travel beside the packed ones.
    assert prompt_bytes(replace(SETTINGS, max_pixels=1000)) == PROMPT + 8 * 3 * 1000


ENGINE = {"engine": "in process", "engine_share": 0.25}


def test_an_engine_that_sleeps_is_on_the_device_while_it_samples() -> None:
    settings = replace(SETTINGS, **ENGINE, engine_sleeps=True)
    found = device_memory(CONFIG, settings, PARAMETERS, TRACE, 7, 1_000_000)
    assert found.rollout_engine == 250_000
    assert found.training == DEVICE.training
    assert found.rollout == DEVICE.resident + 250_000 + DEVICE.encoders_at_work
    # Validation samples one answer to each of 8 questions with the built-in engine; 3 prompts of 120 tokens fit.
    assert found.kv_cache == 3 * 120 * 32
    host = host_memory(settings, PARAMETERS, TRACE)
    assert host.rollout_engine == 4 * PARAMETERS.total * 2
    assert host.running == host_memory(SETTINGS, PARAMETERS, TRACE).running + host.rollout_engine


def test_an_engine_that_stays_is_always_on_the_device() -> None:
    found = device_memory(CONFIG, replace(SETTINGS, **ENGINE), PARAMETERS, TRACE, 7, 1_000_000)
    assert found.training == DEVICE.training + 250_000
    assert host_memory(replace(SETTINGS, **ENGINE), PARAMETERS, TRACE).rollout_engine == 0


def test_an_engine_elsewhere_needs_nothing_here() -> None:
    found = device_memory(CONFIG, replace(SETTINGS, engine="elsewhere"), PARAMETERS, TRACE, 7, 1_000_000)
    assert found.rollout_engine == 0
    assert found.resident == DEVICE.resident
