"""A whole GRPO step on text prompts against TRL's GRPOTrainer with its transformers rollout, in alternation.

Both train the same weights in bfloat16 with AdamW's state in bfloat16, gradient checkpointing and a reference, so that
both fit on one GPU together; a run for results would keep float32 copies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.models import plain_language_model, random_student
from benchmarks.gpu.shapes import Row, Shape
from benchmarks.gpu.step import StepModule, fit
from benchmarks.measure import alternate, paired_ratio
from benchmarks.students import WORD, text_prompt, tokenizer

GROUP = 8


def run(shape: Shape, device: torch.device, which: int) -> Iterator[Row]:
    """One row; `which` of the shape's two prompt lengths."""
    from benchmarks.trl_step import TRLStep  # needs trl and datasets, which may be missing

    length, response = shape.trl_prompts[which], shape.trl_response
    text = WORD * length
    ids = torch.tensor(tokenizer()(text, add_special_tokens=False)["input_ids"])
    student = random_student(shape, "3b", device)
    module = StepModule(lambda: student, "bfloat16", GROUP, response, bfloat16_optimizer=True)
    on_cpu = device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        plain_language_model(student.language_model).save_pretrained(folder)
        settings = {"gradient_checkpointing": True, "use_cpu": on_cpu}
        peer = TRLStep(Path(folder), tokenizer(), [text], GROUP, response, dtype="bfloat16", **settings)
        times = alternate(
            {"avrt": lambda: fit(module, [text_prompt(ids)], device, 1, 1, precision="bf16-true"), "trl": peer},
            shape.rounds,
        )
    ratio, low, high = paired_ratio(times["trl"], times["avrt"])
    yield {
        "what": "3b, text, one prompt",
        "prompt": length,
        "response": response,
        "group": GROUP,
        "seconds": times["avrt"].median,
        "trl_seconds": times["trl"].median,
        "trl_over_ours": ratio,
        "lowest": low,
        "highest": high,
    }
