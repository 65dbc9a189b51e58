"""Text-only training of the demo's student: it learns to look words up among a question's options.

Students of the real size are language models before they see a clip. A random one would spend most of fine-tuning on
reading, so the demo's student first reads questions without clips: after "I see" comes any color of the options, and
then the letters of the options that have it. It is never told what is in a clip, nor what follows from the letters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from avrt.demo.clips import COLORS, PITCHES
from avrt.demo.questions import PERCEPTION, WORDINGS, fill
from avrt.model.chat_template import chat_text
from avrt.model.encoding import Prompt
from avrt.model.student import Student
from avrt.model.token_logprobs import token_logprobs
from avrt.sample import LETTERS, Sample
from avrt.text.prompts import PromptTemplate, build_messages

TEMPLATE = PromptTemplate(system="", option_line="{letter} {text} {letter}", tags_instruction="", letter_instruction="")
"""The prompt of the demo's students, as in ``cli_configs/*_tiny.yaml``."""

BATCH_SIZE = 16
LEARNING_RATE = 2.5e-3
WARMUP_STEPS = 20


def teach_reading(student: Student, *, seed: int, steps: int) -> None:
    """Train the language model on random questions and sentences about their options; the encoders are not used.

    Args:
        student: changed in place.
        seed: for the questions.
        steps: optimizer steps of `BATCH_SIZE` questions each.
    """
    rng = random.Random(seed)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARMUP_STEPS, 1.0, WARMUP_STEPS),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - WARMUP_STEPS)),
        ],
        [WARMUP_STEPS],
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with one_thread(), Progress(*columns, console=Console(stderr=True)) as progress:
        for _ in progress.track(range(steps), description="Reading"):
            batch = [random_question(rng) for _ in range(BATCH_SIZE)]
            prompts = student.embed([_prompt(student, sample) for sample, _ in batch])
            targets = [[_tokens(student, sentences + student.family.end_tokens[0])] for _, sentences in batch]
            scores = token_logprobs(student.language_model, prompts, targets)
            loss = -(scores.logprobs * scores.mask).sum() / scores.mask.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()


def random_question(rng: random.Random) -> tuple[Sample, str]:
    """A question of the demo's form without a clip, and two sentences about one of its options."""
    colors, pitches = rng.sample(list(COLORS), 2), rng.sample(list(PITCHES), 2)
    pairs = [(color, pitch) for color in colors for pitch in pitches]
    rng.shuffle(pairs)
    answer = rng.randrange(len(pairs))
    options = tuple(f"{color} {pitch}" for color, pitch in pairs)
    sentences = fill(PERCEPTION, *pairs[answer], dict(zip(LETTERS, options, strict=False)))
    return Sample(id="text", question=rng.choice(WORDINGS), options=options, answer=answer), sentences


@contextmanager
def one_thread() -> Iterator[None]:
    """In the block torch uses one thread: in a model this small, more would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _prompt(student: Student, sample: Sample) -> Prompt:
    messages = build_messages(sample, modalities=(), template=TEMPLATE)
    text = chat_text(student.processor, messages)
    return Prompt(sample, _tokens(student, text))


def _tokens(student: Student, text: str) -> Tensor:
    return torch.tensor(student.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
