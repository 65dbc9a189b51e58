"""Peaks of torch's allocator against what `avrt plan` computes, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.gpu.clock import GIB, in_use, measure
from benchmarks.gpu.models import audio_visual_prompts, random_student
from benchmarks.gpu.phases import rollout, score_all, train_all, warm_up
from benchmarks.gpu.plans import grpo_settings, planned
from benchmarks.gpu.shapes import Row, Shape


def run(shape: Shape, device: torch.device, size: str) -> Iterator[Row]:
    """A row per part; ``measured_gib`` is None on the CPU.

    The optimizer's state is left out: it is known exactly, and would not fit beside the 7B student on one GPU.
    """
    before = in_use(device)
    student = random_student(shape, size, device)
    weights = _above(in_use(device), before)
    reference = student.copy_language_model()
    both = _above(in_use(device), before)
    encoded = audio_visual_prompts(shape, shape.prompts)
    group, length = shape.groups[0], shape.responses[-1]
    settings = grpo_settings(shape, size, len(encoded[0].input_ids), group, length)
    plan = asdict(planned(student.thinker.config, settings))
    resident = plan["weights"] + plan["reference"]
    yield _row(size, "weights", plan["weights"], weights)
    yield _row(size, "reference", plan["reference"], _above(both, weights))

    embedding = measure(device, lambda: student.embed(encoded))
    prompts = embedding.result
    features = _above(in_use(device), _plus(before, both))
    yield _row(size, "media features", plan["media_features"], features)
    yield _row(size, "encoders at work", plan["encoders_at_work"], _above(embedding.peak, _plus(before, both)))

    sampled, _ = rollout(student.language_model, prompts, group, length, device)
    found = sampled.pop("responses")
    peak = sampled["rollout_peak_gib"]
    peak = None if peak is None else int(peak * GIB)
    rollout_plan = resident + plan["media_features"] + plan["kv_cache"] + plan["rollout_logits"]
    yield _row(size, "rollout, all", rollout_plan, _above(peak, before))

    scored = measure(device, lambda: score_all(reference, student, prompts, found))
    yield _row(size, "reference pass, all", None, _above(scored.peak, before))

    warm_up(student.language_model, reference, student, prompts)  # creates the gradients
    gradients = sum(p.numel() * p.element_size() for p in student.parameters() if p.grad is not None)
    trained = measure(device, lambda: train_all(student.language_model, student, prompts, found, length))
    yield _row(size, "gradients", plan["gradients"], gradients)
    held = _plus(before, both, features, gradients)
    yield _row(size, "activations", plan["activations"], _above(trained.peak, held))
    everything = resident + plan["media_features"] + plan["gradients"] + plan["activations"]
    yield _row(size, "training without optimizer, all", everything, _above(trained.peak, before))
    if device.type == "cuda":
        yield _overhead(size, device)


def _overhead(size: str, device: torch.device) -> Row:
    """Memory that tensors cannot use: the driver's context. What the allocator holds beyond the peak is given back
    when memory runs short, and `plan` leaves a share free for fragments."""
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.max_memory_reserved(device)
    context = total - free - torch.cuda.memory_reserved(device)
    slack = reserved - torch.cuda.max_memory_allocated(device)
    return {
        "what": f"{size}, overhead: context; beside it the allocator's slack",
        "measured_gib": context / GIB,
        "slack_gib": slack / GIB,
        "hardware": {"overhead_bytes": context},
    }


def _row(size: str, what: str, plan: int | None, measured: int | None) -> Row:
    row: dict[str, Any] = {"what": f"{size}, {what}"}
    row["plan_gib"] = None if plan is None else plan / GIB
    row["measured_gib"] = None if measured is None else measured / GIB
    row["measured_over_plan"] = measured / plan if measured is not None and plan else None
    return row


def _above(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def _plus(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
