"""Samples from shards through the data workers' pipeline: any number of workers, from this machine or from a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avrt.data.faults import FaultReason, ShardError
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.model.encoding import Prompt
from avrt.rewards import AccuracyReward
from avrt.storage.shard_cache import ShardCache
from datamodules.order import SampleOrder
from datamodules.sources import DataSource, SampleSources, open_sources
from datamodules.streaming import EncodedSamples, worker_pipeline
from datamodules.windows import WindowLoader
from datamodules.workers import read_batches
from tests.lightning_modules.training import gold_completion, write_shards
from tests.tiny_student import load_student, make_sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def sources(*folders: Path | str, cache: ShardCache | None = None) -> SampleSources:
    sets = [ShardSet(folder, cache=cache) for folder in folders]
    return SampleSources([str(number) for number in range(len(sets))], sets)


def test_encoded_samples(student_folder: Path, shards: Path) -> None:
    encoder = load_student(student_folder).encoder
    source = ShardSet(shards)
    samples = sources(shards)
    plain, targets = EncodedSamples(samples, encoder), EncodedSamples(samples, encoder, with_targets=True)
    blank = EncodedSamples(samples, encoder, modalities="A")
    assert len(plain) == 10
    for i in range(4):
        assert plain[i].target is None
        assert torch.equal(targets[i].target, encoder.encode_target(source[i]))
        assert torch.equal(plain[i].input_ids, encoder.encode(source[i]).input_ids)
        clip = blank[i].sample.clip
        assert clip is not None
        assert clip.frames is None or not clip.frames.any()


def same(a: Prompt, b: Prompt) -> bool:
    tensors = [(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True) if isinstance(x, torch.Tensor)]
    return a.sample.id == b.sample.id and bool(tensors) and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same(student_folder: Path, shards: Path, workers: int) -> None:
    reader = EncodedSamples(sources(shards, shards), load_student(student_folder).encoder, with_targets=True)
    batches = [[3, 1, 4], [1, 5], [], [9, 2, 6, 15, 13], [19]]
    found = list(read_batches(reader, batches, workers))
    assert [len(batch) for batch in found] == [3, 2, 0, 5, 1]
    for prompts, numbers in zip(found, batches, strict=True):
        assert all(same(prompt, reader[number]) for prompt, number in zip(prompts, numbers, strict=True))


def test_the_pipeline_is_webdatasets(student_folder: Path, shards: Path) -> None:
    import webdataset

    pipeline = worker_pipeline(EncodedSamples(sources(shards), load_student(student_folder).encoder), [[0, 1], [2]])
    assert isinstance(pipeline, webdataset.DataPipeline)
    assert pipeline.stage(1) is webdataset.split_by_worker
    assert [len(part) for part in pipeline] == [2, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_disappears_is_named(student_folder: Path, tmp_path: Path, workers: int) -> None:
    folder = write_shards(tmp_path / "s")
    reader = EncodedSamples(sources(folder), load_student(student_folder).encoder)
    path = min(folder.glob("*.tar"))
    path.unlink()
    with pytest.raises(ShardError, match=path.name) as raised:
        list(read_batches(reader, [[0, 1]], workers))
    assert raised.value.reason is FaultReason.MISSING_FILE


def test_a_missing_trace_stops_supervised_training(student_folder: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.write(replace(make_sample("audio", 1), trace=None))
    reader = EncodedSamples(sources(tmp_path), load_student(student_folder).encoder, with_targets=True)
    with pytest.raises(ValueError, match=r"audio-1.*no trace"):
        _ = reader[0]


@pytest.mark.parametrize("answer", [2, 7, -1, "B", 1.0, None, True], ids=repr)
def test_an_invalid_gold_stops_loading_with_the_samples_id(student_folder: Path, tmp_path: Path, answer: Any) -> None:
    """In the record itself, and through the loader's worker from a shard that has it with right checksums."""
    sample = make_sample("audio", 3)
    assert len(sample.options) == 2
    with pytest.raises(ValueError, match="audio-3"):
        replace(sample, answer=answer)
    object.__setattr__(sample, "answer", answer)  # as a writer without the check would leave it
    with ShardWriter(tmp_path) as writer:
        writer.write(make_sample("audio", 6))
        writer.write(sample)
    samples = sources(tmp_path)
    reader = EncodedSamples(samples, load_student(student_folder).encoder)
    order = SampleOrder([[2]], shuffle=False)
    with pytest.raises(ValueError, match="audio-3") as raised:
        list(WindowLoader(reader, order, micro_batch_size=1, num_workers=1))
    assert "Traceback" not in str(raised.value)


