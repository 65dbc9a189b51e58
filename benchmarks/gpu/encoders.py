"""Prompts per second of the frozen encoders: vision and audio on their own, and both together with the positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from avrt.model.encoders import audio_features, normalized_patches, visual_features
from benchmarks.gpu.clock import measure
from benchmarks.gpu.models import audio_visual_prompts, random_student
from benchmarks.gpu.shapes import Row, Shape


def run(shape: Shape, device: torch.device) -> Iterator[Row]:
    """A row per encoder and bound on the media tokens of one call."""
    student = random_student(shape, "3b", device)
    prompts = audio_visual_prompts(shape, shape.prompts)
    model, processor = student.thinker.model, student.processor
    tokens = len(prompts[0].input_ids)
    for limit in (4096, 16384):
        student.config = dataclasses.replace(student.config, encoder_batch_tokens=limit)
        with torch.no_grad():
            works = {
                "patches": lambda: [normalized_patches(processor, prompt, device) for prompt in prompts],
                "vision": lambda limit=limit: visual_features(student.family, model, processor, prompts, limit),
                "audio": lambda limit=limit: audio_features(student.family, model, prompts, limit),
                "embedding of prompts": lambda: student.embed(prompts),
            }
            for name, work in works.items():
                work()  # type: ignore[no-untyped-call]
                found = [measure(device, work) for _ in range(shape.rounds)]
                best = min(measured.seconds for measured in found)
                yield {
                    "what": name,
                    "encoder_batch_tokens": limit,
                    "prompt_tokens": tokens,
                    "prompts_per_second": len(prompts) / best,
                    "ms_per_prompt": 1e3 * best / len(prompts),
                    "peak_gib": found[0].peak_gib,
                }
