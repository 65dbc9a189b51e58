"""Accuracy on training prompts by how often they were answered right before: memorizing against generalizing.

New prompts show what the policy has learned for questions it has not seen; repeated ones may also be remembered.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.sample import Completion, Sample
from avrt.text.answers import parse

NEW = "new"
NONE_RIGHT = "repeated_none_right"
SOME_RIGHT = "repeated_some_right"
ALL_RIGHT = "repeated_all_right"
KINDS = (NEW, NONE_RIGHT, SOME_RIGHT, ALL_RIGHT)
"""Kinds of prompts, by the responses to them in the last window that had them before."""


class PromptHistory:
    """How many responses to each prompt were right when it was last rolled out. The same on all devices.

    A window is first only noted: a run that stops within it will roll it out again, and must find the state from
    before it. `commit` is called when no further rollout of the window can follow.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, int]] = {}
        self._noted: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Prompts seen, those of a window without `commit` excluded."""
        return len(self._last)

    def note(
        self, completions: Sequence[Completion], num_generations: int, gather: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """Note a window's responses; returns the accuracy on each kind of prompts in it, over all devices.

        Args:
            completions: this device's, `num_generations` to a prompt.
            gather: values of this device -> those of all devices, see `avrt.rollout.window_rollout.Devices`.

        Returns:
            ``accuracy/<kind>``: mean over the kind's responses of 1 for the gold letter, else 0. Kinds without a prompt
            are missing.
        """
        answers = [parse(c.text, c.sample, finish_reason=c.finish_reason).letter for c in completions]
        right = [c.sample.is_right(letter) for c, letter in zip(completions, answers, strict=True)]
        rows = [
            (prompt_key(completions[i].sample), sum(right[i : i + num_generations]), num_generations)
            for i in range(0, len(completions), num_generations)
        ]
        table = gather(torch.tensor(rows, dtype=torch.int64)).tolist()
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._noted = {}
        for key, number, total in table:
            kind = counts[self._kind(key)]
            kind[0] += number
            kind[1] += total
            # A window may have a prompt twice: at the end of one pass and the beginning of the next, or in two lists.
            before = self._noted.get(key, (0, 0))
            self._noted[key] = before[0] + number, before[1] + total
        return {f"accuracy/{kind}": counts[kind][0] / counts[kind][1] for kind in KINDS if kind in counts}

    def commit(self) -> None:
        """Take over the window noted last."""
        self._last |= self._noted
        self._noted = {}

    def _kind(self, key: int) -> str:
        if key not in self._last:
            return NEW
        right, total = self._last[key]
        return NONE_RIGHT if right == 0 else ALL_RIGHT if right == total else SOME_RIGHT

    def state_dict(self) -> dict[str, Any]:
        """16 bytes per prompt: its key, int64 ``[n]``, and how many of how many were right, int32 ``[n, 2]``."""
        return {
            "keys": torch.tensor(list(self._last), dtype=torch.int64),
            "right_of": torch.tensor(list(self._last.values()), dtype=torch.int32).view(-1, 2),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pairs = ((right, total) for right, total in state["right_of"].tolist())
        self._last = dict(zip(state["keys"].tolist(), pairs, strict=True))
        self._noted = {}


def prompt_key(sample: Sample) -> int:
    """63 bits that identify a prompt: by its id and clip, since two sources may each count their ids from 0.

    Of 40,000 prompts, two share a key with probability 1e-10.
    """
    digest = hashlib.sha256(f"{sample.id}\0{sample.source}\0{sample.audio_source}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
