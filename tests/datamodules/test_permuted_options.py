"""Options permuted anew in every pass: the same for any number of workers and devices, resumed, and never held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from avrt.cli import main
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.model.encoding import Prompt
from avrt.rewards import AccuracyReward
from avrt.sample import Sample
from avrt.text.option_order import permuted_options
from datamodules.order import Place
from datamodules.sources import SampleSources
from datamodules.streaming import EncodedSamples
from datamodules.windows import WindowLoader
from tests.lightning_modules.training import StopAfter, fit, gold_completion, grpo_data, grpo_module, sft_data
from tests.tiny_student import load_student, make_sample

FIXED = "audio-4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 questions with four options; one has options that refer to others."""
    options = ("red bell", "blue hum", "green whistle", "grey horn")
    path = tmp_path_factory.mktemp("s")
    with ShardWriter(path, samples_per_shard=3) as writer:
        for number in range(8):
            sample = replace(make_sample("audio", number, audio_seconds=0.1), options=options, answer=number % 4)
            if sample.id == FIXED:
                sample = replace(sample, options=(*options[:3], "all of the above"))
            writer.write(sample)
    return path


def loader(folder: Path, encoder: Any, seed: int = 5, **settings: Any) -> WindowLoader:
    samples = SampleSources([""], [ShardSet(folder)])
    reader = EncodedSamples(samples, encoder, option_seed=seed)
    order = samples.order(seed=seed, shuffle=True, shuffle_shards=2)
    return WindowLoader(reader, order, **{"micro_batch_size": 2, "micro_batches": 2, **settings})


def questions(batches: list[Any]) -> list[tuple[str, tuple[str, ...], int, list[int]]]:
    return [
        (prompt.sample.id, prompt.sample.options, prompt.sample.answer, prompt.input_ids.tolist())
        for batch in batches
        for prompt in batch.prompts
    ]


