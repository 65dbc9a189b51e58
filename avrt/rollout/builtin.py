"""The built-in rollout engine: samples a group of responses per prompt and prefills each prompt once.

Sampling uses the temperature only, no top-p and no top-k, with the same banned tokens as
`avrt.model.chunked_logprobs`: sampling and training see the same distribution.

Shape letters: n prompts, G responses per prompt, N = n*G rows, P longest prompt, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from avrt.model.chunked_logprobs import chunk_logits, head_operand
from avrt.model.shared_prompt import PackedLayout, PrefixCache
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, packed_forward
from avrt.rollout.cuda_graphs import CudaGraphs
from avrt.rollout.decode_layout import DecodeLayout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.rollout.static_decoding import StaticDecoding, StepRunner, Uncaptured, decoding_path
from avrt.rollout.static_layout import StaticLayout

COMPACT_BELOW = 0.75
"""Finished rows leave the batch when no more than this share of it is still being written."""


_Written: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Tokens and log-probabilities ``[N, C]``, lengths ``[N]``, and which responses have ended ``[N]``, on the host."""


@dataclass
class _Prefilled:
    """What decoding starts from.

    Attributes:
        hidden: states that predict the first tokens of all responses, ``[N, H]``.
        next_position: positions of those tokens, ``[N]``.
        prefix, prompt_valid: the prompts' caches, see `avrt.rollout.decode_layout.DecodeLayout`.
        owner: the prompt of each response, N numbers.
    """

    hidden: Tensor
    next_position: Tensor
    prefix: PrefixCache | None
    prompt_valid: Tensor | None
    owner: list[int]

    def take_prefix(self) -> PrefixCache:
        """The caches, which nobody else keeps from now on: they shrink as prompts end."""
        prefix, self.prefix = self.prefix, None
        assert prefix is not None
        return prefix


