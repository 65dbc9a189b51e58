"""Values that the student computes once: banned tokens, end tokens, encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avrt.model.student import Student
from tests.tiny_student import (
    load_student,
)


@pytest.fixture(scope="module")
def student(layout_folder: Path) -> Student:
    return load_student(layout_folder)


def test_banned_and_end_tokens(student: Student) -> None:
    tokenizer = student.processor.tokenizer
    named = {tokenizer.convert_ids_to_tokens(i) for i in student.banned_tokens.nonzero().squeeze(1).tolist()}
    assert named - {None} == set(student.family.media_tokens.all), "and rows of the vocabulary that have no token"
    config = student.thinker.config
    assert student.banned_tokens[[config.image_token_id, config.video_token_id, config.audio_token_id]].all()
    assert [tokenizer.convert_ids_to_tokens(i) for i in student.eos_token_ids] == list(student.family.end_tokens)
    assert not student.banned_tokens[list(student.eos_token_ids)].any()


def test_banned_tokens_are_computed_once_and_follow_the_weights(
    layout_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load_student(layout_folder)
    expected = student.banned_tokens
    monkeypatch.setattr(student.processor.tokenizer, "convert_tokens_to_ids", lambda *_: pytest.fail("again"))
    assert student.banned_tokens is expected
    monkeypatch.undo()
    student.to("meta")
    assert student.banned_tokens.device.type == "meta"
    assert expected.device.type == "cpu"


def test_banned_tokens_of_an_evaluation_serve_training(layout_folder: Path) -> None:
    """A tensor that is made in inference mode cannot take part in a training step."""
    student = load_student(layout_folder)
    with torch.inference_mode():
        assert not student.banned_tokens.is_inference()


def test_accessors_do_not_build_anew(student: Student) -> None:
    assert student.encoder is student.encoder
    assert student.language_model is student.language_model
    assert student.eos_token_ids is student.eos_token_ids
