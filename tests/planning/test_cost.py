"""FLOPs and seconds of an optimizer step, worked out by hand on numbers small enough for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import Qwen2_5OmniThinkerConfig

from avrt.planning.cost import StepCost, crossing_bytes, launches, step_cost
from avrt.planning.dry_run import StepFlops
from avrt.planning.hardware import Hardware
from avrt.planning.settings import RunSettings
from avrt.planning.shapes import Parameters, load_config

CONFIG = Qwen2_5OmniThinkerConfig(
    text_config={
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 16,
    },
    vision_config={"hidden_size": 4, "spatial_merge_size": 2, "fullatt_block_indexes": [0]},
)
PARAMETERS = Parameters(language_model=1100, embeddings=50, head=50, vision=400, audio=200)  # layers: 1000
SETTINGS = RunSettings(
    task="grpo",
    student="",
    devices=2,
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
    kv_cache_tokens=10**6,
    longest_tokens=16,
    grad_accum_dtype="fp32",
)
HARDWARE = Hardware(
    peak_tflops=1e-6,  # with the efficiency 500,000 operations a second
    efficiency=0.5,
    bandwidth_gb=1e-6,  # with the efficiency 500 bytes a second
    bandwidth_efficiency=0.5,
    launch_us=1000.0,
    host_bandwidth_gb=2e-6,
    link_gb=1e-6,
    pageable_link_gb=1e-7,
)


def cost(settings: RunSettings = SETTINGS, hardware: Hardware = HARDWARE, pinned: bool = True) -> StepCost:
    return step_cost(CONFIG, settings, PARAMETERS, 1000, StepFlops(forward=1000, step=5000), hardware, pinned)


def test_counts() -> None:
    """2 prompts x 3 micro-batches x 2 devices, 4 responses of 10 tokens each."""
    step = cost()
    assert (step.prompt_tokens, step.response_tokens, step.encoder_runs) == (12 * 100, 12 * 4 * 10, 12)


def test_flops() -> None:
    step = cost()
    # 400 patches: two per vision weight and patch, full attention over a quarter of the pairs in one layer;
    # 500 audio positions.
    embedding = 2 * 400 * 400 + 4 * 400**2 / 4 * 4 + 2 * 200 * 500
    # Two per layer weight and token; causal attention in two layers of width 8.
    prefill = 2 * 1000 * 100 + 2 * 4 * 100**2 / 2 * 8
    assert prefill == 520_000
    # Per token: two per weight of layers and head (16 x 8), attention to the prompt and half of the response.
    decoding = 10 * (2 * (1000 + 128) + 2 * 4 * 8 * 105)
    assert decoding == 89_760
    assert step.flops == {
        "embedding": 12 * embedding,
        "prefill": 12 * prefill,
        "decoding": 48 * decoding,
        "reference": 2 * 3 * 1000,
        "training": 2 * 3 * 5000,
    }
    assert step.total_flops == 13_920_000 + 6_240_000 + 4_308_480 + 6_000 + 30_000


DECODING = {
    # 16 steps to the longest response; 2 layers of 50 kernels, 22 others, 13 of sampling; a millisecond each.
    "launches": 16 * (2 * 50 + 22 + 13) * 1e-3,
    # In each of the 16 steps weights of layers and head (1,000 + 16 x 8) in 2 bytes, and the keys and values of 6
    # prompts of 100 tokens; of 24 responses half of their 10 tokens in each of 10 steps. A token's keys and values
    # are 32 bytes: 2 layers, both, one head of 4, 2 bytes. 500 bytes a second.
    "bytes": (16 * 1128 * 2 + (6 * 100 * 16 + 24 * 10 * 5) * 32) / 500,
    # 24 responses on each device, see `test_flops`; 500,000 a second.
    "flops": 24 * 89_760 / 5e5,
}


def test_seconds() -> None:
    """Devices work at the same time: six prompts and 24 responses on each."""
    assert (DECODING["bytes"], DECODING["launches"], DECODING["flops"]) == pytest.approx((763.392, 2.16, 4.30848))
    step = cost()
    assert step.decoding == pytest.approx(DECODING)
    assert step.seconds == pytest.approx(
        {
            "embedding": 6 * 1_160_000 / 5e5,
            "prefill": 6 * 520_000 / 5e5,
            "decoding": 763.392,
            "reference": 3 * 1000 / 5e5,
            "training": 3 * 5000 / 5e5,
            # 42 bytes of host memory for each of the machine's 1,000 trained weights, 2,000 a second.
            "optimizer": 1000 * 42 / 2000,
            # A device's 500 weights: gradients there in 4 bytes, weights back in 2; 1,000 bytes a second.
            "transfers": 500 * (4 + 2) / 1000,
        }
    )


@pytest.mark.parametrize(
    ("faster", "bound"),
    [
        ({}, "bytes"),
        ({"bandwidth_gb": 1.0}, "flops"),
        ({"bandwidth_gb": 1.0, "peak_tflops": 1.0}, "launches"),
    ],
)
def test_decoding_is_as_slow_as_its_slowest_bound(faster: dict[str, float], bound: str) -> None:
    step = cost(hardware=replace(HARDWARE, **faster))
    assert step.decoding[bound] == pytest.approx(DECODING[bound])
    assert step.seconds["decoding"] == step.decoding[bound] == max(step.decoding.values())


def test_a_graph_is_launched_once_a_token() -> None:
    assert cost(replace(SETTINGS, decoding="graphs")).decoding["launches"] == pytest.approx(16 * 1e-3)


def test_steps_of_the_longest_response() -> None:
    """The limit where nothing is said; responses that have ended are not computed."""
    limit = cost(replace(SETTINGS, longest_tokens=0))
    assert limit.decoding["launches"] == pytest.approx(20 * 135e-3)
    assert limit.decoding["flops"] == pytest.approx(DECODING["flops"])


def test_a_window_in_parts_reads_the_weights_for_each() -> None:
    """A prompt with 4 responses of 20 tokens takes 180: two fit, so 6 prompts are 3 parts of 16 steps."""
    parts = cost(replace(SETTINGS, kv_cache_tokens=400))
    assert parts.decoding["launches"] == pytest.approx(3 * DECODING["launches"])
    assert parts.decoding["bytes"] == pytest.approx(DECODING["bytes"] + 2 * 16 * 1128 * 2 / 500)


def test_launches_of_the_published_students() -> None:
    """28 layers of 50, and 36."""
    for name, number in (("7B", 1435), ("3B", 1835)):
        config, _ = load_config(f"Qwen/Qwen2.5-Omni-{name}")
        assert launches(config, SETTINGS) == number


@pytest.mark.parametrize(
    ("changes", "crossing"),
    [
        ({}, 4 + 2),
        # The first of three is written, two are read and written, in 2 bytes; then the sum and the weight as above.
        ({"grad_accum_dtype": "bf16"}, 2 + 2 * 4 + 4 + 2),
        ({"grad_accum_dtype": "bf16", "accumulate": 8}, 36),
        ({"grad_accum_dtype": "bf16", "accumulate": 1}, 4 + 2),
        ({"accumulate": 8}, 4 + 2),
        # Weights of float32 have no wider type: DeepSpeed sums them in host memory.
        ({"weight_bytes": 4}, 4 + 2 * 8 + 4 + 4),
        # ZeRO-3: each of three is written and read.
        ({"stage": 3}, 3 * 8 + 4 + 2),
        ({"stage": 3, "grad_accum_dtype": "bf16"}, 3 * 4 + 4 + 2),
        # Stage 1 does not know sums in float32.
        ({"stage": 1}, 2 + 2 * 4 + 4 + 2),
        ({"offload": False}, 0),
    ],
)
def test_bytes_that_cross(changes: dict[str, Any], crossing: int) -> None:
    settings = replace(SETTINGS, **changes)
    assert crossing_bytes(settings) == crossing
    step = cost(settings)
    assert step.crossed == crossing
    assert step.seconds.get("transfers", 0) == pytest.approx(500 * crossing / 1000)


def test_pageable_memory_is_slower() -> None:
    assert cost(pinned=False).seconds["transfers"] == pytest.approx(500 * 6 / 100)


def test_an_optimizer_for_each_machine() -> None:
    """Four devices on two machines: each machine updates half of the weights, each device moves a quarter."""
    step = cost(replace(SETTINGS, devices=4, nodes=2))
    assert step.seconds["optimizer"] == pytest.approx(500 * 42 / 2000)
    assert step.seconds["transfers"] == pytest.approx(250 * 6 / 1000)


def test_what_is_done_once_per_window_is_shared_by_its_iterations() -> None:
    once, twice = cost(), cost(replace(SETTINGS, num_iterations=2))
    assert twice.decoding["launches"] == pytest.approx(once.decoding["launches"] / 2)
    for phase in ("embedding", "prefill", "decoding", "reference"):
        assert twice.seconds[phase] == pytest.approx(once.seconds[phase] / 2)
    assert twice.seconds["training"] == once.seconds["training"]


def test_dynamic_sampling_repeats_the_rollout_but_not_reference_and_training() -> None:
    once, up_to = cost(), cost(replace(SETTINGS, max_num_gen_batches=3))
    assert up_to.seconds == once.seconds
    rollout = once.seconds["embedding"] + once.seconds["prefill"] + once.seconds["decoding"]
    assert up_to.most_seconds == pytest.approx(once.total_seconds + 2 * rollout)
    assert once.most_seconds == once.total_seconds


def test_sampling_ahead_costs_the_longer_of_the_two() -> None:
    """Decoding and prefill are elsewhere; the encoders run here, for training too."""
    plain, ahead = cost(), cost(replace(SETTINGS, engine="elsewhere", sample_ahead=True))
    assert ahead.seconds == plain.seconds
    sampling = plain.seconds["prefill"] + plain.seconds["decoding"]
    assert ahead.sampling_seconds == pytest.approx(sampling)
    assert ahead.total_seconds == pytest.approx(max(sampling, plain.total_seconds - sampling))
    assert ahead.total_seconds < plain.total_seconds


def test_a_reference_on_the_host_is_copied_to_the_device() -> None:
    assert cost(replace(SETTINGS, reference="host")).seconds["reference"] == pytest.approx(
        cost().seconds["reference"] + 1100 * 2 / 1000
    )


def test_supervised_training_samples_nothing() -> None:
    step = cost(replace(SETTINGS, task="sft", num_generations=1, reference="none", offload=False))
    assert set(step.seconds) == {"embedding", "training"}
    assert step.decoding == {}
