"""The README's commands in the README's order, from clips to the report, on a student in the published layout.

The default tier runs the chain once, for the 7B student as the README shows it, without DeepSpeed. The slow tier
runs it for both sizes, with the presets' own strategy (ZeRO-2, offloaded optimizer, bfloat16) and without.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from avrt.model.export import read_trained
from tests.documentation.pages import ROOT, commands, shown_files
from tests.documentation.sandbox import STEPS, Sandbox
from tests.documentation.teachers import Question

README = ROOT / "README.md"

ELSEWHERE = {
    ("pip", "install", "uv"): "part of setting up the checks",
    ("uv", "sync"): "part of setting up the checks",
    ("tensorboard", "--logdir", "runs"): "the curves that it reads are looked at below",
    ("python", "-m", "avrt", "demo", "--quick"): "tests/end_to_end/test_demo.py runs it",
    ("python", "-m", "avrt", "demo"): "takes minutes: tests/end_to_end/test_demo.py runs it",
}
"""Commands of the README that this test does not run, and where they are run."""

CHAINS = [
    pytest.param("7b", "plain", id="7b-plain"),
    pytest.param("7b", "deepspeed", id="7b-deepspeed", marks=pytest.mark.slow),
    pytest.param("3b", "plain", id="3b-plain", marks=pytest.mark.slow),
    pytest.param("3b", "deepspeed", id="3b-deepspeed", marks=pytest.mark.slow),
]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("size", "strategy"), CHAINS)
def test_the_chain(
    size: str,
    strategy: Literal["plain", "deepspeed"],
    new_sandbox: Callable[..., Sandbox],
    questions: list[Question],
    tmp_path: Path,
) -> None:
    sandbox = new_sandbox(tmp_path, strategy)
    folder = sandbox.folder
    for name, text in shown_files(README).items():
        (folder / name).write_text(text, encoding="utf-8")
    preset = (ROOT / "cli_configs" / "grpo_tiny.yaml").read_text(encoding="utf-8")
    entry = next(text for text in yaml_blocks() if "my_rewards" in text)
    (folder / "my_grpo.yaml").write_text(preset.replace("  callbacks:\n", "  callbacks:\n" + entry, 1), "utf-8")

    later = []
    for command in commands(README):
        if command.words in ELSEWHERE:
            continue
        assert command.avrt, f"{command} is run nowhere"
        words = [word.replace("7b", size).replace("7B", size.upper()) for word in command.avrt]
        if "_tiny" in " ".join(words) and not (folder / "shards").exists():
            later.append(words)  # comes before the README packs anything; the demo's own data take minutes
            continue
        sandbox.run(words)
    for words in later:
        sandbox.run(words)

    check_traces(folder, questions)
    check_stages(folder, size)
    # A student may be trained and exported as often as one likes.
    again = ["--model.student.path", f"exports/grpo_{size}", "--output_dir", "runs/more"]
    sandbox.run(["fit", "--config", f"cli_configs/grpo_{size}.yaml", *again])
    sandbox.run(["export", "runs/more", "--out", "exports/more"])
    check_export(folder / "exports" / "more", folder / "runs" / "more")
    check_evaluation(folder, size)
    for line, seconds in sandbox.ran:
        print(f"{seconds:6.1f} s  {line}")


def yaml_blocks() -> list[str]:
    from tests.documentation.pages import blocks

    return [block.text for block in blocks(README) if block.language == "yaml"]


def check_traces(folder: Path, questions: list[Question]) -> None:
    """The kept samples are those about which both teachers were right; the two splits share no clip."""
    from avrt.data.shards import ShardSet

    splits = {name: ShardSet(folder / "shards" / "avrt20k" / name) for name in ("train", "val")}
    samples = {name: [shards[i] for i in range(len(shards))] for name, shards in splits.items()}
    clips = {name: {sample.source for sample in found} for name, found in samples.items()}
    assert not clips["train"] & clips["val"]
    asked = {sample.question for shards in [ShardSet(folder / "shards" / "avqa" / "train")] for sample in shards}
    wanted = {(q.text, q.options) for q in questions if q.kept() and q.text in asked}
    found = {(s.question, s.options) for group in samples.values() for s in group}
    assert found <= wanted
    assert len(found) == sum(map(len, samples.values())) > 4
    assert all(s.trace and s.trace.startswith("<think>") for group in samples.values() for s in group)


def check_stages(folder: Path, size: str) -> None:
    """GRPO begins with the weights of the end of SFT, and both exports have the trained weights of their runs."""
    base = load_export(folder / "Qwen" / f"Qwen2.5-Omni-{size.upper()}")
    tuned = check_export(folder / "exports" / f"sft_{size}", folder / "runs" / f"sft_{size}")
    check_export(folder / "exports" / f"grpo_{size}", folder / "runs" / f"grpo_{size}")
    thinker = {name for name in base if name.startswith("thinker.")}
    assert tuned.keys() == thinker
    frozen = [name for name in thinker if name.startswith(("thinker.visual.", "thinker.audio_tower."))]
    assert all(torch.equal(base[name].float(), tuned[name].float()) for name in frozen)
    assert any(not torch.equal(base[name].float(), tuned[name].float()) for name in thinker - set(frozen))
    first = first_scalars(folder / "runs" / f"grpo_{size}")
    assert first["kl"] == 0.0, "the reference is the student that GRPO begins with"
    assert first["sampling/sampling_logp_difference/mean"] < (0.05 if "deepspeed" in str(folder) else 1e-2)


def load_export(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def check_export(folder: Path, run: Path) -> dict[str, torch.Tensor]:
    """An exported folder has each weight of the thinker once, by its published name, as in the last checkpoint."""
    from avrt.model.checkpoints import resolve

    weights = load_export(folder)
    trained = read_trained(resolve(run))
    assert trained.step == STEPS
    for name, value in trained.weights.items():
        # The published files leave out the level between the thinker and its text model.
        published = name.replace("thinker.model.language_model.", "thinker.model.")
        assert torch.equal(weights[published], value.to(weights[published].dtype)), name
    assert not any(name.startswith("thinker.thinker.") for name in weights)
    return weights


def first_scalars(run: Path) -> dict[str, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}


def check_evaluation(folder: Path, size: str) -> None:
    """Both runs answered every question of every benchmark that is there, and the page shows each of them."""
    counts = {}
    for name in ("base", f"grpo_{size}"):
        for path in sorted((folder / "runs" / "eval" / name).glob("*/records.jsonl")):
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            assert all(record["finish_reason"] in ("stop", "length") for record in records), path
            counts[name, path.parent.name] = len(records)
    benchmarks = {benchmark for name, benchmark in counts if name == "base"}
    assert benchmarks >= {"avqa", "dailyomni", "mmau", "rivabench_standup"}
    assert all(counts["base", b] == counts[f"grpo_{size}", b] for b in benchmarks)
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "dailyomni" in page.lower()
    settings = yaml.safe_load((folder / "runs" / f"grpo_{size}" / "config.yaml").read_text(encoding="utf-8"))
    assert settings["model"]["init_args"]["student"]["path"] == f"exports/sft_{size}"
