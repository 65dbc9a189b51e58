"""Shared prompts against transformers' own forward pass: log-probs, entropies and all gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avrt.model.encoding import Prompt
from avrt.model.shared_prompt import PackedLayout
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, TokenLogprobs, token_logprobs
from tests.tiny_student import (
    KINDS,
    load_student,
    make_sample,
    mixed_samples,
    plain_logits,
    random_responses,
    widen_norms,
)

EXACT = {"rtol": 0.0, "atol": 1e-10}
Responses = list[list[Tensor]]


def groups(student: Student, sizes: Sequence[int], longest: int = 9) -> Responses:
    """Ragged responses; the first of each group has one token only, so it adds no row to the packed input."""
    vocab = len(student.processor.tokenizer)
    return [
        random_responses([1 + (3 * i) % longest for i in range(size)], vocab, seed=10 * g)
        for g, size in enumerate(sizes)
    ]


def text_prompt(student: Student, length: int) -> EmbeddedPrompt:
    ids = torch.arange(length) + 30
    nothing = torch.empty(0, dtype=torch.long)
    width = student.thinker.lm_head.weight.shape[1]
    return EmbeddedPrompt(ids, torch.arange(length).expand(3, -1), nothing, torch.empty(0, width).double())


def language_gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backward(model: Any, logprobs: Sequence[Tensor]) -> dict[str, Tensor]:
    """All gradients of a weighted sum of log-probs of responses; the weights make every token matter differently."""
    model.zero_grad(set_to_none=True)
    sum((x * torch.linspace(-1, 2, len(x), dtype=x.dtype)).sum() * (i + 1) for i, x in enumerate(logprobs)).backward()
    gradients = language_gradients(model)
    model.zero_grad(set_to_none=True)
    return gradients


def rows(scores: TokenLogprobs) -> list[Tensor]:
    return [x[mask] for x, mask in zip(scores.logprobs, scores.mask, strict=True)]


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    assert {"model.language_model.embed_tokens.weight", "lm_head.weight"} <= ours.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], **(tolerance or EXACT), msg=lambda m, n=name: f"{n}: {m}")


def plain_scores(
    model: Any, student: Student, prompts: Sequence[Prompt], responses: Responses
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probs and entropies of every response, each from a separate forward pass through the whole thinker."""
    logprobs, entropies = [], []
    for prompt, group in zip(prompts, responses, strict=True):
        for response in group:
            logp = plain_logits(model, student, prompt, response).log_softmax(-1)
            logprobs.append(logp.gather(1, response[:, None]).squeeze(1))
            entropies.append(-(logp.exp() * logp).sum(-1).detach())
    return logprobs, entropies


@pytest.fixture(scope="module")
def checkpointed(layout_folder: Path) -> Student:
    student = load_student(layout_folder, dtype="float64", gradient_checkpointing=True)
    widen_norms(student.thinker.model.language_model)
    return student


@pytest.mark.parametrize(
    ("kind", "size"),
    [(kind, size) for kind in KINDS for size in (range(1, 9) if kind == "audio_video" else (1, 2, 8))],
)
def test_one_group(student64: Student, plain64: Any, kind: str, size: int) -> None:
    prompts = [student64.encoder.encode(make_sample(kind))]
    responses = groups(student64, [size])
    scores = token_logprobs(student64.language_model, student64.embed(prompts), responses)
    logprobs, entropies = plain_scores(plain64, student64, prompts, responses)
    for i, (logprob, entropy) in enumerate(zip(logprobs, entropies, strict=True)):
        torch.testing.assert_close(scores.logprobs[i][scores.mask[i]], logprob, **EXACT)
        torch.testing.assert_close(scores.entropies[i][scores.mask[i]], entropy, **EXACT)
    freeze(plain64)
    assert_same(backward(student64.thinker, rows(scores)), backward(plain64, logprobs))


