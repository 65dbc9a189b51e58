"""FLOPs and seconds of an optimizer step, worked out by hand on numbers small enough for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import Qwen2_5OmniThinkerConfig

from avrt.planning.cost import Hardware, StepCost, step_cost
from avrt.planning.dry_run import StepFlops
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
)
HARDWARE = Hardware(
    peak_tflops=1e-6,  # with the efficiency 500,000 operations a second
    efficiency=0.5,
    bandwidth_gb=1e-6,  # with the efficiency 500 bytes a second
    bandwidth_efficiency=0.5,
    host_bandwidth_gb=1e-6,
    link_gb=1e-6,
)


def cost(settings: RunSettings = SETTINGS) -> StepCost:
    return step_cost(CONFIG, settings, PARAMETERS, 1000, StepFlops(forward=1000, step=5000), HARDWARE)


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


def test_seconds() -> None:
    """Devices work at the same time: six prompts and 24 responses on each."""
    weights = 10 * (1000 + 50) * 2  # read once per decoded token
    cache = (6 * 100 + 24 * 5) * 10 * 32  # 32 bytes per token: 2 layers, keys and values, one head of 4, 2 bytes
    assert cost().seconds == pytest.approx(
        {
            "embedding": 6 * 1_160_000 / 5e5,
            "prefill": 6 * 520_000 / 5e5,
            "decoding": (weights + cache) / 500,
            "reference": 3 * 1000 / 5e5,
            "training": 3 * 5000 / 5e5,
            # 32 bytes of host memory for each of the machine's 1000 trained weights; gradients there, weights back.
            "optimizer": 1000 * 32 / 1000 + 2 * 500 * 2 / 1000,
        }
    )


def test_what_is_done_once_per_window_is_shared_by_its_iterations() -> None:
    once, twice = cost(), cost(replace(SETTINGS, num_iterations=2))
    for phase in ("embedding", "prefill", "decoding", "reference"):
        assert twice.seconds[phase] == pytest.approx(once.seconds[phase] / 2)
    assert twice.seconds["training"] == once.seconds["training"]


def test_dynamic_sampling_repeats_the_rollout_but_not_reference_and_training() -> None:
    once, up_to = cost(), cost(replace(SETTINGS, max_num_gen_batches=3))
    assert up_to.seconds == once.seconds
    rollout = once.seconds["embedding"] + once.seconds["prefill"] + once.seconds["decoding"]
    assert up_to.most_seconds == pytest.approx(once.total_seconds + 2 * rollout)
    assert once.most_seconds == once.total_seconds


def test_a_reference_on_the_host_is_copied_to_the_device() -> None:
    assert cost(replace(SETTINGS, reference="host")).seconds["reference"] == pytest.approx(
        cost().seconds["reference"] + 1100 * 2 / 1000
    )


def test_supervised_training_samples_nothing() -> None:
    step = cost(replace(SETTINGS, task="sft", num_generations=1, reference="none", offload=False))
    assert set(step.seconds) == {"embedding", "training"}