class TransformersRollout:
    """Rollout with the policy's own transformers modules, in the process that trains.

    Args:
        model: the language model to sample from; read at every call, so it always holds the current weights.
        config: sampling settings.
        eos_token_ids: tokens that end a response.
        banned: bool ``[V]``, tokens that are never sampled.
        share_prefill: keep one copy of a prompt's cache per group; False prefills every response on its own, for tests
            and benchmarks that compare the two.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: SamplingConfig,
        eos_token_ids: Sequence[int],
        banned: Tensor | None = None,
        share_prefill: bool = True,
    ) -> None:
        decoding_path(config.decoding, model.head_weight.device)  # refuses what the device cannot do
        self.model = model
        self.config = config
        self.eos_token_ids = tuple(eos_token_ids)
        self.banned = banned
        self.share_prefill = share_prefill
        self._head: Tensor | None = None

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        if len(seeds) != len(prompts):
            raise ValueError("seeds must have one entry per prompt")
        training = self.model.text_model.training
        self.model.text_model.eval()  # also turns gradient checkpointing off for the prefill
        # Under autocast, converted once instead of for every token.
        self._head = head_operand(self.model.head_weight)
        try:
            results: list[list[Response]] = [[] for _ in prompts]
            for batch in self._sub_batches(prompts, num_generations):
                groups = self._decode([prompts[i] for i in batch], num_generations, [seeds[i] for i in batch])
                for i, group in zip(batch, groups, strict=True):
                    results[i] = group
            return results
        finally:
            self._head = None
            self.model.text_model.train(training)

    def _sub_batches(self, prompts: Sequence[EmbeddedPrompt], num_generations: int) -> list[list[int]]:
        """Split the window so that each part's cache fits; prompts of similar length share a part (least padding)."""
        response_tokens = num_generations * self.config.max_completion_length
        copies = 1 if self.share_prefill else num_generations
        batches: list[list[int]] = []
        longest = 0
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
            longest = max(longest, len(prompts[i]))
            needed = copies * longest + response_tokens
            if batches and (len(batches[-1]) + 1) * needed <= self.config.kv_cache_tokens:
                batches[-1].append(i)
            else:
                batches.append([i])
                longest = len(prompts[i])
        return batches

    def _decode(
        self, prompts: Sequence[EmbeddedPrompt], num_generations: int, seeds: Sequence[int]
    ) -> list[list[Response]]:
        device = prompts[0].input_ids.device
        uniforms = _uniforms(seeds, num_generations, self.config.max_completion_length).to(device)
        start = self._prefill(prompts, num_generations)
        eos = torch.tensor(self.eos_token_ids, dtype=torch.long, device=device)
        path = decoding_path(self.config.decoding, device)
        if path == "graphs":
            runner = CudaGraphs(device)
            with runner.stream():
                written = self._decode_static(start, uniforms, eos, runner)
        elif path == "static":
            written = self._decode_static(start, uniforms, eos, Uncaptured())
        else:
            written = self._decode_plain(start, uniforms, eos)
        tokens, logprobs, lengths, ended = written
        responses = [
            Response(tokens[r, :length].clone(), logprobs[r, :length].clone(), done)
            for r, (length, done) in enumerate(zip(lengths.tolist(), ended.tolist(), strict=True))
        ]
        return [responses[i : i + num_generations] for i in range(0, len(responses), num_generations)]

    def _decode_static(self, start: _Prefilled, uniforms: Tensor, eos: Tensor, runner: StepRunner) -> _Written:
        slots = len(start.owner) // len(set(start.owner))
        layout = StaticLayout(start.take_prefix(), start.prompt_valid, slots, self._stored_steps)
        decoding = StaticDecoding(self, layout, start.next_position, uniforms, eos)
        decoding.run(start.hidden, runner)
        lengths, ended = decoding.lengths()
        return decoding.tokens.cpu(), decoding.logprobs.cpu(), lengths.cpu(), ended.cpu()

    def _decode_plain(self, start: _Prefilled, uniforms: Tensor, eos: Tensor) -> _Written:
        (total, steps), device = uniforms.shape, uniforms.device
        hidden, cache = start.hidden, self._decode_layout(start)
        rows = torch.arange(total, device=device)  # which response each row of the batch writes
        tokens = torch.zeros(total, steps, dtype=torch.long, device=device)
        logprobs = torch.zeros(total, steps, dtype=torch.float32, device=device)
        lengths = torch.zeros(total, dtype=torch.long, device=device)
        ended = torch.zeros(total, dtype=torch.bool, device=device)
        for step in range(steps):
            token, logprob = self.sample(hidden, uniforms[rows, step])
            open_rows = ~ended[rows]
            tokens[rows, step] = token
            logprobs[rows, step] = logprob.float()
            lengths[rows] += open_rows
            ended[rows] |= torch.isin(token, eos)
            if step + 1 == steps:
                break
            remaining = [i for i, done in enumerate(ended[rows].tolist()) if not done]
            if not remaining:
                break
            if len(remaining) <= COMPACT_BELOW * rows.numel():
                kept = torch.tensor(remaining, device=device)
                rows, token = rows[kept], token[kept]
                cache.keep(remaining)
            hidden = self.decode_step(token, start.next_position[rows] + step, cache)
        return tokens.cpu(), logprobs.cpu(), lengths.cpu(), ended.cpu()

    @property
    def _stored_steps(self) -> int:
        """Tokens of a response whose keys and values are kept: the last one is never an input."""
        return max(1, self.config.max_completion_length - 1)

    def _decode_layout(self, start: _Prefilled) -> DecodeLayout:
        return DecodeLayout(start.take_prefix(), start.prompt_valid, start.owner, self._stored_steps)

    def prefill(self, prompts: Sequence[EmbeddedPrompt], num_generations: int) -> tuple[Tensor, Tensor, DecodeLayout]:
        """Run the prompts through the model, once each.

        Returns:
            the hidden states that predict the first tokens of all N responses ``[N, H]``, the positions of those
            tokens ``[N]``, and the cache that decoding starts from.
        """
        start = self._prefill(prompts, num_generations)
        return start.hidden, start.next_position, self._decode_layout(start)

    def _prefill(self, prompts: Sequence[EmbeddedPrompt], num_generations: int) -> _Prefilled:
        device = prompts[0].input_ids.device
        owner = [i for i in range(len(prompts)) for _ in range(num_generations)]
        if not self.share_prefill:
            prompts = [p for p in prompts for _ in range(num_generations)]
            owner = list(range(len(prompts)))
        lengths = [len(p) for p in prompts]
        no_responses: list[list[Tensor]] = [[] for _ in prompts]
        layout = PackedLayout(lengths, [[] for _ in prompts], device, keep_prefix=True, kernel=self.model.kernel)
        hidden = packed_forward(self.model, layout, prompts, no_responses)
        expand = torch.tensor(owner, device=device)
        last = torch.tensor([stop - 1 for _, stop in layout.prompt_rows], device=device)
        next_position = torch.stack([p.position_ids.max() for p in prompts]).to(device) + 1
        return _Prefilled(hidden[last[expand]], next_position[expand], layout.prefix_cache, layout.prompt_valid, owner)

    def decode_step(self, token: Tensor, position: Tensor, cache: DecodeLayout | StaticLayout) -> Tensor:
        """One more token ``[rows]`` for every response still being written: the next hidden states ``[rows, H]``."""
        hidden = self.model.text_model(
            inputs_embeds=self.model.embed(token)[None],
            position_ids=position.expand(3, 1, -1),
            layout=cache,
            use_cache=False,
        ).last_hidden_state[0]
        cache.advance()
        return hidden

    def sample(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Next token and its log-probability for each row, ``[rows, H]`` -> two tensors ``[rows]``."""
        head = head_operand(self.model.head_weight) if self._head is None else self._head
        logits = chunk_logits(head_operand(hidden), head, self.config.temperature or 1.0, self.banned)
        logprobs = logits.log_softmax(-1)
        if self.config.temperature == 0:
            token = logits.argmax(-1)
        else:
            # Inverse transform sampling with one uniform number per token, in double precision: in single precision
            # the running sum over 150,000 tokens would round rare tokens away.
            cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
            total = cumulative[:, -1]
            # A draw that rounds up to the total would fall behind the last token that can be sampled.
            target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
            token = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1)
            # Logits that are not finite give no valid index. The step that learns from them is skipped.
            token = token.clamp(max=logprobs.shape[-1] - 1)
        return token, logprobs.gather(-1, token[:, None]).squeeze(1)


def _uniforms(seeds: Sequence[int], num_generations: int, steps: int) -> Tensor:
    """Random numbers of every response, float64 ``[n * G, steps]``; each prompt has a stream of its own."""
    draws = [
        torch.rand(num_generations, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.cat(draws)
