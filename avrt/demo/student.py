"""The demo's untrained student: a tiny random model and a tokenizer of the demo's own words."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2Tokenizer

from avrt.demo.questions import demo_texts, plan_clips, plan_questions
from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.files.atomic_folder import atomic_folder
from avrt.model.tiny import TinyShape, save_tiny_student, tiny_config

CHAT_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""Words that the chat template adds."""

CORPUS_CLIPS = 64
"""Clips whose questions and traces train the tokenizer: they contain every word."""


def build_student(folder: Path, *, seed: int = 0) -> None:
    """Save an untrained student to `folder`, atomically; an existing one is kept.

    Args:
        seed: for the random weights.
    """
    if (folder / "config.json").is_file():
        return
    with atomic_folder(folder) as partial:
        save_tiny_student(partial, _tokenizer(), seed=seed)


def write_shapes(folder: Path) -> None:
    """Write the student's ``config.json`` alone, which is enough to plan a run."""
    tiny_config(TinyShape(), _tokenizer()).save_pretrained(folder)


def _tokenizer() -> Qwen2Tokenizer:
    questions = plan_questions(plan_clips("train", CORPUS_CLIPS, seed=0), questions_per_clip=1)
    return build_tiny_tokenizer([CHAT_WORDS, *demo_texts(questions)])
