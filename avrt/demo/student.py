"""The demo's base student: a tiny model that can read questions, and a tokenizer of the demo's own words."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2Tokenizer

from avrt.demo.questions import demo_texts, plan_clips, plan_questions
from avrt.demo.reading import TEMPLATE, teach_reading
from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.files.atomic_folder import atomic_folder
from avrt.model.student import Student, StudentConfig
from avrt.model.tiny import TinyShape, save_tiny_student, tiny_config

CHAT_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""Words that the chat template adds."""

CORPUS_CLIPS = 64
"""Clips whose questions and traces train the tokenizer: they contain every word."""


def build_student(folder: Path, *, seed: int = 0, reading_steps: int) -> None:
    """Save a student that has never met a clip to `folder`, atomically; an existing one is kept.

    Args:
        folder: of the student.
        seed: for the random weights and the questions that it reads.
        reading_steps: see `avrt.demo.reading.teach_reading`; 0 leaves it random.
    """
    if (folder / "config.json").is_file():
        return
    with atomic_folder(folder) as partial:
        save_tiny_student(partial, _tokenizer(), seed=seed)
        if reading_steps:
            student = Student.load(StudentConfig(path=str(partial), dtype="float32", template=TEMPLATE))
            teach_reading(student, seed=seed, steps=reading_steps)
            student.thinker.save_pretrained(partial)


def write_shapes(folder: Path) -> None:
    """Write the student's ``config.json`` alone, which is enough to plan a run."""
    tiny_config(TinyShape(), _tokenizer()).save_pretrained(folder)


def _tokenizer() -> Qwen2Tokenizer:
    questions = plan_questions(plan_clips("train", CORPUS_CLIPS, seed=0), questions_per_clip=1)
    return build_tiny_tokenizer([CHAT_WORDS, *demo_texts(questions)])
