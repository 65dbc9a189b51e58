"""The demo's untrained student: a tiny random model and a tokenizer of the demo's own words."""

from __future__ import annotations

from pathlib import Path

from avrt.demo.questions import demo_texts, plan_clips, plan_questions
from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.files.atomic_folder import atomic_folder
from avrt.model.tiny import save_tiny_student

CHAT_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""The words that the conversation format adds."""

CORPUS_CLIPS = 64
"""Clips whose questions and traces make the tokenizer: they hold every word."""


def build_student(folder: Path, *, seed: int = 0) -> None:
    """Save an untrained student to `folder`, which appears whole or not at all; one that is there is kept.

    Args:
        seed: of the random weights.
    """
    if (folder / "config.json").is_file():
        return
    questions = plan_questions(plan_clips("train", CORPUS_CLIPS, seed=0), questions_per_clip=1)
    tokenizer = build_tiny_tokenizer([CHAT_WORDS, *demo_texts(questions)])
    with atomic_folder(folder) as partial:
        save_tiny_student(partial, tokenizer, seed=seed)
