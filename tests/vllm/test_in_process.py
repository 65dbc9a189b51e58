"""vLLM in the process that trains: the same numbers as the policy, before and after updates, or an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avrt.model.encoding import Prompt
from avrt.model.lora import LoRAConfig, inject
from avrt.model.student import Student
from avrt.model.token_logprobs import EmbeddedPrompt, token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.rollout.vllm import VLLM, in_process
from avrt.rollout.vllm.in_process import VLLMEngine
from tests.model.test_several_clips import AUDIO, IMAGES, VIDEOS, sample_of
from tests.tiny_student import KINDS, load_plain, load_student, make_sample, plain_logits

pytestmark = pytest.mark.vllm

SAMPLING = SamplingConfig(max_completion_length=12, temperature=0.7)
SETTINGS = VLLM(max_model_len=1024, enforce_eager=True)


@pytest.fixture(scope="module")
def engine(float32_folder: Path) -> Iterator[VLLMEngine]:
    student = load_student(float32_folder)
    engine = SETTINGS.start(student, SAMPLING)
    engine.update_weights()
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def same_weights(engine: VLLMEngine) -> Iterator[None]:
    """Whatever a test did to the policy's weights or to the engine's, the next one starts from equal ones."""
    before = {
        name: weight.detach().clone() for name, weight in engine.student.language_model.text_model.named_parameters()
    }
    yield
    for name, weight in engine.student.language_model.text_model.named_parameters():
        weight.data.copy_(before[name])
    engine.update_weights()


def prompts(student: Student) -> list[Prompt]:
    """Every combination of streams, text alone, and a question about several clips."""
    encode = student.encoder.encode
    encoded = [encode(make_sample(kind, i, audio_seconds=0.5 + 0.43 * i)) for i, kind in enumerate(KINDS)]
    messages = [{"role": "user", "content": [{"type": "text", "text": "Which thing is red?"}]}]
    encoded.append(student.encoder.encode_chat(make_sample(), messages, []))
    return [*encoded, encode(sample_of("Which?", [*IMAGES, *AUDIO, VIDEOS[0]]))]


def change(student: Student, size: float = 0.02) -> None:
    """An update of all trained weights."""
    generator = torch.Generator().manual_seed(3)
    for weight in [*student.language_model.text_model.parameters(), student.language_model.head.weight]:
        weight.data += size * torch.randn(weight.shape, generator=generator)


def scored(student: Student, prompt: EmbeddedPrompt, group: list[Response]) -> list[Tensor]:
    scores = token_logprobs(
        student.language_model,
        [prompt],
        [[r.token_ids for r in group]],
        temperature=SAMPLING.temperature,
        banned=student.banned_tokens,
    )
    return [row[mask] for row, mask in zip(scores.logprobs.detach(), scores.mask, strict=True)]


def largest_difference(engine: VLLMEngine) -> float:
    embedded = engine.student.embed(prompts(engine.student))
    groups = engine.generate(embedded, 3, range(len(embedded)))
    differences = [
        (response.logprobs - logprobs).abs().max()
        for prompt, group in zip(embedded, groups, strict=True)
        for response, logprobs in zip(group, scored(engine.student, prompt, group), strict=True)
    ]
    assert len(differences) == 3 * len(embedded)
    return float(max(differences))


def test_log_probabilities_are_the_policys(engine: VLLMEngine) -> None:
    assert largest_difference(engine) < 1e-5


def test_log_probabilities_are_those_of_transformers(engine: VLLMEngine, float32_folder: Path) -> None:
    """Plain transformers on the processor's own tensors: nothing of the project's encoding or attention."""
    student, plain = engine.student, load_plain(float32_folder, torch.float32)
    for prompt in prompts(student)[: len(KINDS)]:
        [[response]] = engine.generate(student.embed([prompt]), 1, [5])
        logits = plain_logits(plain, student, prompt, response.token_ids) / SAMPLING.temperature
        expected = logits.masked_fill(student.banned_tokens, -torch.inf).log_softmax(-1)
        taken = expected.gather(1, response.token_ids[:, None])[:, 0].detach()
        assert torch.allclose(response.logprobs, taken, atol=1e-5)


def test_log_probabilities_after_updates(engine: VLLMEngine) -> None:
    for _ in range(2):
        change(engine.student)
        engine.update_weights()
        assert largest_difference(engine) < 1e-5


def test_greedy_tokens_are_those_of_the_built_in_engine(engine: VLLMEngine) -> None:
    student, greedy = engine.student, replace(SAMPLING, temperature=0.0)
    embedded = student.embed(prompts(student))
    built_in = TransformersRollout(student.language_model, greedy, student.eos_token_ids, student.banned_tokens)
    expected = built_in.generate(embedded, 1, [0] * len(embedded))
    found = engine._generate(embedded, 1, [0] * len(embedded), greedy)
    for [mine], [theirs] in zip(found, expected, strict=True):
        assert mine.token_ids.tolist() == theirs.token_ids.tolist()
        assert mine.finished == theirs.finished
        assert torch.allclose(mine.logprobs, theirs.logprobs, atol=1e-5)


def test_a_seed_gives_the_same_responses_alone_and_in_company(engine: VLLMEngine) -> None:
    embedded = engine.student.embed(prompts(engine.student)[:3])
    together = engine.generate(embedded, 2, [7, 8, 9])
    alone = [engine.generate([prompt], 2, [seed])[0] for prompt, seed in zip(embedded, (7, 8, 9), strict=True)]
    tokens = [[r.token_ids.tolist() for r in group] for group in together]
    assert tokens == [[r.token_ids.tolist() for r in group] for group in alone]
    assert tokens[0][0] != tokens[0][1]


def test_banned_tokens_are_never_sampled(engine: VLLMEngine) -> None:
    """With all text tokens made unlikely, only banned ones would be left."""
    student = engine.student
    head = student.language_model.head.weight.data
    head[~student.banned_tokens] *= 1e-3
    head[student.banned_tokens] *= 50
    engine.update_weights()
    embedded = student.embed(prompts(student)[:2])
    tokens = torch.cat([r.token_ids for group in engine.generate(embedded, 4, [1, 2]) for r in group])
    assert not student.banned_tokens[tokens].any()


def test_an_end_token_ends_a_response(engine: VLLMEngine) -> None:
    student = engine.student
    end = student.eos_token_ids[0]
    head = student.language_model.head.weight.data
    embedded = student.embed(prompts(student)[:1])
    [[first]] = engine._generate(embedded, 1, [0], replace(SAMPLING, temperature=0.0))
    head[end] = head[first.token_ids[2]] * 1.5
    engine.update_weights()
    [[ended]] = engine._generate(embedded, 1, [0], replace(SAMPLING, temperature=0.0))
    assert ended.finished
    assert ended.token_ids[-1] == end
    assert len(ended.token_ids) == len(ended.logprobs) < SAMPLING.max_completion_length
    assert not first.finished


def test_adapters_are_merged_on_the_way(float32_folder: Path, engine: VLLMEngine) -> None:
    student = load_student(float32_folder)
    student.requires_grad_(False)
    inject(student.thinker.model.language_model, LoRAConfig(rank=4), student.family)
    generator = torch.Generator().manual_seed(1)
    for name, weight in student.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    own, check = engine.student, engine._check
    try:
        engine.student = student
        engine._check = in_process.TransferCheck(student, SAMPLING, torch.float32)
        engine.update_weights()
        assert largest_difference(engine) < 1e-4  # W x + B A x is rounded otherwise than (W + B A) x
    finally:
        engine.student, engine._check = own, check


# ---- faults, each of which must end the step ------------------------------------------------------------------------


def test_a_missing_tensor(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "thinker.model.layers.1.self_attn.k_proj.weight"
    whole = in_process.policy_weights(engine.student, engine._shapes)
    incomplete = [weight for weight in whole if weight.name != name]
    monkeypatch.setattr(in_process, "policy_weights", lambda *_: incomplete)
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.k_proj\.weight is missing \(1 of \d+"):
        engine.update_weights()


def test_a_tensor_of_another_shape(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = in_process.policy_weights(engine.student, engine._shapes)
    cut = replace(first, shape=(first.shape[0] - 1, *first.shape[1:]))
    monkeypatch.setattr(in_process, "policy_weights", lambda *_: [cut, *others])
    with pytest.raises(ValueError, match=r"has shape .* and the engine expects"):
        engine.update_weights()


def test_stale_weights(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that does nothing, after an update as small as one of a real run."""
    monkeypatch.setattr(in_process, "reload_weights", lambda llm, weights: list(weights))
    change(engine.student, 1e-5)
    with pytest.raises(ValueError, match="vLLM holds other weights than the policy after the transfer"):
        engine.update_weights()


