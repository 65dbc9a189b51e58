"""The encoders' windows in few attention calls: transformers' own numbers, on grids with uneven windows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.families.family import StudentFamily
from avrt.families.registry import FAMILIES, family_of_config
from avrt.model.encoder_attention import (
    ENCODER_ATTENTION_NAME,
    PatchProjection,
    batch_encoder_windows,
    window_attention,
)
from avrt.model.tiny import TinyShape, build_tiny_thinker, tiny_config
from tests.tiny_student import CORPUS, load_plain, load_student, make_sample, mixed_samples, plain_inputs

GRIDS = {
    "even": [[4, 16, 24]],  # windows of 8 x 8 patches only
    "edges": [[2, 20, 36]],  # half windows to the right and below
    "odd": [[3, 22, 14]],  # no window of full width and height at the corner
    "smaller than a window": [[2, 4, 6]],
    "several": [[2, 20, 36], [1, 6, 10], [3, 16, 8], [1, 22, 14]],
}
"""Frames, rows and columns of patches of each clip in a batch."""


class CallCounter:
    def __init__(self) -> None:
        self.calls = 0


@pytest.fixture
def attention_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallCounter]:
    counter, real = CallCounter(), F.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        counter.calls += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return counter


def thinkers(dtype: torch.dtype = torch.float32, family: StudentFamily = FAMILIES[0]) -> tuple[Any, Any, Any]:
    """The same random encoders with batched windows, with transformers' own attention, and without any kernel."""
    shape = TinyShape(hidden_size=64, num_hidden_layers=1, vision_layers=3, audio_layers=2, vision_heads=4)
    tokenizer = build_tiny_tokenizer(CORPUS * 4, vocab_size=320, family=family)
    config = tiny_config(shape, tokenizer, family=family)
    config._attn_implementation = "sdpa"
    own = build_tiny_thinker(config, seed=3, dtype=dtype).eval()
    batched, eager = copy.deepcopy(own), copy.deepcopy(own)
    batch_encoder_windows(batched)
    eager.set_attn_implementation("eager")
    return batched, own, eager


def see(thinker: Any, grids: list[list[int]]) -> Tensor:
    grid = torch.tensor(grids)
    values = 3 * 2 * thinker.config.vision_config.patch_size**2
    pixels = torch.randn(int(grid.prod(1).sum()), values, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.cat(family_of_config(thinker.config).visual_features(thinker.model, pixels, grid), dim=1)


def hear(thinker: Any, frames: list[int]) -> Tensor:
    mel = torch.randn(128, sum(frames), generator=torch.Generator().manual_seed(6))
    family = family_of_config(thinker.config)
    with torch.no_grad():
        features = family.audio_features(thinker.model, mel, torch.tensor(frames))
    assert [len(of_clip) for of_clip in features] == [family.audio_tokens(count) for count in frames]
    return torch.cat(features)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_vision_is_transformers_own(family: StudentFamily, grids: list[list[int]]) -> None:
    batched, own, eager = (see(thinker, grids) for thinker in thinkers(family=family))
    assert batched.std() > 0.1
    torch.testing.assert_close(batched, own, rtol=0, atol=1e-5)
    torch.testing.assert_close(batched, eager, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
@pytest.mark.parametrize("frames", [[400], [1000], [130], [400, 730, 90, 200, 1001]], ids=str)
def test_audio_is_transformers_own(family: StudentFamily, frames: list[int]) -> None:
    batched, own, eager = (hear(thinker, frames) for thinker in thinkers(family=family))
    assert batched.std() > 0.1
    torch.testing.assert_close(batched, own, rtol=0, atol=1e-5)
    torch.testing.assert_close(batched, eager, rtol=0, atol=1e-5)


def test_a_patch_reads_its_own_window_only(attention_calls: CallCounter) -> None:
    """Attention against a dense mask in float64, with windows of three lengths in no order, one of them empty."""
    generator = torch.Generator().manual_seed(0)
    lengths = [4, 6, 4, 1, 0, 6, 6, 4]
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8, generator=generator, dtype=torch.float64)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(owner[:, None] != owner, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    out, probabilities = window_attention(nn.Module(), query, key, value, None, scaling=0.3, cu_seq_lens_q=bounds)
    assert probabilities is None
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert attention_calls.calls == 3, "one call per length"
    window_attention(nn.Module(), query, key, value, None, scaling=0.3, cu_seq_lens_q=bounds)
    other = torch.tensor([0, sum(lengths)]).int()
    whole, _ = window_attention(nn.Module(), query, key, value, None, scaling=0.3, cu_seq_lens_q=other)
    everything = ((query @ key.transpose(2, 3) * 0.3).softmax(-1) @ value).transpose(1, 2)
    torch.testing.assert_close(whole, everything, rtol=0, atol=1e-12, msg="other bounds, other windows")


def test_calls_per_forward(attention_calls: CallCounter) -> None:
    """Three layers of vision, the last of which attends to whole frames; two of audio. One call per length."""
    batched, own, _ = thinkers()
    for look, expected, before in (
        (lambda t: see(t, [[4, 16, 24]]), 3, 2 * 4 * 6 + 4),
        (lambda t: see(t, [[2, 20, 36]]), 2 * 3 + 1, 2 * 2 * 15 + 2),
        (lambda t: hear(t, [400, 730]), 2 * 2, 2 * (2 + 4)),
    ):
        attention_calls.calls = 0
        look(batched)
        assert attention_calls.calls == expected
        attention_calls.calls = 0
        look(own)
        assert attention_calls.calls == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_patches_are_embedded_by_a_product(dtype: torch.dtype) -> None:
    batched, own, _ = thinkers(dtype)
    ours, theirs = batched.model.visual.patch_embed, own.model.visual.patch_embed
    assert isinstance(ours.proj, PatchProjection)
    pixels = torch.randn(50, 1176, generator=torch.Generator().manual_seed(1))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.04}[dtype]
    torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=tolerance)
    assert ours(pixels).dtype == dtype
    images = torch.randn(1, 3, 4, 28, 28, dtype=dtype)
    torch.testing.assert_close(ours.proj(images), theirs.proj(images), rtol=0, atol=tolerance, msg="other inputs")


