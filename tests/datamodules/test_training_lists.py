"""Training on lists of ids: the same shards under several lists and weights, resumed, from a server, and planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from avrt.config.errors import UsageError
from avrt.data.shards import ShardSet
from avrt.planning.settings import count_samples
from avrt.storage.shard_cache import ShardCache
from datamodules.sources import DataSource, SampleSources, open_sources
from datamodules.streaming import EncodedSamples
from datamodules.windows import WindowLoader
from lightning_modules import cli
from tests.lightning_modules.training import StopAfter, fit, sft_data, sft_module, write_shards
from tests.storage.http_server import Files, serve
from tests.tiny_student import load_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 samples in 3 shards."""
    return write_shards(tmp_path_factory.mktemp("s"), 12)


@pytest.fixture(scope="module")
def lists(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """5 easy, 2 medium, 4 hard samples, in no order; one sample is in none."""
    place, keys = tmp_path_factory.mktemp("lists"), ShardSet(folder).keys
    parts = {"easy": keys[4::-1], "medium": [keys[10], keys[5]], "hard": keys[6:10]}
    for name, ids in parts.items():
        (place / f"{name}.txt").write_text("\n".join(ids), encoding="utf-8")
    return {name: str(place / f"{name}.txt") for name in parts}


def opened(*sources: Any, cache: ShardCache | None = None) -> SampleSources:
    return open_sources(list(sources), None, cache or ShardCache(), "data.train")


def by_difficulty(folder: Path, lists: dict[str, str]) -> list[DataSource]:
    return [
        DataSource(str(folder), weight, only=lists[name])
        for name, weight in (("easy", 1.0), ("medium", 2.0), ("hard", 1.0))
    ]


def keys_of(samples: SampleSources) -> list[str]:
    return [key for shards in samples.shards for key in shards.keys]


def test_the_same_shards_under_several_lists(folder: Path, lists: dict[str, str]) -> None:
    samples = opened(*by_difficulty(folder, lists))
    assert samples.names == ["easy", "medium", "hard"]
    keys = ShardSet(folder).keys
    assert keys_of(samples) == [*keys[:5], keys[5], keys[10], *keys[6:10]]  # in the shards' order
    order = samples.order(seed=5, shuffle=True, shuffle_shards=2)
    assert order.counts(40, samples.bounds) == [10, 20, 10]
    for number, key in enumerate(keys_of(samples)):
        assert samples[number].id == key


def test_never(folder: Path, lists: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        samples = opened(DataSource(str(folder), never=[lists["easy"], lists["hard"]]))
    keys = ShardSet(folder).keys
    assert keys_of(samples) == [keys[5], keys[10], keys[11]]
    assert "data.train.s" in caplog.text
    assert "3 of 12 samples" in caplog.text
    both = opened(DataSource(str(folder), only=[lists["easy"], lists["medium"]], never=lists["medium"], name="x"))
    assert keys_of(both) == keys[:5]


def test_a_wrong_list_is_named_with_its_source(folder: Path, tmp_path: Path) -> None:
    typo = tmp_path / "typo.txt"
    typo.write_text("no-such-sample\n")
    with pytest.raises(ValueError, match=r"data\.train\.typo: only: none of the 1 ids in .*typo\.txt"):
        opened(DataSource(str(folder), only=str(typo)))
    with pytest.raises(ValueError, match=r"data\.train\.x: never: .*absent\.txt"):
        opened(DataSource(str(folder), name="x", never=str(tmp_path / "absent.txt")))


def test_remote_shards_without_a_listed_sample_are_not_fetched(
    student_folder: Path, folder: Path, tmp_path: Path
) -> None:
    middle = tmp_path / "middle.txt"
    middle.write_text("\n".join(ShardSet(folder).keys[4:7]))
    with serve(Files({f"set/{path.name}": path.read_bytes() for path in folder.iterdir()})) as server:
        samples = opened(DataSource(server.url("set"), only=str(middle)), cache=ShardCache(tmp_path / "cache"))
        reader = EncodedSamples(samples, load_student(student_folder).encoder, shards_ahead=3)
        order = samples.order(seed=0, shuffle=True, shuffle_shards=2)
        loader = WindowLoader(reader, order, micro_batch_size=3)
        assert {prompt.sample.id for batch in loader for prompt in batch.prompts} == set(ShardSet(folder).keys[4:7])
        assert [bool(server.sent[f"set/shard-00000{number}.tar"]) for number in range(3)] == [False, True, False]


def test_a_run_on_lists_resumes_and_another_list_is_refused(
    student_folder: Path, folder: Path, lists: dict[str, str], tmp_path: Path
) -> None:
    def run(train: Any, *callbacks: Any, workers: int = 0, **settings: Any) -> Any:
        data = sft_data(folder, train=train, batch_size=2, num_workers=workers)
        return fit(sft_module(student_folder), data, *callbacks, max_steps=4, **settings)

    train = by_difficulty(folder, lists)
    whole = run(train)
    assert [
        (step["data/samples/easy"], step["data/samples/medium"], step["data/samples/hard"]) for step in whole.logged
    ] == [(n, 2 * n, n) for n in (1, 2, 3, 4)]
    run(train, StopAfter(2, tmp_path / "stop.ckpt"), workers=2)
    resumed = run(train, ckpt_path=tmp_path / "stop.ckpt")
    assert (resumed.ids, resumed.losses) == (whole.ids[4:], whole.losses[4:])
    shorter = tmp_path / "easy.txt"
    shorter.write_text("\n".join(Path(lists["easy"]).read_text().split("\n")[:4]))
    with pytest.raises(ValueError, match=r"cannot resume: data\.train .*lists of ids"):
        run([DataSource(str(folder), 1.0, only=str(shorter)), *train[1:]], ckpt_path=tmp_path / "stop.ckpt")


def test_an_excluded_sample_may_be_validated_on(
    student_folder: Path, folder: Path, lists: dict[str, str], tmp_path: Path
) -> None:
    held_out = write_shards(tmp_path / "val", 4)  # the first samples of the training set
    train = [DataSource(str(folder), never=lists["easy"])]
    data = sft_data(folder, train=train, val=str(held_out), val_samples=2)
    assert fit(sft_module(student_folder), data, max_steps=1).logged
    with pytest.raises(ValueError, match=r"4 of the 4 samples of data\.val are also in data\.train"):
        fit(sft_module(student_folder), sft_data(folder, val=str(held_out)), max_steps=1)


def test_lists_in_a_config_and_in_a_plan(folder: Path, lists: dict[str, str], tmp_path: Path) -> None:
    train = [
        {"shards": str(folder), "weight": 1.0, "only": lists["easy"]},
        {"shards": str(folder), "weight": 2.0, "never": [lists["easy"], lists["hard"]], "name": "rest"},
    ]
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"init_args": {"train": train}}}))
    settings = cli.read_settings("fit", ["--config", "cli_configs/grpo_7b.yaml", "--config", str(overlay)]).as_dict()
    parsed = settings["data"]["init_args"]["train"]
    assert [(source["only"], source["never"]) for source in parsed] == [
        (lists["easy"], None),
        (None, [lists["easy"], lists["hard"]]),
    ]
    assert count_samples(parsed) == 5 + 3
    on_the_command_line = f"--data.train=[{{shards: {folder}, only: {lists['medium']}}}]"
    settings = cli.read_settings("fit", ["--config", "cli_configs/grpo_7b.yaml", on_the_command_line]).as_dict()
    assert count_samples(settings["data"]["init_args"]["train"]) == 2
    with pytest.raises(UsageError, match=r"data\.train: only: .*absent\.txt"):
        count_samples([{"shards": str(folder), "only": str(tmp_path / "absent.txt")}])
