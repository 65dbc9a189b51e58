"""The first-use check: healthy shared prompts pass in every precision, and a mask that hides one key does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avrt.model import self_check
from avrt.model.self_check import SelfCheck, compare_with_separate_rows, judge
from avrt.model.shared_prompt import PackedLayout
from avrt.model.student import Student
from tests.tiny_student import load_student, make_sample, mixed_samples, plain_logits, random_responses

SEEDS = range(20)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def student(layout_folder: Path, request: pytest.FixtureRequest) -> Student:
    return load_student(layout_folder, dtype=request.param)


def responses(student: Student, seed: int, prompts: int) -> list[list[Tensor]]:
    """Groups of ragged responses; some have a single token."""
    vocab = len(student.processor.tokenizer)
    return [
        random_responses([1 + (11 * i + 5 * seed) % 40 for i in range(6)], vocab, seed=100 * seed + g)
        for g in range(prompts)
    ]


def check(student: Student, seed: int = 0) -> SelfCheck:
    prompts = student.embed([student.encoder.encode(sample) for sample in mixed_samples()])
    return compare_with_separate_rows(
        student.language_model, prompts, responses(student, seed, len(prompts)), banned=student.banned_tokens
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_healthy(student: Student, seed: int) -> None:
    found = check(student, seed)
    assert found.passed, found
    assert found.mean < 0.6 * found.limit, "no close call"
    assert found.tokens >= 300
    assert judge(found, "sdpa").startswith("self check: largest difference ")


def hide(position: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses do not see one token of their prompt."""
    mask = PackedLayout._mask

    def faulty(self: PackedLayout, dtype: torch.dtype, repeats: int) -> Tensor:
        hidden = mask(self, dtype, repeats).clone()
        hidden[..., position(self._prompts.longest)] = -torch.inf
        return hidden

    monkeypatch.setattr(PackedLayout, "_mask", faulty)


@pytest.mark.parametrize("position", [lambda longest: 0, lambda longest: longest // 2], ids=["first", "middle"])
def test_one_hidden_key_is_found(
    student: Student, position: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(position, monkeypatch)
    found = check(student)
    assert not found.passed, found
    with pytest.raises(ValueError, match=r"attention_kernel to flex \(now sdpa\).*model\.self_check false"):
        judge(found, "sdpa")
    with pytest.raises(ValueError, match=r"attention_kernel to sdpa"):
        judge(found, "flex")


def test_a_look_into_the_future_is_found(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = PackedLayout._mask

    def faulty(self: PackedLayout, dtype: torch.dtype, repeats: int) -> Tensor:
        seen = mask(self, dtype, repeats).clone()
        steps = self._responses.longest  # type: ignore[union-attr]
        seen[..., -steps:].masked_fill_(torch.ones(steps, steps).tril(1).bool().repeat(repeats, 1), 0.0)
        return seen

    monkeypatch.setattr(PackedLayout, "_mask", faulty)
    assert not check(student).passed


def test_positions_that_are_off_by_one_are_found(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = PackedLayout.position_ids

    def faulty(self: PackedLayout, prompts: Any) -> Tensor:
        shifted = positions(self, prompts).clone()
        shifted[..., self._prompts.num_tokens :] += 1
        return shifted

    monkeypatch.setattr(PackedLayout, "position_ids", faulty)
    assert not check(student).passed


@torch.no_grad()
def test_separate_rows_are_transformers_own(layout_folder: Path) -> None:
    """The side that is trusted, against the full forward of the whole thinker on the processor's tensors."""
    student = load_student(layout_folder, dtype="float64")
    sample = make_sample("audio_video", 3)
    prompt = student.encoder.encode(sample)
    (group,) = responses(student, 3, 1)
    (embedded,) = student.embed([prompt])
    rows = self_check._separate_rows(student.language_model, embedded, group)
    for row, response in zip(rows, group, strict=True):
        logits = student.language_model.head(row)
        torch.testing.assert_close(logits, plain_logits(student.thinker, student, prompt, response), rtol=0, atol=1e-9)


def test_groups_are_taken_until_there_are_enough_tokens(layout_folder: Path) -> None:
    student = load_student(layout_folder)
    prompts = student.embed([student.encoder.encode(make_sample("audio", i)) for i in range(4)])
    groups = [random_responses([100, 200], 200, seed=g) for g in range(4)]
    found = compare_with_separate_rows(student.language_model, prompts, groups, banned=student.banned_tokens)
    assert found.tokens == 600


def test_the_worst_device_decides() -> None:
    """Each device's own limit counts, and not a number is worst; tokens add up."""
    devices = [SelfCheck(10, 0.1, 0.5, 0.2, 0.5), SelfCheck(20, 0.3, 0.4, 0.1, 0.2), SelfCheck(5, 0.0, 0.9, 0.1, 0.2)]

    def gather(others: list[SelfCheck]) -> Callable[[Tensor], Tensor]:
        return lambda row: torch.cat([row, *(_row(other) for other in others)])

    found = devices[0].of_devices(gather(devices[1:]))
    assert (found.tokens, found.mean, found.largest, found.limit) == (35, 0.3, 0.9, 0.2)
    assert not found.passed
    assert devices[0].of_devices(gather(devices[2:])).passed
    broken = SelfCheck(1, math.nan, math.nan, 0.1, 0.2)
    assert not devices[0].of_devices(gather([broken])).passed
    assert not broken.of_devices(gather(devices)).passed


def _row(check: SelfCheck) -> Tensor:
    rows: list[Tensor] = []
    check.of_devices(lambda row: rows.append(row) or row)
    return rows[0]
