"""Log-probabilities of given responses under a language model, with shared prompts.

Shape letters: n prompts, N responses, C longest response, P prompt tokens, T tokens of the packed row, H hidden size,
V vocabulary, M media tokens of a prompt, U visual ones among them, L layers that read visual features again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS, chunked_logprobs
from avrt.model.encoding import Prompt
from avrt.model.shared_prompt import AttentionKernel, PackedLayout


@dataclass(frozen=True)
class LanguageModel:
    """The trained part of a student, or its frozen reference: text model and head.

    Attributes:
        text_model: a transformers text model whose attention implementation is
            `avrt.model.shared_prompt.ATTENTION_NAME`.
        head: the language-model head, a linear layer without bias.
        kernel: implementation of the attention of packed rows.
    """

    text_model: PreTrainedModel
    head: nn.Linear
    kernel: AttentionKernel = "sdpa"

    @property
    def head_weight(self) -> Tensor:
        """``[V, H]``."""
        return self.head.weight

    def to(self, device: torch.device) -> None:
        """Move the parameters in place."""
        nn.ModuleList([self.text_model, self.head]).to(device)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token embeddings, ``[*, H]``."""
        return self.text_model.get_input_embeddings()(token_ids)


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt with its media features from the frozen encoders; text tokens are embedded in every pass.

    Attributes:
        input_ids: ``[P]``, placeholders included.
        position_ids: ``[3, P]`` temporal, height and width positions (TMRoPE).
        media_positions: ``[M]`` positions of the media placeholders.
        media_features: ``[M, H]`` features at these positions in place of token embeddings; no gradient.
        visual_positions: ``[U]`` positions of the visual placeholders, ascending.
        visual_layers: ``[L, U, H]`` features that are added at these positions to the hidden states behind the text
            model's first L layers; None where the model has no such features.
        source: what was embedded, for rollout engines with encoders of their own; None where nobody needs it.
    """

    input_ids: Tensor
    position_ids: Tensor
    media_positions: Tensor
    media_features: Tensor
    source: Prompt | None = None
    visual_positions: Tensor | None = None
    visual_layers: Tensor | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the language model computes with, by attribute."""
        names = ("input_ids", "position_ids", "media_positions", "media_features")
        visual = ("visual_positions", "visual_layers") if self.visual_layers is not None else ()
        return {name: getattr(self, name) for name in (*names, *visual)}


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities and entropies of N responses, padded on the right.

    Attributes:
        logprobs, entropies: ``[N, C]``; entropies in nats.
        mask: bool ``[N, C]``, true for response tokens.
    """

    logprobs: Tensor
    entropies: Tensor
    mask: Tensor


def visual_arguments(
    prompts: Sequence[EmbeddedPrompt], starts: Sequence[Sequence[int]], shape: tuple[int, int]
) -> dict[str, Any]:
    """Arguments of a text model for the visual features that its first layers read.

    Args:
        starts: where each prompt begins, counted through all rows one after another; ascending over all prompts.
        shape: number of rows, and their length.
    """
    seen = [
        (prompt.visual_positions + start, prompt.visual_layers)
        for prompt, of_prompt in zip(prompts, starts, strict=True)
        for start in of_prompt
        if prompt.visual_layers is not None and prompt.visual_positions is not None
    ]
    if not seen:
        return {}
    positions = torch.cat([where for where, _ in seen])
    is_visual = torch.zeros(shape, dtype=torch.bool, device=positions.device)
    is_visual.view(-1)[positions] = True
    layers = torch.cat([features for _, features in seen], dim=1)
    return {"visual_pos_masks": is_visual, "deepstack_visual_embeds": list(layers)}


def packed_forward(
    model: LanguageModel, layout: PackedLayout, prompts: Sequence[EmbeddedPrompt], inputs: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Hidden states of a packed row, ``[T, H]``.

    Args:
        prompts: the n prompts of `layout`.
        inputs: for each prompt the token ids of its responses, on the prompts' device.
    """
    row = [*(p.input_ids for p in prompts), *(r for group in inputs for r in group)]
    embeds = model.embed(torch.cat(row))
    # Media features go to the prompts' placeholders by position, never to a token of a response.
    positions = torch.cat([p.media_positions + a for p, (a, _) in zip(prompts, layout.prompt_rows, strict=True)])
    if positions.numel():
        features = torch.cat([p.media_features for p in prompts]).to(embeds.dtype)
        embeds = embeds.index_copy(0, positions, features)
    return model.text_model(
        inputs_embeds=embeds[None],
        position_ids=layout.position_ids([p.position_ids for p in prompts]),
        layout=layout,
        use_cache=False,
        **visual_arguments(prompts, [[start] for start, _ in layout.prompt_rows], (1, layout.num_tokens)),
    ).last_hidden_state[0]


def token_logprobs(
    model: LanguageModel,
    prompts: Sequence[EmbeddedPrompt],
    responses: Sequence[Sequence[Tensor]],
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    share_prompt: bool = True,
) -> TokenLogprobs:
    """Log-probability and entropy of every response token, responses in prompt order.

    Args:
        prompts: n prompts.
        responses: for each prompt its responses' token ids ``[C_i]``; none may be empty.
        temperature, banned, chunk_rows: see `avrt.model.chunked_logprobs.chunked_logprobs`.
        share_prompt: compute each prompt once for all its responses; False computes it once per response, for tests
            and benchmarks (only time and memory differ).
    """
    if not share_prompt:
        prompts = [p for p, group in zip(prompts, responses, strict=True) for _ in group]
        responses = [[r] for group in responses for r in group]
    device = prompts[0].input_ids.device
    responses = [[r.to(device) for r in group] for group in responses]
    flat = [r for group in responses for r in group]
    if not flat or min(len(r) for r in flat) == 0:
        raise ValueError("every response needs at least one token")
    # The last token of a response predicts nothing, so it is not part of the input.
    lengths = [[len(r) - 1 for r in group] for group in responses]
    layout = PackedLayout([len(p) for p in prompts], lengths, device, kernel=model.kernel)
    hidden = packed_forward(model, layout, prompts, [[r[:-1] for r in group] for group in responses])

    # The first token of a response is predicted by the last row of its prompt, which the whole group shares.
    predictors = [
        row
        for (_, prompt_stop), group in zip(layout.prompt_rows, layout.response_rows, strict=True)
        for start, stop in group
        for row in (prompt_stop - 1, *range(start, stop))
    ]
    logprobs, entropies = chunked_logprobs(
        hidden.index_select(0, torch.tensor(predictors, device=device)),
        model.head_weight,
        torch.cat(flat),
        temperature=temperature,
        banned=banned,
        chunk_rows=chunk_rows,
    )
    sizes = [len(r) for r in flat]
    mask = pad_sequence([torch.ones(c, dtype=torch.bool, device=device) for c in sizes], batch_first=True)
    return TokenLogprobs(
        pad_sequence(list(logprobs.split(sizes)), batch_first=True),
        pad_sequence(list(entropies.split(sizes)), batch_first=True),
        mask,
    )
