"""Seconds and memory of each phase of a GRPO step, without a trainer: prompts of the presets, bfloat16, checkpointing.

The optimizer's phase depends on where its state lives and is measured in whole steps (`benchmarks.gpu.step`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch

from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel
from avrt.planning.dry_run import StepFlops, count_flops
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response
from avrt.rollout.window_rollout import response_logprobs
from benchmarks.gpu.clock import free, measure
from benchmarks.gpu.models import audio_visual_prompts, random_student, sampling, seeds
from benchmarks.gpu.plans import grpo_settings
from benchmarks.gpu.shapes import Row, Shape


def run(shape: Shape, device: torch.device, size: str) -> Iterator[Row]:
    """A row for the encoders, then one per group size and length of the responses."""
    student = random_student(shape, size, device)
    policy, reference = student.language_model, student.copy_language_model()
    encoded = audio_visual_prompts(shape, shape.prompts)
    student.embed(encoded[:1])
    embedding = measure(device, lambda: student.embed(encoded))
    prompts: list[EmbeddedPrompt] = embedding.result
    what = f"{size}, {len(prompts)} prompts of {len(prompts[0])}"
    yield {"what": what, "embedding_seconds": embedding.seconds, "embedding_peak_gib": embedding.peak_gib}
    warm_up(policy, reference, student, prompts)

    for group in shape.groups:
        for length in shape.responses:
            row, rollout_seconds = rollout(policy, prompts, group, length, device)
            found: list[list[Response]] = row.pop("responses")
            scored = measure(device, partial(score_all, reference, student, prompts, found))
            trained = measure(device, partial(train_all, policy, student, prompts, found, length))
            flops = flops_of(shape, student, size, len(prompts[0]), group, length)
            seconds = embedding.seconds + rollout_seconds + scored.seconds + trained.seconds
            yield {
                "what": what,
                "group": group,
                "response": length,
                **row,
                "reference_seconds": scored.seconds,
                "reference_peak_gib": scored.peak_gib,
                "training_seconds": trained.seconds,
                "training_peak_gib": trained.peak_gib,
                "training_tflops": len(prompts) * flops.step / trained.seconds / 1e12,
                "reference_tflops": len(prompts) * flops.forward / scored.seconds / 1e12,
                "all_but_optimizer_seconds": seconds,
            }
            work = len(prompts) * (flops.step + flops.forward) / (trained.seconds + scored.seconds)
            yield {"hardware": {"achieved_tflops": work / 1e12}}
            student.zero_grad()
            free(device)


def rollout(
    policy: LanguageModel, prompts: list[EmbeddedPrompt], group: int, length: int, device: torch.device
) -> tuple[Row, float]:
    """Seconds of prefill and decoding with the default way of decoding, and the responses."""

    def sample(tokens: int) -> list[list[Response]]:
        return TransformersRollout(policy, sampling(tokens), ()).generate(prompts, group, seeds(prompts))

    sample(min(length, 4))
    prefill = measure(device, lambda: sample(1))
    whole = measure(device, lambda: sample(length))
    row: Row = {
        "prefill_seconds": prefill.seconds,
        "decoding_seconds": whole.seconds - prefill.seconds,
        "rollout_peak_gib": whole.peak_gib,
        "responses": whole.result,
    }
    return row, whole.seconds


def score_all(
    reference: LanguageModel, student: Student, prompts: list[EmbeddedPrompt], found: list[list[Response]]
) -> None:
    """The reference's pass over the window, one prompt at a time."""
    with torch.no_grad():
        for prompt, group in zip(prompts, found, strict=True):
            response_logprobs(reference, [prompt], [group], 1.0, student.banned_tokens)


def train_all(
    policy: LanguageModel, student: Student, prompts: list[EmbeddedPrompt], found: list[list[Response]], length: int
) -> None:
    """Forward and backward of every micro-batch of one prompt; gradients add up."""
    policy.text_model.train()
    for prompt, group in zip(prompts, found, strict=True):
        scores = response_logprobs(policy, [prompt], [group], 1.0, student.banned_tokens)
        responses, tokens = scores.logprobs.shape[0] * len(prompts), scores.logprobs.numel() * len(prompts)
        advantages = torch.linspace(-1, 1, scores.logprobs.shape[0], device=scores.logprobs.device)
        grpo_loss(
            scores.logprobs,
            scores.mask,
            advantages,
            LossConfig(beta=0.01),
            Normalizer(responses, tokens, float(tokens), length),
            ref_logprobs=scores.logprobs.detach(),
            entropies=scores.entropies,
        ).loss.backward()


def warm_up(policy: LanguageModel, reference: LanguageModel, student: Student, prompts: list[EmbeddedPrompt]) -> None:
    """Load kernels and create gradients with one small micro-batch."""
    responses = [[Response(torch.tensor([5, 6, 7]), torch.zeros(3), False)] * 2]
    score_all(reference, student, prompts[:1], responses)
    train_all(policy, student, prompts[:1], responses, 3)


def flops_of(shape: Shape, student: Student, size: str, prompt: int, group: int, length: int) -> StepFlops:
    """Of one micro-batch, counted as `plan` counts them: recomputed layers count."""
    settings = grpo_settings(shape, size, prompt, group, length)
    counts = []
    for layers in (1, 2):  # a layer more is always the same work, and counting all of them takes a minute
        config = copy.deepcopy(student.thinker.config)
        config.text_config.num_hidden_layers = layers
        counts.append(count_flops(config, settings))
    one, two = counts
    more = student.thinker.config.text_config.num_hidden_layers - 1
    return StepFlops(
        one.forward + more * (two.forward - one.forward),
        one.step + more * (two.step - one.step),
    )
