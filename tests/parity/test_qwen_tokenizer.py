"""The demo's tokenizer code, given Qwen's published ranks, is Qwen's published tokenizer.

The ranks file and the reference encoder (tiktoken behind Qwen's own wrapper) come from the `dashscope` package.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from dashscope.tokenizers.qwen_tokenizer import QwenTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Tokenizer

from avrt.demo.tokenizer import assemble_tokenizer
from tests.qwen_ranks import RANKS_FILE, qwen_vocabulary

REPOSITORY = Path(__file__).resolve().parents[2]

TEXTS = (
    "",
    " ",
    "Which picture and sound does the clip have?\nA. red and hum\nB. blue and whistle",
    "<think>I see red. I hear bell.</think>\n<answer>B</answer>",
    "1234567890 3.14159 1,000,000 ½ ² ٣ 三 Ⅷ",
    "don't WON'T I'll we'Re 'S",
    "tabs\tand\t\tspaces   before\n\n\n  lines \r\n ends  ",
    "naïve café e\u0301 ﬁ Å Ω が か\u3099",
    "音と映像の質問。这段视频里有什么声音？ Что звучит? ما الصوت؟ 어떤 소리?",
    "emoji 👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🎻🎺 and \u200b zero\ufeff width \x00\x07",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # ≥ 1\n\n\tif (a&&b||!c) { ++i; }",
    "https://example.org/a?b=c&d=%20#e <|not_special|> <tool> $\\frac{1}{2}$ --- ***",
)


@pytest.fixture(scope="module")
def qwen() -> Qwen2Tokenizer:
    return assemble_tokenizer(*qwen_vocabulary())


@pytest.fixture(scope="module")
def reference() -> QwenTokenizer:
    return QwenTokenizer(RANKS_FILE)


def test_special_tokens_have_the_published_ids(qwen: Qwen2Tokenizer) -> None:
    published = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|AUDIO|>": 151646,
        "<|audio_bos|>": 151647,
        "<|audio_eos|>": 151648,
        "<|vision_bos|>": 151652,
        "<|vision_eos|>": 151653,
        "<|IMAGE|>": 151655,
        "<|VIDEO|>": 151656,
    }
    assert {token: qwen.convert_tokens_to_ids(token) for token in published} == published
    assert qwen.vocab_size == 151643


@pytest.mark.parametrize("text", TEXTS)
def test_chosen_texts(qwen: Qwen2Tokenizer, reference: QwenTokenizer, text: str) -> None:
    assert qwen.encode(text) == reference.encode(text)
    assert qwen.decode(qwen.encode(text)) == reference.decode(reference.encode(text))


def test_this_repositorys_own_files(qwen: Qwen2Tokenizer, reference: QwenTokenizer) -> None:
    files = [path for folder in ("avrt", "tests") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8").replace("<|", "< |")  # special tokens differ on purpose
        assert qwen.encode(text) == reference.encode(text), path


def test_any_text(qwen: Qwen2Tokenizer, reference: QwenTokenizer) -> None:
    @settings(max_examples=500, deadline=None)
    @given(st.text(max_size=200))
    def same_tokens(text: str) -> None:
        text = text.replace("<|", "< |")
        assert qwen.encode(text) == reference.encode(text)

    same_tokens()