def freeze(model: Any) -> None:
    model.model.visual.requires_grad_(False)
    model.model.audio_tower.requires_grad_(False)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_prompts_of_all_streams_in_one_batch(
    student64: Student, checkpointed: Student, plain64: Any, checkpointing: bool
) -> None:
    student = checkpointed if checkpointing else student64
    prompts = [student.encoder.encode(sample) for sample in mixed_samples()]
    assert len({len(prompt.input_ids) for prompt in prompts}) > 2
    responses = groups(student, [3, 1, 4, 2])
    layers = student.thinker.model.language_model.layers
    calls = []
    handle = layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    student.thinker.model.language_model.train()
    scores = token_logprobs(student.language_model, student.embed(prompts), responses)
    freeze(plain64)
    gradients = backward(student.thinker, rows(scores))
    handle.remove()
    student.thinker.model.language_model.eval()
    assert len(calls) == 1 + checkpointing, "the layer is computed once, and once more when it is recomputed"
    logprobs, entropies = plain_scores(plain64, student, prompts, responses)
    torch.testing.assert_close(torch.cat(rows(scores)), torch.cat(logprobs), **EXACT)
    torch.testing.assert_close(scores.entropies[scores.mask], torch.cat(entropies), **EXACT)
    assert_same(gradients, backward(plain64, logprobs))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("size", range(1, 9))
def test_text_prompts(student64: Student, checkpointed: Student, size: int, checkpointing: bool) -> None:
    """Text only (no clip, so only below the student): against the text model alone, one row per response."""
    student = checkpointed if checkpointing else student64
    prompts = [text_prompt(student, 5), text_prompt(student, 1), text_prompt(student, 12)]
    responses = groups(student, [size, 1, size])
    scores = token_logprobs(student.language_model, prompts, responses)
    ours = backward(student.thinker, rows(scores))
    logprobs, entropies = [], []
    for prompt, group in zip(prompts, responses, strict=True):
        for response in group:
            ids = torch.cat([prompt.input_ids, response])[None]
            positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
            mask = torch.ones_like(ids)
            hidden = student64.language_model.text_model(ids, attention_mask=mask, position_ids=positions)[0]
            logp = student64.thinker.lm_head(hidden)[0, -len(response) - 1 : -1].log_softmax(-1)
            logprobs.append(logp.gather(1, response[:, None]).squeeze(1))
            entropies.append(-(logp.exp() * logp).sum(-1).detach())
    torch.testing.assert_close(torch.cat(rows(scores)), torch.cat(logprobs), **EXACT)
    torch.testing.assert_close(scores.entropies[scores.mask], torch.cat(entropies), **EXACT)
    assert_same(ours, backward(student64.thinker, logprobs))


@pytest.mark.parametrize("settings", [{"share_prompt": False}, *({"chunk_rows": n} for n in (0, 1, 7, 256))], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_settings_change_nothing(student64: Student, settings: dict[str, Any], temperature: float) -> None:
    prompts = student64.embed([student64.encoder.encode(sample) for sample in mixed_samples()])
    responses = groups(student64, [3, 1, 4, 2])
    common = {"temperature": temperature, "banned": student64.banned_tokens}
    default = token_logprobs(student64.language_model, prompts, responses, **common)
    changed = token_logprobs(student64.language_model, prompts, responses, **common, **settings)
    torch.testing.assert_close(changed.logprobs, default.logprobs, **EXACT)
    torch.testing.assert_close(changed.entropies, default.entropies, **EXACT)
    assert torch.equal(changed.mask, default.mask)
    assert_same(backward(student64.thinker, rows(changed)), backward(student64.thinker, rows(default)))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_flex_attention_changes_nothing(
    student64: Student, layout_folder: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """The whole row in one FlexAttention call: the same log-probs and gradients.

    torch refuses a gradient on the CPU, though what it runs there without compiling is plain arithmetic that has one.
    """
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    flex = load_student(layout_folder, dtype="float64", attention_kernel="flex", gradient_checkpointing=checkpointing)
    widen_norms(flex.thinker.model.language_model)
    prompts = student64.embed([student64.encoder.encode(sample) for sample in mixed_samples()])
    responses = groups(student64, [3, 1, 4, 2])
    default = token_logprobs(student64.language_model, prompts, responses)
    changed = token_logprobs(flex.language_model, prompts, responses)
    torch.testing.assert_close(changed.logprobs, default.logprobs, **EXACT)
    torch.testing.assert_close(changed.entropies, default.entropies, **EXACT)
    assert_same(backward(flex.thinker, rows(changed)), backward(student64.thinker, rows(default)))
    reference = token_logprobs(flex.copy_language_model(), prompts, responses)
    torch.testing.assert_close(reference.logprobs, default.logprobs, **EXACT)


def test_other_prompts_responses_and_padding_change_nothing(student64: Student) -> None:
    """A group's log-probs do not depend on other groups in its row or on their lengths."""
    prompts = student64.embed([student64.encoder.encode(sample) for sample in mixed_samples()])
    responses = groups(student64, [3, 3, 3, 3])
    alone = token_logprobs(student64.language_model, prompts[:1], responses[:1])
    longer = [*responses[1:], random_responses([40, 2], 300)]
    together = token_logprobs(student64.language_model, [*prompts[1:], prompts[2]], longer)
    assert together.logprobs.shape[1] == 40
    mixed = token_logprobs(
        student64.language_model, [prompts[3], prompts[0], prompts[2]], [longer[3], responses[0], longer[0]]
    )
    torch.testing.assert_close(mixed.logprobs[2:5][mixed.mask[2:5]], alone.logprobs[alone.mask], **EXACT)
    torch.testing.assert_close(mixed.entropies[2:5][mixed.mask[2:5]], alone.entropies[alone.mask], **EXACT)
    assert (mixed.logprobs[~mixed.mask] == 0).all()


def test_permuted_group(student64: Student) -> None:
    prompts = student64.embed([student64.encoder.encode(make_sample())])
    responses = groups(student64, [5])[0]
    order = [3, 0, 4, 2, 1]
    straight = token_logprobs(student64.language_model, prompts, [responses])
    permuted = token_logprobs(student64.language_model, prompts, [[responses[i] for i in order]])
    torch.testing.assert_close(permuted.logprobs, straight.logprobs[order], **EXACT)


def test_no_rows_times_prompt_tokens(student64: Student) -> None:
    """The prompt is computed once: the layers get P + the responses' tokens, not G times the prompt."""
    prompts = student64.embed([student64.encoder.encode(make_sample())])
    responses = random_responses([6] * 8, 300)
    seen = []
    handle = student64.thinker.model.language_model.layers[0].register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].shape)
    )
    token_logprobs(student64.language_model, prompts, [responses])
    token_logprobs(student64.language_model, prompts, [responses], share_prompt=False)
    handle.remove()
    p = len(prompts[0])
    assert [tuple(shape[:2]) for shape in seen] == [(1, p + 8 * 5), (1, 8 * (p + 5))]