def test_every_gold_answer_scores_1(shards: Path) -> None:
    completions = [gold_completion(sample) for sample in ShardSet(shards)]
    assert AccuracyReward().score(completions) == [1.0] * 10
    wrong = [replace(c, text=c.text.replace(f">{c.sample.gold}<", ">Z<")) for c in completions]
    assert AccuracyReward().score(wrong) == [0.0] * 10


# ---- mixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """10 and 4 samples; both count their ids from 0."""
    return write_shards(tmp_path_factory.mktemp("a"), 10), write_shards(tmp_path_factory.mktemp("b"), 4)


def mixture(two: tuple[Path, Path], *weights: float | None) -> SampleSources:
    listed: list[Any] = [DataSource(str(f), w, name=n) for f, w, n in zip(two, weights, "ab", strict=True)]
    return open_sources(listed, None, ShardCache(), "data.train")


def loader(samples: SampleSources, encoder: Any, **settings: Any) -> WindowLoader:
    order = samples.order(seed=5, shuffle=True, shuffle_shards=2)
    fixed = {"micro_batch_size": 1, "micro_batches": 4, "fingerprint": samples.fingerprint}
    return WindowLoader(EncodedSamples(samples, encoder), order, **{**fixed, **settings})


def clips(batches: list[Any]) -> list[tuple[str, float]]:
    """Ids and sums of what was read: two sources have the same ids."""
    return [(prompt.sample.id, float(prompt.input_ids.sum())) for batch in batches for prompt in batch.prompts]


def test_a_union_has_every_sample_once_per_pass(two: tuple[Path, Path]) -> None:
    samples = mixture(two, None, None)
    order = samples.order(seed=5, shuffle=True, shuffle_shards=2)
    assert sorted(place.sample for place in order.places(0, 14)) == list(range(14))
    assert order.counts(14, samples.bounds) == [10, 4]


def test_weights_hold_in_every_window(two: tuple[Path, Path]) -> None:
    samples = mixture(two, 3.0, 1.0)
    order = samples.order(seed=5, shuffle=True, shuffle_shards=2)
    for window in range(20):
        places = order.places(4 * window, 4 * window + 4)
        assert sum(place.sample < 10 for place in places) == 3
    # Each source runs through passes of its own: 60 of 10 samples, 20 of 4.
    assert max(place.epoch for place in order.places(0, 80)) == 5


@pytest.mark.parametrize("weights", [(None, None), (0.7, 0.3)])
def test_mixtures_resume_and_do_not_depend_on_workers_or_devices(
    student_folder: Path, two: tuple[Path, Path], weights: tuple[Any, Any]
) -> None:
    samples, encoder = mixture(two, *weights), load_student(student_folder).encoder
    whole = clips([batch for one in [loader(samples, encoder)] for _ in range(3) for batch in one])
    assert len(whole) == 3 * 12
    stopped = loader(samples, encoder, num_workers=2)
    seen = []
    for batch in stopped:
        seen.append(batch)
        if len(seen) == 8:
            break
    resumed = loader(samples, encoder, num_workers=1)
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch for _ in range(3) for batch in resumed]
    assert (clips(seen) + clips(rest))[: len(whole)] == whole
    devices = [list(loader(samples, encoder, micro_batches=2, rank=rank, world_size=2)) for rank in range(2)]
    for window in range(3):
        both = [c for device in devices for c in clips(device[2 * window : 2 * window + 2])]
        assert sorted(both) == sorted(whole[4 * window : 4 * window + 4])


def test_changed_weights_are_refused_on_resume(student_folder: Path, two: tuple[Path, Path]) -> None:
    encoder = load_student(student_folder).encoder
    state = loader(mixture(two, 0.7, 0.3), encoder).state_dict()
    with pytest.raises(ValueError, match=r"cannot resume.*weights.*data\.train"):
        loader(mixture(two, 0.5, 0.5), encoder).load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([{"weight": 1.0}, {}], "some have none"),
        ([{"name": "x"}, {"name": "x"}], "'x' is used twice"),
        ([{"name": "a/b"}, {"name": "x"}], "'a/b'"),
        ([{"split": "dev"}, {}], r"data\.train\.\w+: split: no sample of split 'dev'"),
    ],
)
def test_wrong_mixtures(two: tuple[Path, Path], changes: list[dict[str, Any]], named: str) -> None:
    listed: list[Any] = [DataSource(str(folder), **change) for folder, change in zip(two, changes, strict=True)]
    with pytest.raises(ValueError, match=named):
        open_sources(listed, None, ShardCache(), "data.train")


def test_names_of_sources(two: tuple[Path, Path]) -> None:
    samples = open_sources([DataSource(f"{two[0]}/*.tar"), str(two[1])], None, ShardCache(), "data.train")
    assert samples.names == [two[0].name, two[1].name]
