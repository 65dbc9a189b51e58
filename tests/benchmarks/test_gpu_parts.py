"""The parts of ``python -m benchmarks.gpu`` in miniature, and what its exactness checks find."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response
from benchmarks.gpu import decoding, encoders, exactness, hardware
from benchmarks.gpu.models import build, plain_language_model, random_prompts, sampling, student_config, text_policy
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.runner import ROOT
from benchmarks.gpu.shapes import FULL, MINIATURE

CPU = torch.device("cpu")
HARDWARE = {
    "achieved_tflops",
    "decoding_bandwidth_gb",
    "launch_us",
    "link_gb",
    "pageable_link_gb",
    "host_bandwidth_gb",
    "overhead_bytes",
}
"""The keys that `plan --measured` reads."""


def check_rows(rows: list[dict[str, Any]]) -> None:
    assert rows
    for row in rows:
        assert row.keys() <= {"hardware", "device"} or "what" in row
        assert row.get("passes") is not False, row
        values = [*row.values(), *row.get("hardware", {}).values()]
        assert all(isinstance(value, str | int | float | bool | dict | None) for value in values)
        assert all(math.isfinite(value) for value in values if isinstance(value, float))
        assert row.get("hardware", {}).keys() <= HARDWARE


@pytest.mark.parametrize("part", [hardware, encoders])
def test_a_part_runs_in_miniature(part: Any) -> None:
    check_rows(list(part.run(MINIATURE, CPU)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fast_paths_are_exact(dtype: str) -> None:
    rows = list(exactness.run(MINIATURE, CPU, dtype))
    check_rows(rows)
    compared = {row["what"] for row in rows if "skipped" not in row}
    assert {"shared prompt against one row per response", "sampler (plain) against scorer"} <= compared
    assert max(row["logprob_max"] for row in rows if "logprob_max" in row) > 0, "the paths are not the same code"


def test_decoding_is_measured_beside_its_bounds() -> None:
    rows = list(decoding.run(MINIATURE, CPU, "3b"))
    check_rows(rows)
    by_name = {row["who"]: row for row in rows if "who" in row}
    assert by_name["plain"]["tokens_per_second"] > 0
    assert by_name["generate"]["tokens_per_second"] > 0
    # 3 layers of some 50 to 100 operators each, and the sampler.
    assert 100 < by_name["a plain step"]["kernels"] < 500


def test_bytes_of_a_step_by_hand() -> None:
    model = text_policy(MINIATURE, "3b", CPU, torch.bfloat16)
    # A layer: queries and output 64 x 64, keys and values 64 x 32, three MLP matrices 64 x 128, biases 64 + 2 x 32,
    # two norms; then the last norm and the head of 600 rows.
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 64 + 2 * 32 + 2 * 64
    weights = 3 * layer + 64 + 600 * 64
    # 2 prompts of 24 tokens, once; 2 responses each of 10 tokens, half of them on average.
    cached = 2 * (24 + 2 * 10 / 2) * 2 * 3 * 2 * 16
    assert decoding.bytes_of_a_step(model, 24, 2, 2, 10) == 2 * (weights + cached)


def test_a_token_that_is_wrong_is_found() -> None:
    """One token of one response differs from plain decoding's: by the tokens and by its log-probability."""
    model = text_policy(MINIATURE, "3b", CPU, torch.float32)
    prompts = random_prompts(model, 24, 2)
    plain = TransformersRollout(model, sampling(6), ()).generate(prompts, 3, [0, 1])
    assert exactness.tokens_row("same", "float32", plain, plain)["passes"]
    assert exactness.sampler_row("same", "float32", model, model, prompts, plain)["passes"]

    ids = plain[1][2].token_ids.clone()
    ids[4] = (ids[4] + 1) % 500
    wrong = [plain[0], [*plain[1][:2], Response(ids, plain[1][2].logprobs, False)]]

    row = exactness.tokens_row("wrong", "float32", wrong, plain)
    assert (row["passes"], row["responses_that_differ"], row["first_difference"]) == (False, 1, 4)
    assert not exactness.sampler_row("wrong", "float32", model, model, prompts, wrong)["passes"]
    narrow = text_policy(MINIATURE, "3b", CPU, torch.bfloat16)
    assert not exactness.sampler_row("wrong", "bfloat16", narrow, model, prompts, wrong)["passes"]


def test_the_peer_computes_the_same_function() -> None:
    """`generate` is timed on a model with the same tensors, so both sides do the same work."""
    model = text_policy(MINIATURE, "7b", CPU, torch.float32)
    peer = plain_language_model(model)
    (prompt,) = random_prompts(model, 12, 1)
    assert peer.lm_head.weight is model.head.weight
    with torch.no_grad():
        logprobs = peer(prompt.input_ids[None]).logits[0].log_softmax(-1)
    response = prompt.input_ids[8:]
    shorter = dataclasses.replace(prompt, input_ids=prompt.input_ids[:8], position_ids=prompt.position_ids[:, :8])
    ours = exactness.score(model, [shorter], [[response]], gradients=False).logprobs
    torch.testing.assert_close(ours, logprobs[7:11].gather(1, response[:, None])[:, 0], rtol=0, atol=1e-5)


def test_the_full_shapes_are_the_published_ones() -> None:
    for size, hidden, layers in (("3b", 2048, 36), ("7b", 3584, 28)):
        config = student_config(FULL, size)
        assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (hidden, layers)
        assert config.video_token_id < 1000, "the ids are the small tokenizer's"


def test_random_weights_carry_signal() -> None:
    """Matrices have standard deviation 1/sqrt(fan-in), norms are 1, biases 0."""
    config = student_config(MINIATURE, "3b").text_config
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

    model = build(Qwen2_5OmniThinkerTextModel, config, CPU, torch.float32)
    layer = model.layers[0]
    assert float(layer.mlp.down_proj.weight.std()) == pytest.approx(config.intermediate_size**-0.5, rel=0.1)
    assert float(model.embed_tokens.weight.std()) == pytest.approx(1.0, rel=0.1)
    assert bool((layer.input_layernorm.weight == 1).all())
    assert bool((layer.self_attn.q_proj.bias == 0).all())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_runs_in_miniature(tmp_path: Path) -> None:
    """The command itself, each part in a process of its own, as on a GPU."""
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--miniature", "--output", str(output)]
    done = subprocess.run([*command, "--budget-seconds", "1700"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = json.loads(output.read_text())
    assert {name: part.get("reason") for name, part in result["parts"].items() if part["status"] != "ok"} == {}
    assert done.returncode == 0, done.stderr[-2000:]
    assert result["schema"] == 1
    assert result["device"]["miniature"]
    assert set(result["parts"]) == {"device", *(part.name for part in PARTS)}
    for name, part in result["parts"].items():
        assert part["seconds"] > 0
        if name != "device":
            check_rows(part["rows"])
    assert {"achieved_tflops", "launch_us", "pageable_link_gb", "host_bandwidth_gb"} <= result["hardware"].keys()
    assert result["hardware"].keys() <= HARDWARE
    assert "trl_3072: ok" in done.stdout
