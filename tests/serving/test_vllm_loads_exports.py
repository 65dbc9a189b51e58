"""vLLM loads a saved student completely, and its answers and log-probabilities are those of plain transformers.

Runs where AVRT_VLLM_PYTHON names a Python with vLLM (its CPU build will do), which has an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from avrt.model.student import Student
from avrt.sample import SAMPLING_RATE, Clip
from tests.tiny_student import PIXELS, SHAPE, load_plain, load_student, random_clip, save_student

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ANSWER_TOKENS = 8
STREAMS = ((), ("video",), ("audio",), ("video", "audio"))
SHAPE_FOR_VLLM = replace(SHAPE, num_attention_heads=2, num_key_value_heads=1, vision_width=64, audio_width=64)
"""Heads of size 32, the smallest in vLLM's CPU attention."""


@pytest.fixture(scope="module")
def vllm_python() -> str:
    python = os.environ.get("AVRT_VLLM_PYTHON")
    if not python:
        pytest.skip("set AVRT_VLLM_PYTHON to a Python with vLLM: this test compares its answers with transformers'")
    return python


def tie_head(student: Student) -> None:
    thinker = student.thinker
    thinker.config.tie_word_embeddings = thinker.config.text_config.tie_word_embeddings = True
    thinker.tie_weights()
    with torch.no_grad():
        thinker.lm_head.weight.mul_(0.2)  # log-probabilities close to uniform, where none is a large number


def render(processor: Any, streams: tuple[str, ...]) -> str:
    question = {"type": "text", "text": "Which is it?\nA. red bell\nB. blue hum"}
    content = [*({"type": kind} for kind in streams), question]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def ask_vllm(python: str, student: Path, folder: Path, settings: dict[str, Any], clip: Clip) -> dict[str, Any]:
    folder.mkdir()
    (folder / "requests.json").write_text(json.dumps(settings), encoding="utf-8")
    assert clip.frames is not None
    assert clip.waveform is not None
    np.savez(folder / "media.npz", video=clip.frames.permute(0, 2, 3, 1).numpy(), audio=clip.waveform.numpy())
    script, out = Path(__file__).with_name("vllm_answers.py"), folder / "answers.json"
    done = subprocess.run([python, script, student, folder, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("origin", ["published", "tiny", "tied"])
def test_vllm_answers_as_transformers(origin: str, vllm_python: str, published_folder: Path, tmp_path: Path) -> None:
    source = published_folder if origin == "published" else save_student(tmp_path / "source", SHAPE_FOR_VLLM)
    student = load_student(source)
    if origin == "tied":
        tie_head(student)
    student.save(tmp_path / "once")
    folder = tmp_path / "twice"  # a saved student is read back and saved again
    load_student(tmp_path / "once").save(folder)

    processor, model = AutoProcessor.from_pretrained(folder), load_plain(folder, torch.float32)
    clip = random_clip("audio_video", seed=0, frames=8, seconds=4.0, audio_seconds=1.3)
    video = {"do_sample_frames": False, "fps": clip.fps, "size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}}
    prompts = [{"text": render(processor, streams), "streams": streams} for streams in STREAMS]
    settings = {"processor": video, "tokens": ANSWER_TOKENS, "prompts": prompts}
    found = ask_vllm(vllm_python, folder, tmp_path / "requests", settings, clip)

    assert found["defaults"] == found["neutral"], "taken from generation_config.json"
    difference = (model.lm_head.weight - model.get_input_embeddings().weight).std()
    assert (difference == 0) if origin == "tied" else (difference > 0.5)  # so that a wrong tie would show below
    largest = 0.0
    for prompt, answer in zip(prompts, found["answers"], strict=True):
        media: dict[str, Any] = {}
        if "video" in prompt["streams"]:
            media |= {"videos": [clip.frames], "videos_kwargs": video}
        if "audio" in prompt["streams"]:
            media |= {"audio": [clip.waveform.numpy()], "audio_kwargs": {"sampling_rate": SAMPLING_RATE}}
        inputs = processor(text=prompt["text"], return_tensors="pt", **media)
        assert inputs["input_ids"][0].tolist() == answer["prompt"]
        tokens = torch.tensor(answer["answer"])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens[None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[0, -ANSWER_TOKENS - 1 : -1]
        assert torch.equal(logits.argmax(dim=-1), tokens), prompt["streams"]
        for expected, step in zip(logits.log_softmax(dim=-1), answer["logprobs"], strict=True):
            largest = max(largest, *(abs(expected[int(token)].item() - value) for token, value in step.items()))
    print(f"{origin}: {found['versions']}: largest difference of a log-probability {largest:.1e}")
    assert largest < 1e-5
