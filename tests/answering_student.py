"""A tiny student that was really trained, for seconds, to give one reply to everything."""

from __future__ import annotations

from pathlib import Path

import torch

from avrt.model.token_logprobs import token_logprobs
from tests.tiny_student import load_student, mixed_samples

REPLY = "<think>I see red. I hear a bell.</think>\n<answer>B</answer>"
MAX_STEPS = 300
ENOUGH = 1e-3
"""Mean negative log-probability of the reply's tokens at which training ends."""


def save_answering_student(base: Path, folder: Path, reply: str = REPLY) -> Path:
    """Train the student in `base` on questions with every combination of streams, and save it to `folder`."""
    student = load_student(base)
    tokens = torch.tensor(student.processor.tokenizer(f"{reply}<|im_end|>", add_special_tokens=False)["input_ids"])
    samples = mixed_samples()
    prompts = student.embed([student.encoder.encode(sample) for sample in samples])
    optimizer = torch.optim.AdamW((p for p in student.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(MAX_STEPS):
        scores = token_logprobs(student.language_model, prompts, [[tokens]] * len(prompts))
        loss = -(scores.logprobs * scores.mask).sum() / scores.mask.sum()
        if loss < ENOUGH:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01, f"the student did not learn its reply: {loss:.3f}"
    student.save(folder)
    return folder
