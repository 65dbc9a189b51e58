"""Students in the published layout of Qwen3-Omni: Instruct, and Thinking, whose template may open the thinking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen3OmniMoeProcessor, Qwen3OmniMoeThinkerForConditionalGeneration

from avrt.model.chat_template import response_opening
from avrt.rollout.engine import Response, completions
from avrt.text.answers import is_formatted
from tests.model.test_published_student import SHARDS, stored, tone
from tests.published_experts import ADDED_TOKENS, VOCABULARY, published_weights, save_published_experts
from tests.tiny_student import TRACES, load_student, make_sample


def test_plain_transformers_loads_it(published_experts_folder: Path) -> None:
    """Every weight of the thinker, bit by bit; separate experts become one weight; the talker is ignored."""
    model, info = Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(
        published_experts_folder, dtype="auto", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    found = stored(published_experts_folder)
    assert {name.split(".")[0] for name in found} == {"thinker", "talker", "code2wav"}
    experts = model.model.language_model.layers[1].mlp.experts
    prefix = "thinker.model.layers.1.mlp.experts.5"
    gate_up = torch.cat([found[f"{prefix}.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(experts.gate_up_proj[5], gate_up)
    assert torch.equal(experts.down_proj[5], found[f"{prefix}.down_proj.weight"])
    assert len({file.name for file in published_experts_folder.glob("model-*.safetensors")}) == SHARDS


def test_the_tokenizer_is_the_published_one(published_experts_folder: Path) -> None:
    """Thinking tags are tokens, and not special: they stay when special tokens are left out."""
    tokenizer = Qwen3OmniMoeProcessor.from_pretrained(published_experts_folder).tokenizer
    assert len(tokenizer) == 151_676
    assert tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS)) == list(ADDED_TOKENS.values())
    assert tokenizer.decode([151_667, 9707, 151_668, 151_645], skip_special_tokens=True) == "<think>Hello</think>"


def test_the_student_has_the_thinkers_weights(published_experts_folder: Path) -> None:
    student = load_student(published_experts_folder, dtype="bfloat16")
    expected = published_weights(published_experts_folder)
    weights = {
        name: weight
        for key, value in student.thinker.state_dict().items()
        for name, weight in student.family.published_weights(key, value)
    }
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name].bfloat16()) for name, weight in weights.items())
    assert int(student.banned_tokens.sum()) == VOCABULARY - 151_676 + 8


def test_media_carry_signal(published_experts_folder: Path) -> None:
    """At every depth at which they enter."""
    student = load_student(published_experts_folder)
    one, other = (student.embed([student.encoder.encode(make_sample("video", number))])[0] for number in (0, 3))
    assert one.visual_layers is not None
    assert other.visual_layers is not None
    assert one.visual_layers.shape[0] == 2
    pairs = [(one.media_features, other.media_features), *zip(one.visual_layers, other.visual_layers, strict=True)]
    for first, second in pairs:
        assert (first - second).std() > 0.3 * first.std()
    clip = make_sample("audio").clip
    assert clip is not None
    sounds = [replace(make_sample("audio"), clip=replace(clip, waveform=tone(hertz))) for hertz in (300, 3000)]
    low, high = (student.embed([student.encoder.encode(sound)])[0].media_features for sound in sounds)
    assert (low - high).std() > 0.1 * low.std()


@pytest.fixture(scope="module")
def thinking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_published_experts(tmp_path_factory.mktemp("published") / "thinking", thinking=True)


def test_a_template_that_opens_the_thinking(thinking_folder: Path, published_experts_folder: Path) -> None:
    """The prompt ends with the tag, the target begins behind it, and rewards see the whole response."""
    student, plain = load_student(thinking_folder), load_student(published_experts_folder)
    assert (response_opening(student.processor), response_opening(plain.processor)) == ("<think>\n", "")
    sample = make_sample()
    assert student.decode(student.encoder.encode(sample).input_ids).endswith("assistant\n<think>\n")
    target, whole = student.encoder.encode_target(sample), plain.encoder.encode_target(sample)
    assert plain.decode(whole) == TRACES[0]
    assert student.decode(target) == TRACES[0].removeprefix("<think>")
    (done,) = completions([sample], [[Response(target, torch.zeros(len(target)), True)]], student.response_text)
    assert is_formatted(done.text)
    assert done.text == "<think>\n" + TRACES[0].removeprefix("<think>")
    assert done.token_ids == tuple(target.tolist())


def test_a_trace_without_the_opening_is_refused(thinking_folder: Path) -> None:
    encoder = load_student(thinking_folder).encoder
    with pytest.raises(ValueError, match=r"audio_video-0.*its trace does not begin with <think>, which the student's"):
        encoder.encode_target(replace(make_sample(), trace="<answer>B</answer>"))


def test_a_thinking_student_survives_an_export(thinking_folder: Path, tmp_path: Path) -> None:
    load_student(thinking_folder).save(tmp_path)
    again = load_student(tmp_path)
    assert again.encoder.opening == "<think>\n"
    assert again.thinker.config.vision_config.deepstack_visual_indexes == [0, 1]
    assert again.thinker.config.text_config.head_dim == 32