def test_any_number_of_workers_and_devices(student_folder: Path, folder: Path) -> None:
    encoder = load_student(student_folder).encoder
    alone = loader(folder, encoder)
    whole = questions([batch for _ in range(3) for batch in alone])
    original = {sample.id: sample for sample in ShardSet(folder)}
    for number, (key, options, answer, ids) in enumerate(whole):
        expected = permuted_options(original[key], 5, number // 8)
        assert (options, answer) == (expected.options, expected.answer)
        assert ids == encoder.encode(expected).input_ids.tolist()
    orders = {key: {options for k, options, _, _ in whole if k == key} for key in original}
    assert len(orders[FIXED]) == 1
    assert sum(len(found) for found in orders.values()) > 2 * len(orders)
    for workers in (1, 2):
        several = loader(folder, encoder, num_workers=workers)
        assert questions([batch for _ in range(3) for batch in several]) == whole
    devices = [list(loader(folder, encoder, micro_batches=1, rank=rank, world_size=2)) for rank in range(2)]
    for window in range(2):
        both = [q for device in devices for q in questions(device[window : window + 1])]
        assert sorted(both) == sorted(whole[4 * window : 4 * window + 4])


def test_samples_by_number_keep_their_order_of_the_first_pass(student_folder: Path, folder: Path) -> None:
    encoder = load_student(student_folder).encoder
    reader = EncodedSamples(SampleSources([""], [ShardSet(folder)]), encoder, option_seed=5)
    plain = EncodedSamples(SampleSources([""], [ShardSet(folder)]), encoder)
    assert reader[Place(1, 0)].sample.options == permuted_options(plain[1].sample, 5, 0).options
    assert reader[Place(1, 3)].sample.options == permuted_options(plain[1].sample, 5, 3).options
    assert plain[Place(1, 3)].sample.options == plain[1].sample.options == ShardSet(folder).metadata(1).options


def test_the_gold_answer_of_a_permuted_sample_is_rewarded(student_folder: Path, folder: Path) -> None:
    samples = [p.sample for batch in loader(folder, load_student(student_folder).encoder) for p in batch.prompts]
    assert AccuracyReward().score([gold_completion(sample) for sample in samples]) == [1.0] * 8
    stale = [
        replace(gold_completion(ShardSet(folder)[i]), sample=sample) for i, sample in enumerate_by_id(folder, samples)
    ]
    moved = sum(sample.gold != completion.text[-10] for sample, completion in zip(samples, stale, strict=True))
    assert 0 < moved == 8 - sum(AccuracyReward().score(stale))


def enumerate_by_id(folder: Path, samples: list[Sample]) -> list[tuple[int, Sample]]:
    return [(ShardSet(folder).keys.index(sample.id), sample) for sample in samples]


class Seen(AccuracyReward):
    """The questions that rewards are asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Sample] = []

    def score(self, completions: Any) -> list[float]:
        self.samples += [completion.sample for completion in completions[::3]]
        return [float(len(completion.text) % 3) for completion in completions]


class HeldOut(Callback):
    """The questions of validation."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: list[Prompt], *_: Any) -> None:
        self.samples += [prompt.sample for prompt in batch]


def test_a_run_resumes_and_validates_in_the_shards_order(student_folder: Path, folder: Path, tmp_path: Path) -> None:
    held_out = HeldOut()
    val = tmp_path / "val"
    with ShardWriter(val) as writer:
        for number in range(20, 24):
            writer.write(replace(ShardSet(folder)[0], id=f"val-{number}", source=f"val-{number}"))

    def run(*callbacks: Any, permute: bool = True, workers: int = 0, **settings: Any) -> tuple[list[Sample], Any]:
        seen = Seen()
        data = grpo_data(
            folder,
            batch_size=2,
            permute_options=permute,
            val=str(val),
            val_every_n_steps=2,
            num_workers=workers,
        )
        module = grpo_module(student_folder, num_generations=3)
        return seen.samples, fit(module, data, seen, held_out, *callbacks, max_steps=4, **settings)

    samples, whole = run()
    original = {sample.id: sample for sample in ShardSet(folder)}
    for number, sample in enumerate(samples):
        assert sample.options == permuted_options(original[sample.id], 0, number // 8).options
    assert {sample.options for sample in held_out.samples} == {ShardSet(folder)[0].options}
    assert len(held_out.samples) == 8
    shares = [step["data/fixed_option_order"] for step in whole.logged]
    assert shares == [sum(s.id == FIXED for s in samples[4 * w : 4 * w + 4]) / 4 for w in range(4)]
    run(StopAfter(3, tmp_path / "stop.ckpt"), workers=2)
    rest, resumed = run(ckpt_path=tmp_path / "stop.ckpt")
    assert [(s.id, s.options, s.answer) for s in rest] == [(s.id, s.options, s.answer) for s in samples[12:]]
    assert (resumed.losses, resumed.tokens) == (whole.losses[6:], whole.tokens[6:])
    with pytest.raises(ValueError, match=r"cannot resume: data\.permute_options .*True then, False now"):
        run(permute=False, ckpt_path=tmp_path / "stop.ckpt")
    plain_samples, plain = run(StopAfter(1, tmp_path / "plain.ckpt"), permute=False)
    assert all(sample.options == original[sample.id].options for sample in plain_samples)
    assert "data/fixed_option_order" not in plain.logged[0]
    with pytest.raises(ValueError, match=r"cannot resume: data\.permute_options"):
        run(ckpt_path=tmp_path / "plain.ckpt")
    # Checkpoints from before the setting resume without it.
    old = torch.load(tmp_path / "plain.ckpt", weights_only=False)
    assert _remove(old, "permute_options") == 1
    torch.save(old, tmp_path / "old.ckpt")
    assert run(permute=False, ckpt_path=tmp_path / "old.ckpt")[1].logged


def _remove(value: Any, key: str) -> int:
    """Remove a key wherever it is; returns how often it was."""
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    own = int(isinstance(value, dict) and value.pop(key, None) is not None)
    return own + sum(_remove(child, key) for child in children)


def test_refused_in_supervised_fine_tuning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"permute_options: .*supervised fine-tuning.*letter"):
        sft_data(folder, permute_options=True)
    assert main(["fit", "--config", "cli_configs/sft_7b.yaml", "--trainer.accelerator=cpu", "--trainer.devices=1",
                 "--trainer.strategy=auto", "--data.permute_options=true"]) == 2  # fmt: skip
    assert "data.permute_options: is true" in capsys.readouterr().err