def test_stale_weights_that_the_totals_do_not_show(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "reload_weights", lambda llm, weights: list(weights))
    monkeypatch.setattr(in_process, "arrived_totals", lambda model: {})
    monkeypatch.setattr(in_process.Totals, "check", lambda self, arrived: None)
    change(engine.student)
    with pytest.raises(ValueError, match="log-probabilities of a fixed prompt differ by"):
        engine.update_weights()


def test_a_kept_cache(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of the prompt under the old weights."""
    monkeypatch.setattr(engine._llm.llm_engine, "reset_prefix_cache", lambda *_: True)
    change(engine.student)
    with pytest.raises(ValueError, match="log-probabilities of a fixed prompt differ by"):
        engine.update_weights()


@pytest.mark.parametrize("samples", [160, -160])
def test_a_mel_frame_more_or_less(samples: int, engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(prompt: Prompt, media_tokens: Iterable[int]) -> dict[str, Any]:
        request = whole(prompt, media_tokens)  # type: ignore[arg-type]
        audio = request["multi_modal_data"]["audio"]
        request["multi_modal_data"]["audio"] = [F.pad(waveform, (0, samples)) for waveform in audio]
        return request

    whole = in_process.vllm_prompt
    monkeypatch.setattr(in_process, "vllm_prompt", other)
    with pytest.raises(ValueError, match=r"read .* prompt tokens|differ by"):
        engine.update_weights()


def test_another_frame_rate(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(prompt: Prompt, media_tokens: Iterable[int]) -> dict[str, Any]:
        request = whole(prompt, media_tokens)  # type: ignore[arg-type]
        request["mm_processor_kwargs"]["fps"] = 1.0
        return request

    whole = in_process.vllm_prompt
    monkeypatch.setattr(in_process, "vllm_prompt", other)
    with pytest.raises(ValueError, match="differ by"):
        engine.update_weights()


def test_a_prompt_that_is_too_long_is_named(engine: VLLMEngine) -> None:
    student = engine.student
    sample = replace(make_sample(), question="red " * 1200)
    embedded = student.embed([student.encoder.encode(sample), student.encoder.encode(make_sample("audio"))])
    with pytest.raises(ValueError, match=r"vLLM refuses a prompt \(the longest is sample 'audio_video-0'\): .*1024"):
        engine.generate(embedded, 1, [0, 1])
    assert largest_difference(engine) < 1e-5, "the next window is not disturbed"


def test_the_random_state_of_the_run_is_untouched(engine: VLLMEngine) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    engine.update_weights()
    engine.generate(engine.student.embed(prompts(engine.student)[:1]), 2, [3])
    assert torch.equal(torch.get_rng_state(), before)