def test_weights_keep_their_names() -> None:
    batched, own, _ = thinkers()
    assert list(batched.state_dict()) == list(own.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(batched.state_dict().values(), own.state_dict().values(), strict=True))
    pixels, grids = torch.zeros_like(own.model.visual.patch_embed.proj.weight), [[1, 8, 8]]
    batched.load_state_dict(own.state_dict() | {"model.visual.patch_embed.proj.weight": pixels})
    assert not torch.allclose(see(batched, grids), see(own, grids)), "loaded weights are those that compute"


@pytest.mark.parametrize("chosen", ["eager", "avrt_test_flash"])
def test_another_attention_is_kept(chosen: str) -> None:
    """A user with flash-attention, or who looks at probabilities, has chosen so."""
    from transformers import AttentionInterface

    AttentionInterface.register("avrt_test_flash", lambda *args, **kwargs: None)
    _, own, _ = thinkers()
    own.model.set_attn_implementation({"vision_config": chosen})
    batch_encoder_windows(own)
    assert own.model.visual.config._attn_implementation == chosen
    assert own.model.audio_tower.config._attn_implementation == ENCODER_ATTENTION_NAME


def test_a_loaded_student_uses_it(layout_folder: Path, attention_calls: CallCounter) -> None:
    """Features of clips of every kind, in one call of each encoder, against transformers' full forward."""
    student = load_student(layout_folder)
    plain = load_plain(layout_folder, torch.float32)
    prompts = [student.encoder.encode(sample) for sample in mixed_samples()]
    prompts.append(student.encoder.encode(make_sample("video", 7, height=140, width=84)))
    together = student.embed(prompts)
    calls, attention_calls.calls = attention_calls.calls, 0
    for prompt, embedded in zip(prompts, together, strict=True):
        seen: dict[str, Any] = {}
        hook = plain.model.language_model.register_forward_pre_hook(
            lambda _, __, arguments, seen=seen: seen.update(arguments), with_kwargs=True
        )
        with torch.no_grad():
            plain(**plain_inputs(student, prompt))
        hook.remove()
        media = seen["inputs_embeds"][0, embedded.media_positions]
        torch.testing.assert_close(embedded.media_features, media, rtol=0, atol=1e-5)
    assert 2 <= calls < attention_calls.calls / 2
