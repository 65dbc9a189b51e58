"""Positions, media inputs and log-probabilities do not depend on torch's default dtype, which precision plugins set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, HalfPrecision, MixedPrecision
from torch import Tensor

from avrt.evaluation.records.record import Record
from avrt.evaluation.running_scores import RunningScores
from avrt.model.encoding import Prompt
from avrt.model.student import Student
from avrt.model.token_logprobs import token_logprobs
from tests.tiny_student import KINDS, load_plain, load_student, make_sample, plain_inputs, random_responses

SECONDS = [*(7 + i / 3 for i in range(25)), 61.7, 1019.3, 3000.0]
"""Lengths of clips: AVQA's, and longer ones up to Video-MME's."""


@contextmanager
def bfloat16_default() -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "bfloat16 default": bfloat16_default,
    "bf16-true": HalfPrecision("bf16-true").forward_context,
    "DeepSpeed bf16-true": DeepSpeedPrecision("bf16-true").forward_context,
    "bf16-mixed": MixedPrecision("bf16-mixed", "cpu").forward_context,
}
"""Evaluation's precision plugin, and those of training."""


@pytest.fixture(scope="module")
def student(student_folder: Path) -> Student:
    return load_student(student_folder)


@pytest.fixture(scope="module")
def half(student_folder: Path) -> Student:
    return load_student(student_folder, dtype="bfloat16")


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_positions_are_plain_transformers(
    student: Student, context: Callable[[], AbstractContextManager[None]]
) -> None:
    """Equal, at every length, to those of plain transformers for the processor's output under the default dtype."""
    model = load_plain(Path(student.config.path), torch.float32).model
    for i, seconds in enumerate(SECONDS):
        sample = make_sample("audio_video", i, seconds=seconds, audio_seconds=0.3)
        prompt = student.encoder.encode(sample)
        inputs = plain_inputs(student, prompt)
        expected, _ = model.get_rope_index(
            inputs["input_ids"],
            video_grid_thw=inputs["video_grid_thw"],
            attention_mask=inputs["attention_mask"],
            audio_seqlens=inputs["feature_attention_mask"].sum(-1),
            second_per_grids=inputs["video_second_per_grid"],
        )
        with context():
            positions = student.position_ids(prompt)
            embedded = student.embed([prompt])[0]
        assert torch.equal(positions, expected[:, 0]), f"{seconds} s"
        assert torch.equal(embedded.position_ids, expected[:, 0]), f"{seconds} s"


def media_inputs(prompt: Prompt) -> list[Tensor]:
    tensors = (prompt.input_ids, prompt.frames, prompt.input_features)
    return [tensor for tensor in tensors if tensor is not None]


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_the_same(student: Student, kind: str, context: Callable[[], AbstractContextManager[None]]) -> None:
    sample = make_sample(kind, 1)
    expected = student.encoder.encode(sample)
    with context():
        prompt = student.encoder.encode(sample)
    assert prompt.second_per_grid == expected.second_per_grid
    for one, other in zip(media_inputs(prompt), media_inputs(expected), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_training_agree(half: Student, kind: str) -> None:
    """A bfloat16 student under evaluation's plugin and under DeepSpeed's: features and log-probabilities bitwise."""
    sample = make_sample(kind, 2, seconds=61.7)
    responses = [[random_responses([9], 300)[0]]]
    found = []
    for name in ("DeepSpeed bf16-true", "bf16-true"):
        with CONTEXTS[name](), torch.no_grad():
            embedded = half.embed([half.encoder.encode(sample)])
            scores = token_logprobs(half.language_model, embedded, responses)
        found.append((embedded[0].position_ids, embedded[0].media_features, scores.logprobs, scores.entropies))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_precisions_differ_by_rounding_only(student: Student, half: Student, kind: str) -> None:
    """Training at 32-true and bf16-mixed against evaluation at bf16-true: equal positions, near log-probabilities."""
    sample = make_sample(kind, 2, seconds=61.7)
    responses = [[random_responses([9], 300)[0]]]
    settings = {"32-true": (student, nullcontext), "bf16-mixed": (student, CONTEXTS["bf16-mixed"])}
    with CONTEXTS["bf16-true"](), torch.no_grad():
        embedded = half.embed([half.encoder.encode(sample)])
        evaluated = token_logprobs(half.language_model, embedded, responses).logprobs
    for one, context in settings.values():
        with context(), torch.no_grad():
            trained = one.embed([one.encoder.encode(sample)])
            logprobs = token_logprobs(one.language_model, trained, responses).logprobs
        assert torch.equal(trained[0].position_ids, embedded[0].position_ids)
        torch.testing.assert_close(
            trained[0].media_features.float(), embedded[0].media_features.float(), rtol=0.05, atol=0.05
        )
        torch.testing.assert_close(logprobs, evaluated, rtol=0, atol=0.05)


def test_a_student_loaded_under_the_plugin(student_folder: Path, half: Student) -> None:
    """Lightning loads it with bfloat16 as the default: rotary frequencies and tables of positions are the same."""
    with HalfPrecision("bf16-true").module_init_context():
        loaded = load_student(student_folder, dtype="bfloat16")
    expected = dict(half.named_buffers()) | dict(half.named_parameters())
    found = dict(loaded.named_buffers()) | dict(loaded.named_parameters())
    assert found.keys() == expected.keys()
    assert any("inv_freq" in name for name in found)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
        assert "inv_freq" not in name or tensor.dtype == torch.float32, name


def test_running_means_count_whole_tokens() -> None:
    """In bfloat16 257 tokens would be 256."""
    scores = RunningScores()
    record = Record(
        id="a",
        benchmark="b",
        index=0,
        question="?",
        gold="A",
        options=("x", "y"),
        completion_tokens=257,
        correct_strict=True,
    )
    with bfloat16_default():
        scores.add([record])
    assert scores.shares()["completion_tokens"] == 257
