"""Sampling: what is recorded is what is scored, shared prefill changes nothing, and placeholders never come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avrt.model.encoding import Prompt
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, token_logprobs
from avrt.rollout import decode_layout
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from tests.tiny_student import KINDS, SHAPE, load_student, make_sample, mixed_samples, plain_inputs, plain_logits

CONFIG = SamplingConfig(max_completion_length=12)
SEEDS = (3, 1, 4, 1)


def roll_out(
    student: Student,
    prompts: list[EmbeddedPrompt],
    group: int = 4,
    config: SamplingConfig = CONFIG,
    seeds: tuple[int, ...] = SEEDS,
    banned: Tensor | None = None,
) -> list[list[Response]]:
    banned = student.banned_tokens if banned is None else banned
    engine = TransformersRollout(student.language_model, config, student.eos_token_ids, banned)
    return engine.generate(prompts, group, list(seeds[: len(prompts)]))


def mixed_prompts(student: Student) -> tuple[list[Prompt], list[EmbeddedPrompt]]:
    prompts = [student.encoder.encode(sample) for sample in mixed_samples()]
    return prompts, student.embed(prompts)


def flat(groups: list[list[Response]]) -> list[Response]:
    return [response for group in groups for response in group]


def assert_same(ours: list[list[Response]], theirs: list[list[Response]], atol: float) -> None:
    assert [len(group) for group in ours] == [len(group) for group in theirs]
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert a.finished == b.finished
        torch.testing.assert_close(a.logprobs, b.logprobs, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_recorded_logprobs_are_the_training_forwards(student32: Student, plain32: Any, kind: str) -> None:
    """For every one of the G copies: against our scoring and against transformers' own forward, float32."""
    samples = mixed_samples() if kind == "mixed" else [make_sample(kind, 1), make_sample(kind, 2, audio_seconds=0.6)]
    prompts = [student32.encoder.encode(sample) for sample in samples]
    embedded = student32.embed(prompts)
    groups = roll_out(student32, embedded)
    banned = student32.banned_tokens
    scores = token_logprobs(
        student32.language_model, embedded, [[r.token_ids for r in group] for group in groups], banned=banned
    )
    for i, response in enumerate(flat(groups)):
        torch.testing.assert_close(response.logprobs, scores.logprobs[i][scores.mask[i]], rtol=0, atol=1e-5)
    with torch.no_grad():
        for prompt, group in zip(prompts, groups, strict=True):
            for response in group:
                logits = plain_logits(plain32, student32, prompt, response.token_ids).masked_fill(banned, -torch.inf)
                expected = logits.log_softmax(-1).gather(1, response.token_ids[:, None]).squeeze(1)
                torch.testing.assert_close(response.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_samples_what_it_scores(layout_folder: Any, autocast: bool) -> None:
    """With attention scores in the hundreds, as trained models have them: rounded, they would move every token."""
    student = load_student(layout_folder)
    with torch.no_grad():
        for layer in student.thinker.model.language_model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                projection.weight.mul_(4)
                if projection.bias is not None:
                    projection.bias.view(-1, 16)[:, 7] = 30.0  # in the pair that turns slowest
            if hasattr(layer.self_attn, "q_norm"):  # the scale of queries and keys is that of their norms
                layer.self_attn.q_norm.weight.mul_(10)
                layer.self_attn.k_norm.weight.mul_(10)
    if not autocast:
        student.thinker.model.language_model.bfloat16()
        student.thinker.lm_head.bfloat16()
    _, embedded = mixed_prompts(student)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        groups = roll_out(student, embedded)
        scores = token_logprobs(
            student.language_model,
            embedded,
            [[r.token_ids for r in group] for group in groups],
            banned=student.banned_tokens,
        )
    recorded = torch.cat([response.logprobs for response in flat(groups)])
    assert (scores.logprobs[scores.mask] - recorded).abs().mean() < 0.002


def naive_rollout(
    model: Any, student: Student, prompt: Prompt, uniforms: Tensor, temperature: float
) -> list[tuple[list[int], list[float], bool]]:
    """One response per row of `uniforms`, every token from a full forward of transformers' thinker over everything."""
    banned = student.banned_tokens
    responses = []
    for row in uniforms:
        tokens: list[int] = []
        logprobs: list[float] = []
        for uniform in row:
            # The last position's logits; a token behind it lets `plain_logits` cut them out.
            ids = torch.tensor([*tokens, 0])
            logits = plain_logits(model, student, prompt, ids)[-1].masked_fill(banned, -torch.inf) / temperature
            cumulative = logits.double().softmax(-1).cumsum(-1)
            token = int((cumulative <= uniform * cumulative[-1]).sum())
            tokens.append(token)
            logprobs.append(float(logits.log_softmax(-1)[token]))
            if token in student.eos_token_ids:
                break
        responses.append((tokens, logprobs, tokens[-1] in student.eos_token_ids))
    return responses


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_same_tokens_as_a_naive_loop(student64: Student, plain64: Any, temperature: float) -> None:
    """For the same random numbers the same tokens as recomputing everything for every token, in all streams."""
    prompts, embedded = mixed_prompts(student64)
    config = SamplingConfig(max_completion_length=6, temperature=temperature)
    groups = roll_out(student64, embedded, group=2, config=config)
    with torch.no_grad():
        for prompt, group, seed in zip(prompts, groups, SEEDS, strict=True):
            uniforms = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            naive = naive_rollout(plain64, student64, prompt, uniforms, temperature)
            for response, (tokens, logprobs, finished) in zip(group, naive, strict=True):
                assert response.token_ids.tolist() == tokens
                assert response.finished == finished
                torch.testing.assert_close(response.logprobs, torch.tensor(logprobs), rtol=0, atol=1e-6)


def eos_heavy(student: Student) -> Tensor:
    """Ban all but a few tokens, so that responses end after a few steps and rows leave the batch one by one."""
    banned = torch.ones_like(student.banned_tokens)
    banned[[10, 20, 30, 40, *student.eos_token_ids[:1]]] = False
    return banned


@pytest.mark.parametrize(
    ("kv_cache_tokens", "share_prefill"), [(10**6, False), (1, True), (300, True), (450, True), (450, False)]
)
def test_settings_change_nothing(student64: Student, kv_cache_tokens: int, share_prefill: bool) -> None:
    _, embedded = mixed_prompts(student64)
    banned = eos_heavy(student64)
    config = replace(CONFIG, max_completion_length=20)
    default = roll_out(student64, embedded, config=config, banned=banned)
    lengths = {len(response.token_ids) for response in flat(default)}
    assert len(lengths) > 4, "responses must end at different times, or this test shows little"
    config = replace(config, kv_cache_tokens=kv_cache_tokens)
    engine = TransformersRollout(
        student64.language_model, config, student64.eos_token_ids, banned, share_prefill=share_prefill
    )
    assert_same(engine.generate(embedded, 4, SEEDS), default, 1e-6)


def test_long_responses_outgrow_the_first_cache(student64: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    _, embedded = mixed_prompts(student64)
    config = replace(CONFIG, max_completion_length=21)
    default = roll_out(student64, embedded, config=config)
    assert max(len(response.token_ids) for response in flat(default)) == 21
    monkeypatch.setattr(decode_layout, "INITIAL_CACHE_STEPS", 2)
    assert_same(roll_out(student64, embedded, config=config), default, 1e-6)


def test_a_prompts_responses_depend_on_its_seed_alone(student64: Student) -> None:
    _, embedded = mixed_prompts(student64)
    together = roll_out(student64, embedded)
    for i in (3, 0, 2):
        alone = roll_out(student64, [embedded[i]], seeds=(SEEDS[i],))
        assert_same(alone, [together[i]], 1e-6)
    assert together[1][0].token_ids.tolist() != roll_out(student64, [embedded[1]], seeds=(9,))[0][0].token_ids.tolist()
    assert len({tuple(response.token_ids.tolist()) for response in together[0]}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_generate(student32: Student, plain32: Any, kind: str) -> None:
    """transformers' own `generate` on the processor's tensors, media tokens suppressed there as well."""
    prompt = student32.encoder.encode(make_sample(kind, 1))
    config = SamplingConfig(max_completion_length=16, temperature=0.0)
    ours = roll_out(student32, student32.embed([prompt]), group=1, config=config)[0][0]
    theirs = plain32.generate(
        **plain_inputs(student32, prompt),
        max_new_tokens=16,
        do_sample=False,
        repetition_penalty=1.0,  # the published generation config has another, which holds for greedy tokens too
        suppress_tokens=student32.banned_tokens.nonzero().squeeze(1).tolist(),
        eos_token_id=list(student32.eos_token_ids),
    )
    assert ours.token_ids.tolist() == theirs[0, len(prompt.input_ids) :].tolist()


def test_samples_follow_the_distribution(student_folder: Path) -> None:
    """20,000 first tokens of one prompt against the probabilities of the forward: chi-squared within 5 sigma."""
    student32 = load_student(student_folder)  # a vocabulary of 150,000 rows would need 12 GB
    prompt = student32.encoder.encode(make_sample("video", 1))
    embedded = student32.embed([prompt])
    count = 20_000
    config = SamplingConfig(max_completion_length=1, temperature=0.5)
    responses = roll_out(student32, embedded, group=count, config=config)[0]
    counts = torch.bincount(torch.cat([r.token_ids for r in responses]), minlength=320).double()
    every = [torch.tensor([token]) for token in range(320)]
    scores = token_logprobs(
        student32.language_model, embedded, [every], temperature=0.5, banned=student32.banned_tokens
    )
    probabilities = scores.logprobs[:, 0].double().exp().detach()
    assert probabilities[student32.banned_tokens].sum() == 0
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert counts[student32.banned_tokens].sum() == 0
    kept = ~student32.banned_tokens
    expected = probabilities[kept] * count
    chi_squared = float(((counts[kept] - expected) ** 2 / expected).sum())
    freedom = int(kept.sum()) - 1
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_placeholders_never_come_out(layout_folder: Any, temperature: float) -> None:
    """The head is rigged to want nothing but media tokens and rows of the vocabulary that no token has."""
    student = load_student(layout_folder)
    tokenizer = student.processor.tokenizer
    media = tokenizer.convert_tokens_to_ids(list(student.family.media_tokens.all))
    assert len(set(media)) == len(student.family.media_tokens.all)
    _, embedded = mixed_prompts(student)
    prefer(student, media)
    unbanned = roll_out(student, embedded, banned=torch.zeros_like(student.banned_tokens), config=CONFIG)
    assert all(set(r.token_ids.tolist()) <= set(media) for r in flat(unbanned)), "the rigging does not work"
    config = replace(CONFIG, temperature=temperature)
    for response in flat(roll_out(student, embedded, config=config)):
        assert not set(response.token_ids.tolist()) & set(media)
        assert response.logprobs.isfinite().all()


def prefer(student: Student, token_ids: list[int]) -> None:
    """Make the head want `token_ids` in every state."""
    weight = student.thinker.lm_head.weight
    with torch.no_grad():
        # A final norm that passes one unit only makes the last hidden state +-c in that unit and 0 elsewhere.
        norm = student.thinker.model.language_model.norm.weight
        norm.zero_()
        norm[0] = 1.0
        weight.zero_()
        # Half of the tokens wanted for either sign.
        weight[token_ids[::2], 0] = 1e4
        weight[token_ids[1::2], 0] = -1e4


def test_the_last_random_number_is_no_way_in(student32: Student) -> None:
    """Rounding in the running sum must not push a draw of almost 1 onto the banned end of the vocabulary."""
    banned = torch.zeros_like(student32.banned_tokens)
    banned[200:] = True
    engine = TransformersRollout(student32.language_model, CONFIG, student32.eos_token_ids, banned)
    hidden = torch.randn(64, SHAPE.hidden_size, generator=torch.Generator().manual_seed(0))
    for uniform in (0.0, 0.5, 1 - 2**-53):  # torch.rand draws multiples of 2^-53 below 1
        token, logprob = engine.sample(hidden, torch.full((64,), uniform, dtype=torch.float64))
        assert (token < 200).all(), uniform
        assert logprob.isfinite().all()


def test_training_mode_is_restored(student32: Student) -> None:
    text_model = student32.thinker.model.language_model
    _, embedded = mixed_prompts(student32)
    for training in (True, False):
        text_model.train(training)
        roll_out(student32, embedded[:1])
        assert text_model.training is training
    with pytest.raises(ValueError, match="seeds"):
        TransformersRollout(student32.language_model, CONFIG, (1,)).generate(embedded, 2, [1])
