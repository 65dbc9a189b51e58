"""Adapters of every family, on attention and on what takes the place of an MLP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avrt.model.lora import LANGUAGE_MODEL_MATRICES, LoRAConfig, adapters_off, add_lora, merge_lora
from avrt.model.student import Student
from avrt.model.token_logprobs import token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import SamplingConfig
from avrt.rollout.policy_weights import policy_weights
from tests.tiny_student import load_plain, load_student, mixed_samples, random_responses

ATTENTION = LANGUAGE_MODEL_MATRICES[:4]
RESPONSES = [random_responses([5, 7], 300, seed=i) for i in range(4)]


def adapted(folder: Path, matrices: tuple[str, ...], **settings: Any) -> tuple[Student, LoRAConfig]:
    """A student with adapters that change something."""
    student, config = load_student(folder, **settings), LoRAConfig(rank=4, alpha=8, target_modules=matrices)
    add_lora(student, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return student, config


def logprobs(student: Student) -> Tensor:
    embedded = student.embed([student.encoder.encode(sample) for sample in mixed_samples()])
    scores = token_logprobs(student.language_model, embedded, RESPONSES)
    return scores.logprobs[scores.mask]


@pytest.fixture(params=["attention", "all"])
def matrices(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ATTENTION if request.param == "attention" else LANGUAGE_MODEL_MATRICES


def test_merged_switched_off_and_transferred(layout_folder: Path, matrices: tuple[str, ...]) -> None:
    """Merging changes nothing; off is the student as it was; another engine gets the merged weights."""
    student, config = adapted(layout_folder, matrices, dtype="float64")
    text_model = student.thinker.model.language_model
    before = logprobs(student).detach()
    with adapters_off(text_model):
        without = logprobs(student).detach()
    torch.testing.assert_close(without, logprobs(load_student(layout_folder, dtype="float64")), rtol=0, atol=1e-12)
    assert (before - without).abs().max() > 1e-3
    sent = {weight.name: weight.tensor() for weight in policy_weights(student, [])}
    merge_lora(student, config)
    assert not any("lora" in name or "base_layer" in name for name, _ in student.named_modules())
    torch.testing.assert_close(logprobs(student), before, rtol=0, atol=1e-6)
    published = {
        name: weight
        for part in ("model.language_model.", "lm_head.")
        for key, value in student.thinker.state_dict().items()
        if key.startswith(part)
        for name, weight in student.family.published_weights(key, value)
    }
    assert sent.keys() == published.keys()
    for name, weight in published.items():
        torch.testing.assert_close(sent[name], weight, rtol=0, atol=1e-12)


def test_the_function_is_that_of_multiplied_out_weights(layout_folder: Path, matrices: tuple[str, ...]) -> None:
    """Against plain weights to which ``alpha / rank B A`` was added by hand, expert by expert."""
    student, config = adapted(layout_folder, matrices, dtype="float64")
    weights = load_plain(layout_folder, torch.float64).state_dict()
    adapters = {name.removeprefix("thinker."): value for name, value in student.named_parameters()}
    for name, a in adapters.items():
        if "lora_A" not in name:
            continue
        b = adapters[name.replace("lora_A", "lora_B")]
        layer = name.partition(".lora_A")[0]
        if "experts" not in name:
            weights[f"{layer}.weight"] += config.alpha / config.rank * (b @ a)
            continue
        # The inner adapters are of the first product, the outer ones of the second.
        inner = layer.endswith("base_layer")
        target = layer.removesuffix(".base_layer") + (".gate_up_proj" if inner else ".down_proj")
        count = len(weights[target])
        if a.shape[1] != weights[target].shape[2]:  # peft has nested them the other way round
            target = target.replace("gate_up_proj", "@").replace("down_proj", "gate_up_proj").replace("@", "down_proj")
        for expert in range(count):
            rows = slice(expert * config.rank, (expert + 1) * config.rank)
            weights[target][expert] += config.alpha / config.rank * (b[:, expert::count] @ a[rows])
    plain = load_student(layout_folder, dtype="float64")
    plain.thinker.load_state_dict(weights)
    torch.testing.assert_close(logprobs(student), logprobs(plain), rtol=0, atol=1e-6)


def test_every_adapter_learns(layout_folder: Path, matrices: tuple[str, ...]) -> None:
    student, _ = adapted(layout_folder, matrices)
    logprobs(student).sum().backward()
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("decoding", ["plain", "static"])
def test_what_is_sampled_is_what_is_scored(layout_folder: Path, matrices: tuple[str, ...], decoding: Any) -> None:
    student, _ = adapted(layout_folder, matrices)
    embedded = student.embed([student.encoder.encode(sample) for sample in mixed_samples()])
    sampling = SamplingConfig(max_completion_length=12, decoding=decoding)
    engine = TransformersRollout(student.language_model, sampling, student.eos_token_ids, student.banned_tokens)
    groups = engine.generate(embedded, 3, seeds=range(len(embedded)))
    tokens = [[response.token_ids for response in group] for group in groups]
    with torch.no_grad():
        scores = token_logprobs(student.language_model, embedded, tokens, banned=student.banned_tokens)
    sampled = torch.cat([response.logprobs for group in groups for response in group])
    torch.testing.assert_close(scores.logprobs[scores.mask], sampled, rtol=0, atol=5e-5)


def test_fused_matrices_are_named_together(experts_folder: Path) -> None:
    with pytest.raises(ValueError, match="gate_proj and up_proj of an expert are one matrix; name both or neither"):
        add_lora(load_student(experts_folder), LoRAConfig(target_modules=("q_proj", "gate_proj")))
