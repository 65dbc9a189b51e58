"""Decoding with tensors of fixed shape: the host launches steps ahead and looks at the tokens every few steps only.

A step reads and writes buffers on the device, at a position that is on the device too, so it can be captured as a CUDA
graph or compiled. Every `CHECK_EVERY` tokens the host reads which responses have ended, once. Ended ones leave the
batch when what remains fits one of a few smaller sizes, so that there are few shapes. For the same random numbers the
tokens are those of plain decoding, and the log-probabilities are equal up to rounding.

Shape letters: n prompts, G responses per prompt, N = n*G, B rows of the batch, C token limit, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from avrt.rollout.engine import Decoding
from avrt.rollout.static_layout import StaticLayout

CHECK_EVERY = 8
"""Tokens that are decoded between two looks of the host. Each look waits for the device; the steps after the end of the
last response are wasted."""


class Model(Protocol):
    """What a step computes."""

    def decode_step(self, token: Tensor, position: Tensor, cache: StaticLayout) -> Tensor:
        """The hidden states ``[B, H]`` of one more token ``[B]`` for every row."""
        ...

    def sample(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens and their log-probabilities, two tensors ``[B]``."""
        ...


class StepRunner(Protocol):
    """Runs a step a number of times, such as one by one or as a CUDA graph."""

    def run(self, step: Callable[[], None], times: int) -> None: ...

    def shapes_change(self) -> None:
        """The next steps have tensors of other shapes and addresses."""


class Uncaptured:
    """Calls the step, on any device."""

    def run(self, step: Callable[[], None], times: int) -> None:
        for _ in range(times):
            step()

    def shapes_change(self) -> None:
        pass


class StaticDecoding:
    """The responses to a batch of prompts, from the prefill to the end.

    Args:
        model: computes hidden states and samples from them.
        layout: the prompts' caches, with G rows each.
        position: of each response's first token, ``[N]``.
        uniforms: random numbers, float64 ``[N, C]``.
        eos: tokens that end a response, ``[*]``.

    Attributes:
        tokens: ``[N, C]``, -1 where nothing was written. Behind the end of a response there may be further tokens.
        logprobs: float32 ``[N, C]``.
        layout: see above.
    """

    def __init__(self, model: Model, layout: StaticLayout, position: Tensor, uniforms: Tensor, eos: Tensor) -> None:
        total, self._steps = uniforms.shape
        device = uniforms.device
        self._model = model
        self.layout = layout
        self._eos = eos
        self._uniforms = uniforms.flatten()
        self.tokens = torch.full((total, self._steps), -1, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(total, self._steps, dtype=torch.float32, device=device)
        prompts, slots, _ = layout.shape
        self._prompt_sizes, self._slot_sizes = halvings(prompts), halvings(slots)
        self._all_starts = torch.arange(total, device=device) * self._steps
        self._all_positions = position
        self._rows = list(range(total))  # the response that each row of the batch writes
        self._token = torch.zeros(total, dtype=torch.long, device=device)
        self._starts, self._position = self._all_starts, position

    def run(self, hidden: Tensor, runner: StepRunner) -> None:
        """Decode until all responses have ended.

        Args:
            hidden: the states that predict the first tokens, ``[N, H]``.
        """
        self._write(hidden)
        done = 1
        while done < self._steps:
            times = min(CHECK_EVERY, self._steps - done)
            before = self.layout.shape
            self.layout.reserve(done + times - 1)
            if self.layout.shape != before:
                runner.shapes_change()
            runner.run(self.step, times)
            done += times
            if done < self._steps and not self._drop_ended(runner):
                return

    def step(self) -> None:
        """One more token for every row. The host waits for nothing."""
        self.layout.open_step()
        hidden = self._model.decode_step(self._token, self._position + self.layout.step, self.layout)
        self._write(hidden)

    def _write(self, hidden: Tensor) -> None:
        where = self._starts + self.layout.step
        token, logprob = self._model.sample(hidden, self._uniforms.index_select(0, where))
        self.tokens.view(-1).index_copy_(0, where, token)
        self.logprobs.view(-1).index_copy_(0, where, logprob.float())
        self._token.copy_(token)

    def _drop_ended(self, runner: StepRunner) -> bool:
        """Make the batch smaller if its open responses fit; False if none is open."""
        ended = torch.isin(self.tokens, self._eos).any(1).tolist()  # waits for the device
        prompts, slots, _ = self.layout.shape
        groups = [range(i * slots, (i + 1) * slots) for i in range(prompts)]
        open_rows = [[row for row in group if not ended[self._rows[row]]] for group in groups]
        most = max(map(len, open_rows))
        if not most:
            return False
        new_prompts = smallest(self._prompt_sizes, sum(map(bool, open_rows)))
        new_slots = smallest(self._slot_sizes, most)
        if (new_prompts, new_slots) == (prompts, slots):
            return True
        # Ended prompts and rows fill up the size; what they write lies behind the end of their responses.
        kept = sorted(sorted(range(prompts), key=lambda i: not open_rows[i])[:new_prompts])
        rows = [
            row for i in kept for row in sorted(sorted(groups[i], key=lambda row: ended[self._rows[row]])[:new_slots])
        ]
        self.layout.keep(kept, rows)
        self._token = self._token[torch.tensor(rows, device=self._token.device)]
        self._rows = [self._rows[row] for row in rows]
        responses = torch.tensor(self._rows, device=self._token.device)
        self._starts, self._position = self._all_starts[responses], self._all_positions[responses]
        runner.shapes_change()
        return True

    def lengths(self) -> tuple[Tensor, Tensor]:
        """The tokens of each response, its end included, and whether it has ended: two tensors ``[N]``."""
        ends = torch.isin(self.tokens, self._eos)
        ended = ends.any(1)
        return torch.where(ended, ends.int().argmax(1) + 1, self._steps), ended


def halvings(size: int) -> list[int]:
    """`size`, its half rounded up, and so on down to 1."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def smallest(sizes: Sequence[int], needed: int) -> int:
    """The smallest of some sizes that is at least `needed`."""
    return min(size for size in sizes if size >= needed)


def decoding_path(decoding: Decoding, device: torch.device) -> Literal["plain", "static", "graphs"]:
    """The path of a setting on a device.

    Raises:
        ValueError: the setting is unknown, or the device cannot take it.
    """
    on_gpu = device.type == "cuda"
    if decoding == "auto":
        return "graphs" if on_gpu else "plain"
    if decoding == "graphs" and not on_gpu:
        raise ValueError(
            "model.sampling.decoding (model.decoding in SFT and evaluation): graphs needs a CUDA device, and the model "
            f"is on {device.type!r}; set it to auto"
        )
    if decoding not in ("plain", "static", "graphs"):
        raise ValueError(f"model.sampling.decoding: must be auto, plain, static or graphs, got {decoding!r}")
    return decoding
