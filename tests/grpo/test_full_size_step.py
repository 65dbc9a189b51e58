"""A whole 7B-shaped gradient step under fake tensors: the same code, shapes only, no memory."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.model.shared_prompt import ATTENTION_NAME
from avrt.model.student import freeze_encoders
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, token_logprobs
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.decode_layout import attention_scores
from avrt.rollout.engine import SamplingConfig
from tests.published_shapes import OMNI_7B

PROMPT, MEDIA, GROUP = 3072, 2500, 4


@torch.no_grad()
def roll_out(model: LanguageModel, prompts: list[EmbeddedPrompt], banned: torch.Tensor) -> None:
    """Prefill and two tokens. The loop around them asks for the tokens' values, which fake tensors do not have."""
    engine = TransformersRollout(model, SamplingConfig(), eos_token_ids=(1,), banned=banned)
    hidden, position, cache = engine.prefill(prompts, GROUP)
    for step in range(2):
        token, logprob = engine.sample(hidden, torch.zeros(2 * GROUP, dtype=torch.float64))
        assert token.shape == logprob.shape == position.shape == (2 * GROUP,)
        hidden = engine.decode_step(token, position + step, cache)
        assert hidden.shape == (2 * GROUP, OMNI_7B.hidden)
    cache.keep([1, 5])
    assert engine.decode_step(token[:2], position[:2], cache).shape == (2, OMNI_7B.hidden)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no CUDA")
def test_half_precision_scores_on_a_gpu_stay_wide() -> None:
    """Fake tensors run what is taken on GPUs alone, without one."""
    with FakeTensorMode():
        q = torch.empty(2, 4, 28, 128, dtype=torch.bfloat16, device="cuda:0")
        k = torch.empty(2, 4, 300, 128, dtype=torch.bfloat16, device="cuda:0")
        for keys in (k, k[:, :, :7]):  # as a response's cache is read
            scores = attention_scores(q, keys, 0.1)
            assert (scores.shape, scores.dtype) == ((2, 4, 28, keys.shape[2]), torch.float32)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_7b_step(checkpointing: bool) -> None:
    config = OMNI_7B.config()
    # The frozen encoders take no part in the step; one layer of each shows that they get no gradient.
    config.vision_config.depth = config.audio_config.encoder_layers = 1
    with FakeTensorMode():
        thinker = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        freeze_encoders(thinker)
        text_model = thinker.model.language_model.train()
        text_model.set_attn_implementation(ATTENTION_NAME)
        if checkpointing:
            text_model.activation_checkpointing_enable({"use_reentrant": False})
        model = LanguageModel(text_model, thinker.lm_head)
        prompts = [
            EmbeddedPrompt(
                input_ids=torch.zeros(length, dtype=torch.long),
                position_ids=torch.arange(length).expand(3, -1),
                media_positions=torch.arange(4, 4 + MEDIA),
                media_features=torch.zeros(MEDIA, OMNI_7B.hidden, dtype=torch.bfloat16),
            )
            for length in (PROMPT, PROMPT + 17)
        ]
        lengths = [[200 - 7 * g - i for g in range(GROUP)] for i in range(2)]
        responses = [[torch.zeros(c, dtype=torch.long) for c in group] for group in lengths]
        banned = torch.zeros(OMNI_7B.vocabulary, dtype=torch.bool)
        roll_out(model, prompts, banned)
        with torch.no_grad():
            reference = token_logprobs(model, prompts, responses, banned=banned)
        scores = token_logprobs(model, prompts, responses, banned=banned)
        assert scores.logprobs.shape == (2 * GROUP, 200)
        assert scores.logprobs.dtype == torch.float32
        tokens = sum(map(sum, lengths))
        out = grpo_loss(
            scores.logprobs,
            scores.mask,
            torch.zeros(2 * GROUP),
            LossConfig(),
            Normalizer(2 * GROUP, tokens, float(tokens), 1024),
            ref_logprobs=reference.logprobs,
            entropies=scores.entropies,
        )
        out.loss.backward()
        torch.optim.AdamW([p for p in thinker.parameters() if p.requires_grad]).step()
    assert len(text_model.layers) == 28
    assert thinker.lm_head.weight.shape == (152_064, 3584)
    for name, parameter in thinker.named_parameters():
        trained = "visual" not in name and "audio_tower" not in name
        assert (parameter.grad is not None) == trained, name
        if trained:
            assert parameter.grad.shape == parameter.shape
            assert parameter.grad.dtype == torch.bfloat16
