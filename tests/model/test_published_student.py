"""Plain transformers reads the whole fixture in the published layout, and the student reads the same thinker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Qwen2_5OmniForConditionalGeneration, Qwen2_5OmniProcessor

from avrt.sample import SAMPLING_RATE
from tests.published_student import ADDED_TOKENS, SHARDS, VOCABULARY, save_published_student
from tests.tiny_student import load_student, make_sample


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def test_plain_transformers_loads_the_whole_model(published_folder: Path) -> None:
    """Every tensor of the files is in the model, bit by bit: talker and token2wav too."""
    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(published_folder, dtype="auto")
    assert model.has_talker
    assert set(model.speaker_map) == {"Chelsie"}
    found = stored(published_folder)
    assert len(found) == len(model.state_dict())
    assert {name.split(".")[0] for name in found} == {"thinker", "talker", "token2wav"}
    layer = "layers.1.mlp.up_proj.weight"
    assert torch.equal(found[f"thinker.model.{layer}"], model.thinker.model.language_model.get_parameter(layer))
    assert torch.equal(found["talker.codec_head.weight"], model.talker.codec_head.weight)
    assert len({p.name for p in published_folder.glob("model-*.safetensors")}) == SHARDS


def test_the_tokenizer_is_the_published_one(published_folder: Path) -> None:
    tokenizer = Qwen2_5OmniProcessor.from_pretrained(published_folder).tokenizer
    assert len(tokenizer) == 151_665
    assert tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS)) == list(ADDED_TOKENS.values())
    assert tokenizer.encode("Hello, world!") == [9707, 11, 1879, 0]  # as in Qwen's own pages
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_student_has_the_thinkers_weights(published_folder: Path) -> None:
    student = load_student(published_folder, dtype="bfloat16")
    found = stored(published_folder)
    weights = student.thinker.state_dict()
    assert len(weights) == sum(name.startswith("thinker.") for name in found)
    for name, weight in weights.items():
        part = name.removeprefix("model.") if "visual" in name or "audio_tower" in name else name
        assert torch.equal(weight, found["thinker." + part.replace("model.language_model", "model")]), name
    text = student.thinker.config.text_config
    assert text.rope_parameters["mrope_section"] == [4, 6, 6]
    assert text.rope_parameters["rope_theta"] == 1e6
    assert not torch.equal(student.thinker.lm_head.weight, student.thinker.get_input_embeddings().weight)
    assert int(student.banned_tokens.sum()) == VOCABULARY - 151_665 + 8


def test_media_carry_signal(published_folder: Path) -> None:
    """Features of two clips differ by about as much as features do at all."""
    student = load_student(published_folder)
    samples = {
        "video": [make_sample("video", number) for number in (0, 3)],
        "audio": [
            replace(s := make_sample("audio"), clip=replace(s.clip, waveform=tone(hertz))) for hertz in (300, 3000)
        ],
    }
    for kind, pair in samples.items():
        one, other = (student.embed([student.encoder.encode(sample)])[0].media_features for sample in pair)
        assert (one - other).std() > 0.3 * one.std(), kind


def tone(hertz: float) -> torch.Tensor:
    return 0.3 * torch.sin(torch.arange(SAMPLING_RATE) / SAMPLING_RATE * 2 * torch.pi * hertz)


def test_options_of_the_fixture(tmp_path: Path) -> None:
    folder = save_published_student(tmp_path, vocabulary=151_936, dtype="float32", padding_side="left")
    student = load_student(folder)
    assert student.thinker.lm_head.out_features == 151_936
    assert student.processor.feature_extractor.padding_side == "left"
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"
    assert {w.dtype for w in stored(folder).values() if w.is_floating_point()} == {torch.float32}
