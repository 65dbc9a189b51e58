"""Exports in other versions of transformers: the same ids, features and log-probabilities."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avrt.families.registry import family_of_path
from tests.programs import environment
from tests.tiny_student import load_student

VERSIONS = ("4.57.1", "5.20.2")
"""The last transformers 4, and the version that recent releases of vLLM install."""

PROGRAM = """
import json, sys
import torch, transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, GenerationConfig

folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder)
config = getattr(config, "thinker_config", config)
tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
generator = torch.Generator().manual_seed(0)
frames = torch.randint(0, 256, (8, 3, 60, 80), generator=generator, dtype=torch.uint8)
audio = (torch.randn(16000, generator=generator) * 0.1).numpy()
parts = [{"type": "video", "video": "-"}, {"type": "audio", "audio": "-"}, {"type": "text", "text": "Which is it?"}]
text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False)
size = {"shortest_edge": 3136, "longest_edge": 3136}
inputs = processor(
    text=text, videos=[frames], audio=[audio], return_tensors="pt",
    videos_kwargs={"do_sample_frames": False, "fps": 0.8, "size": size}, audio_kwargs={"sampling_rate": 16000},
)
response = torch.arange(40, 52)[None]
ids = inputs["input_ids"]
inputs["input_ids"] = torch.cat([ids, response], 1)
inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
model, info = getattr(transformers, sys.argv[2]).from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True
)
with torch.no_grad():
    logprobs = model.eval()(**inputs).logits[0, -13:-1].log_softmax(-1).gather(1, response.T)[:, 0]
generation = GenerationConfig.from_pretrained(folder).to_diff_dict()
del generation["transformers_version"]
print(json.dumps({
    "incomplete": [len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")],
    "tied": [config.tie_word_embeddings, config.text_config.tie_word_embeddings],
    "generation": generation,
    "special": sorted(tokenizer.all_special_tokens),
    "plain ids": tokenizer.encode("a <|im_start|>bell, B <think>"),
    "ids": ids[0].tolist(),
    "pixels": inputs["pixel_values_videos"].double().abs().sum().item(),
    "mel": inputs["input_features"].double().sum().item(),
    "logprobs": logprobs.tolist(),
}))
"""


def facts(python: list[str], folder: Path, cwd: Path) -> dict[str, Any]:
    """The program's output about a folder; it runs outside of this checkout."""
    thinker_class = family_of_path(str(folder)).thinker_class
    variables = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*python, "-c", PROGRAM, str(folder), thinker_class.__name__],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=VERSIONS)
def other_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An environment with another transformers, if its packages are available."""
    if shutil.which("uv") is None:
        pytest.skip("needs uv to make an environment with another transformers")
    folder = tmp_path_factory.mktemp("environment")
    python = folder / "venv" / "bin" / "python"
    packages = [f"transformers=={request.param}", "torch==2.14.1", "torchvision==0.29.1", "pillow", "librosa"]
    for command in (
        ["uv", "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
        ["uv", "pip", "install", "--quiet", "--python", str(python), *packages],
    ):
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"cannot make an environment with transformers {request.param}: {made.stderr[-300:]}")
    return [str(python)]


@pytest.mark.slow
def test_another_version_reads_an_export(other_python: list[str], any_student_folder: Path, tmp_path: Path) -> None:
    """An export of an export of each kind of student, against this version reading the folder that it came from."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    load_student(any_student_folder).save(once)
    load_student(once).save(twice)
    found = facts(other_python, twice, tmp_path)
    expected = facts([sys.executable], any_student_folder, tmp_path)
    assert found["incomplete"] == [0, 0, 0]
    assert found["tied"] == [False, False]
    tokenizer = load_student(any_student_folder).processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert found["generation"] == {"eos_token_id": end, "pad_token_id": end[1]}
    for fact in ("special", "plain ids", "ids"):
        assert found[fact] == expected[fact], fact
    assert found["pixels"] == pytest.approx(expected["pixels"], rel=1e-3)  # resized by another routine
    assert found["mel"] == pytest.approx(expected["mel"], rel=1e-6)
    assert found["logprobs"] == pytest.approx(expected["logprobs"], abs=2e-5)
