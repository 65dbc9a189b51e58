"""Plans of a language model that is a mixture of experts, against the published counts and hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.families.registry import family_of_config
from avrt.model.lora import LANGUAGE_MODEL_MATRICES, LoRAConfig
from avrt.planning.cost import decoding_steps, plain_launches, step_cost
from avrt.planning.dry_run import StepFlops, StepTrace, count_flops
from avrt.planning.hardware import Hardware
from avrt.planning.memory import device_memory, kv_bytes_per_token
from avrt.planning.settings import read_settings
from avrt.planning.shapes import count_parameters, load_config
from tests.planning.test_planning import CONFIGS, SETTINGS

PRESET = CONFIGS / "grpo_qwen3_omni_30b_lora.yaml"


@pytest.mark.parametrize("variant", ["Instruct", "Thinking"])
def test_published_parameter_counts_with_experts(variant: str) -> None:
    """31,719,205,488 parameters are those of the published files; 8 of 128 experts work on a token."""
    config, source = load_config(f"Qwen/Qwen3-Omni-30B-A3B-{variant}")
    found = count_parameters(config)
    assert variant in source
    assert found.total == 31_719_205_488
    experts = 3 * 2048 * 768
    attention = 2 * 2048 * 32 * 128 + 2 * 2048 * 4 * 128 + 2 * 128
    layer = attention + 2 * 2048 + 128 * 2048 + 128 * experts
    assert found.language_model == 48 * layer + 2048 + 2 * 152_064 * 2048
    assert found.active == found.language_model - 48 * 120 * experts
    assert (found.vision, found.audio) == (538_631_408, 647_927_168)


def test_flops_of_experts_are_those_of_the_chosen_ones() -> None:
    """Two operations per weight that a token passes; gradients of activations cost as much, and frozen weights none."""
    config, _ = load_config("Qwen/Qwen3-Omni-30B-A3B-Instruct")
    config.text_config.num_hidden_layers = 3
    parameters = count_parameters(config)
    attention_only = LoRAConfig(rank=1, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    settings = replace(
        SETTINGS,
        batch_size=1,
        prompt_tokens=500,
        weight_bytes=2,
        mean_completion_tokens=101,
        chunk_rows=256,
        lora=attention_only,
    )
    tokens, predicted = 500 + 4 * 100, 4 * 101
    flops = count_flops(config, settings)
    matrices = 2 * (parameters.active_layers * tokens + parameters.head * predicted)
    pairs = 500 * 500 + 4 * 100 * 600
    assert flops.forward == pytest.approx(matrices + 3 * 4 * pairs * 32 * 128, rel=0.01)
    # The first layer's input needs no gradient; logits are computed again.
    assert flops.step == pytest.approx(2 * flops.forward + 2 * parameters.head * predicted, rel=0.1)


def test_layers_that_differ_are_all_counted() -> None:
    """A dense layer behind two with experts, twice as wide as the eight experts of a token."""
    config, _ = load_config("Qwen/Qwen3-Omni-30B-A3B-Instruct")
    text = config.text_config
    text.num_hidden_layers, text.mlp_only_layers, text.intermediate_size = 3, [2], 16 * 768
    settings = replace(SETTINGS, batch_size=1, prompt_tokens=500, weight_bytes=2, mean_completion_tokens=101)
    uneven = count_flops(config, settings).forward
    text.mlp_only_layers = []
    assert uneven - count_flops(config, settings).forward == pytest.approx(2 * 900 * 3 * 2048 * 8 * 768, rel=0.01)


def test_a_step_reads_the_experts_that_any_token_chooses() -> None:
    """One token reads 8 of 128 experts; of 16 tokens, an expert is left out with probability (15/16) ** 16."""
    config, _ = load_config("Qwen/Qwen3-Omni-30B-A3B-Instruct")
    shape = family_of_config(config).language_shape(config)
    assert shape.parameters_read(1) == pytest.approx(48 * 8 * 3 * 2048 * 768)
    assert shape.parameters_read(16) == pytest.approx(48 * 128 * 3 * 2048 * 768 * (1 - (15 / 16) ** 16))
    assert shape.parameters_read(10_000) == pytest.approx(shape.expert_parameters)


def test_keys_and_launches() -> None:
    """Four key heads of 128, wider together than a 32nd of the model; 48 layers of 80 kernels."""
    config, _ = load_config("Qwen/Qwen3-Omni-30B-A3B-Instruct")
    assert kv_bytes_per_token(config, 2) == 2 * 48 * 4 * 128 * 2
    assert plain_launches(config) == 48 * 80 + 22 + 13


def test_adapters_on_experts_cost_time_and_memory() -> None:
    """Six more passes over all experts in every step, and one layer's matrices while it is computed."""
    settings = read_settings([str(PRESET)], devices=1, samples=1_000)
    assert settings.lora is not None
    both = replace(settings, lora=replace(settings.lora, target_modules=LANGUAGE_MODEL_MATRICES))
    config, _ = load_config(settings.student)
    parameters = count_parameters(config)
    shape = family_of_config(config).language_shape(config)
    micro = StepFlops(1, 1)
    plain, more = (step_cost(config, s, parameters, 1, micro, Hardware()) for s in (settings, both))
    passes = decoding_steps(settings) * 6 * shape.expert_parameters * 2 / Hardware().decoding_bandwidth
    assert more.decoding["bytes"] - plain.decoding["bytes"] == pytest.approx(passes)
    assert more.flops["decoding"] > plain.flops["decoding"]
    trace = StepTrace(0, 1)
    before, after = (device_memory(config, s, parameters, trace) for s in (settings, both))
    assert after.rollout - before.rollout == 128 * 3 * 2048 * 768 * 2
    assert after.training == before.training


@pytest.mark.parametrize("engine", ["vllm", {"class_path": "avrt.rollout.vllm.VLLMServers"}], ids=str)
def test_an_engine_that_the_run_refuses(engine: Any, tmp_path: Path) -> None:
    overlay = tmp_path / "engine.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"init_args": {"rollout": engine}}}))
    with pytest.raises(ValueError, match="Qwen3-Omni, vLLM computes another function"):
        read_settings([str(PRESET), str(overlay)], devices=1, samples=1_000)