def test_refusals(student64: Student) -> None:
    prompts = [text_prompt(student64, 3)]
    with pytest.raises(ValueError, match="at least one token"):
        token_logprobs(student64.language_model, prompts, [[torch.empty(0, dtype=torch.long)]])
    with pytest.raises(ValueError, match="one entry per prompt"):
        PackedLayout([3], [])
    with pytest.raises(ValueError, match="at least one token"):
        PackedLayout([0], [[2]])
    with pytest.raises(ValueError, match="keep_prefix"):
        _ = PackedLayout([3], [[2]]).prefix_cache


@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_layout_by_hand(kernel: Any) -> None:
    """Two prompts of 3 and 2 tokens with responses of 2, 0 and 1 tokens: every token's position and visible tokens."""
    layout = PackedLayout([3, 2], [[2, 0], [1]], kernel=kernel)
    assert layout.num_tokens == 8
    (first, second), ((one, empty), (other,)) = (
        [list(range(*span)) for span in layout.prompt_rows],
        [[list(range(*span)) for span in group] for group in layout.response_rows],
    )
    assert [len(span) for span in (first, second, one, empty, other)] == [3, 2, 2, 0, 1]
    assert sorted(first + second + one + other) == list(range(8))

    positions = layout.position_ids([torch.tensor([[0, 1, 1], [0, 1, 4], [0, 1, 2]]), torch.arange(2).expand(3, -1)])
    expected = torch.zeros(3, 8, dtype=torch.long)
    expected[:, first] = torch.tensor([[0, 1, 1], [0, 1, 4], [0, 1, 2]])
    expected[:, second] = torch.tensor([0, 1])
    expected[:, one] = torch.tensor([5, 6])
    expected[:, other] = 2
    assert torch.equal(positions[:, 0], expected)

    sees = {row: first[: i + 1] for i, row in enumerate(first)} | {row: second[: i + 1] for i, row in enumerate(second)}
    sees |= {row: first + one[: i + 1] for i, row in enumerate(one)} | {other[0]: second + other}
    zeros = torch.zeros(1, 1, 8, 8)
    # With equal scores, attention is the mean of the visible values: one-hot values reveal the mask.
    out = layout.attend(zeros, zeros, torch.eye(8)[None, None], 1.0, 0)
    for row, visible in sees.items():
        expected = torch.zeros(8)
        expected[visible] = 1 / len(visible)
        torch.testing.assert_close(out[0, row, 0], expected)
