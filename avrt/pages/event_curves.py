"""Curves from TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_curves(folder: Path, tags: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """The scalar curves of a run: (step, value) pairs by tag, without the tags that it does not have.

    A run that was resumed has several files; of a step that occurs twice, the later value is kept.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    known = set(events.Tags()["scalars"])
    found = {}
    for tag in tags:
        if tag in known:
            by_step = {event.step: event.value for event in events.Scalars(tag)}
            found[tag] = sorted(by_step.items())
    return found
