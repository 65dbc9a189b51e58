"""The tiny tokenizer: Qwen's own splitting and special tokens over a small vocabulary."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    Qwen2_5OmniProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from avrt.demo.clips import COLORS, PITCHES
from avrt.demo.questions import demo_texts, plan_clips, plan_questions
from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.families.registry import FAMILIES

SPECIAL_TOKENS, NAMED_TOKENS = FAMILIES[0].tiny_special_tokens, FAMILIES[0].media_tokens.named

QUESTIONS = plan_questions(plan_clips("train", 64, 0), 3)
FEW_WORDS = build_tiny_tokenizer(["a few words"], 300)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return build_tiny_tokenizer(demo_texts(QUESTIONS))


def test_every_class_name_is_one_token(tokenizer: Qwen2Tokenizer) -> None:
    for word in (*COLORS, *PITCHES, "A", "B", "C", "D"):
        assert len(tokenizer.encode(f" {word}")) == 1


def test_ids_run_bytes_then_merges_then_special_tokens(tokenizer: Qwen2Tokenizer) -> None:
    n_ordinary = len(tokenizer) - len(SPECIAL_TOKENS)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(n_ordinary, len(tokenizer)))
    assert len(tokenizer) <= 512
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert {name: getattr(tokenizer, name) for name in NAMED_TOKENS} == NAMED_TOKENS


def test_special_tokens_are_never_split_and_can_be_skipped(tokenizer: Qwen2Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"red{token}hum")
        assert ids.count(tokenizer.convert_tokens_to_ids(token)) == 1
        assert tokenizer.decode(ids) == f"red{token}hum"
        assert tokenizer.decode(ids, skip_special_tokens=True) == "redhum"


@given(text=st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    assume(not any(token in text for token in SPECIAL_TOKENS))
    assert FEW_WORDS.decode(FEW_WORDS.encode(text)) == unicodedata.normalize("NFC", text)


def test_a_saved_folder_loads_as_the_same_tokenizer(tokenizer: Qwen2Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is Qwen2Tokenizer
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert {name: getattr(loaded, name) for name in NAMED_TOKENS} == NAMED_TOKENS
    for question in QUESTIONS[:20]:
        text = f"<|im_start|>user\n<|VIDEO|>{question.text}<|im_end|>\n<|im_start|>assistant\n{question.trace()}"
        assert loaded.encode(text) == tokenizer.encode(text)


def test_equal_corpora_give_equal_tokenizers(tokenizer: Qwen2Tokenizer) -> None:
    again = build_tiny_tokenizer(demo_texts(QUESTIONS))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_real_processor_takes_it_and_expands_each_placeholder(tokenizer: Qwen2Tokenizer) -> None:
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=tokenizer,
    )
    inputs = processor(
        text="<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>Which picture?",
        videos=[torch.zeros(8, 3, 112, 112, dtype=torch.uint8)],
        audio=[np.zeros(32_000, dtype=np.float32)],
        videos_kwargs={
            "do_sample_frames": False,
            "fps": 4.0,
            "size": {"shortest_edge": 28 * 28, "longest_edge": 112 * 112},
        },
        return_tensors="pt",
    )
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(tokenizer.video_token_id) == 4 * 4 * 4  # 8 frames in pairs, 4 × 4 tokens of 28 × 28 pixels each
    assert ids.count(tokenizer.audio_token_id) == 50  # 2 s at 25 tokens a second
    assert inputs["video_grid_thw"].tolist() == [[4, 8, 8]]


def test_a_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="`vocab_size` must be 270 or more"):
        build_tiny_tokenizer(["a"], 269)
    assert len(build_tiny_tokenizer(["a"], 270)) == 270
