"""The output of a trace run: a set per split, complete or unfinished, and never the sets of two runs together."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.data.manifest import read_manifest
from avrt.data.shards import ShardSet
from avrt.files.folder_lock import LOCK_NAME, FolderInUseError, FolderLock
from avrt.traces import finalize as finalize_module
from avrt.traces import output as output_module
from avrt.traces.call_planner import CallPlanner
from avrt.traces.config import TracesConfig
from avrt.traces.pipeline import run_traces
from tests.servers.scripted_server import ScriptedServer
from tests.shard_files import write_set
from tests.traces.question_set import answer, make_config, write_shards


@pytest.fixture(scope="module")
def finished(question_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TracesConfig:
    """The settings of a finished run; its ledger has every call of later ``write`` steps."""
    root = tmp_path_factory.mktemp("finished")
    with ScriptedServer(answer) as server:
        config = make_config(question_shards, root, server.url)
        run_traces(config)
    return config


def write(config: TracesConfig, **changes: Any) -> dict[str, Any]:
    statistics = run_traces(replace(config, **changes), steps=["write"])
    assert statistics is not None
    return statistics


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_split_is_a_complete_set(finished: TracesConfig) -> None:
    out = Path(finished.output)
    statistics = json.loads((out / "statistics.json").read_text())
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["train", "val"]
    for split in ("train", "val"):
        shards = ShardSet(out / split, verify=True)
        assert set(shards.splits) == {split}
        assert len(shards) == statistics["splits"][split]["samples"] == read_manifest(out / split).samples
    sources = [{sample.source for sample in ShardSet(out / split)} for split in ("train", "val")]
    assert not sources[0] & sources[1]


def test_the_folders_are_those_that_the_sft_presets_read() -> None:
    import yaml

    configs = Path(__file__).resolve().parents[2] / "cli_configs"
    output = yaml.safe_load((configs / "traces_avqa.yaml").read_text())["output"]
    for name in ("sft_3b.yaml", "sft_7b.yaml"):
        data = yaml.safe_load((configs / name).read_text())["data"]["init_args"]
        assert (data["train"], data["val"]) == (f"{output}/train", f"{output}/val")


def test_splits_of_the_input_are_kept(finished: TracesConfig, tmp_path: Path) -> None:
    statistics = write(finished, output=str(tmp_path / "out"), val_share=None)
    assert list(statistics["splits"]) == ["train"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["statistics.json", "train"]


@pytest.mark.parametrize(
    "changes",
    [{"val_share": None}, {"split_seed": 5}, {"samples_per_shard": 3}, {"variant": "audio_only"}, {"val_share": 0.0}],
)
def test_another_setting_replaces_everything(finished: TracesConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    fresh, used = tmp_path / "fresh", tmp_path / "used"
    write(finished, output=str(fresh), **changes)
    write(finished, output=str(used))
    write(finished, output=str(used), **changes)
    assert files(used) == files(fresh)
    assert sorted(path.name for path in used.iterdir()) == sorted(path.name for path in fresh.iterdir())


class Killed(BaseException):
    """Simulates a kill: only the cleanup of a file that is being written catches it."""


@pytest.mark.parametrize("before", [None, {"split_seed": 5}, {"val_share": None}])
def test_stopped_between_any_two_steps_it_is_unfinished_and_then_the_same(
    finished: TracesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any] | None
) -> None:
    """Also over the output of other settings: complete sets of two runs never exist together."""
    write(finished, output=str(tmp_path / "fresh"))
    fresh = files(tmp_path / "fresh")
    out = tmp_path / "out"
    config = replace(finished, output=str(out), samples_per_shard=finished.samples_per_shard)
    steps = 0
    real = {name: getattr(finalize_module, name) for name in ("OpenShard", "write_manifest", "write_atomic")}
    unlink = Path.unlink

    def counted(name: str, real_step: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            # A shard cache of another test may still remove files in its thread.
            is_other = threading.current_thread() is not threading.main_thread()
            if is_other or (name == "unlink" and args[0].name.endswith(LOCK_NAME)):
                return real_step(*args, **kwargs)
            if steps == stop_at:
                raise Killed(name)
            steps += 1
            return real_step(*args, **kwargs)

        return step

    stop_at = 0
    while True:
        shutil.rmtree(out, ignore_errors=True)
        if before is not None:
            write(finished, output=str(out), **before)
        steps = 0
        with monkeypatch.context() as patch:
            for name, step in real.items():
                patch.setattr(finalize_module, name, counted(name, step))
            patch.setattr(output_module.Path, "unlink", counted("unlink", unlink))
            try:
                write(config)
            except Killed:
                pass
            else:
                break
        prints = {
            split: read_manifest(out / split).settings["traces"]["fingerprint"]
            for split in ("train", "val")
            if (out / split / "manifest.json").exists()
        }
        assert len(set(prints.values())) <= 1 or (out / "statistics.json").exists() is False
        if len(prints) == 2:
            assert len(set(prints.values())) == 1, f"complete sets of two runs after {stop_at} steps"
        write(config)
        assert files(out) == fresh
        stop_at += 1
    assert stop_at >= 4


def test_a_damaged_or_lost_shard_is_written_again(finished: TracesConfig, tmp_path: Path) -> None:
    write(finished, output=str(tmp_path))
    whole = files(tmp_path)
    shard = next((tmp_path / "val").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512])
    write(finished, output=str(tmp_path))
    assert files(tmp_path) == whole
    (tmp_path / "train" / "manifest.json").unlink()
    write(finished, output=str(tmp_path))
    assert files(tmp_path) == whole


def test_a_finished_output_is_left_alone(finished: TracesConfig, tmp_path: Path) -> None:
    write(finished, output=str(tmp_path))
    dates = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    write(finished, output=str(tmp_path))
    assert dates == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}


def old_layout(finished: TracesConfig, folder: Path, manifest: bool) -> None:
    """The output of an earlier version: all splits in one folder."""
    train = Path(finished.output) / "train"
    folder.mkdir()
    for path in train.iterdir():
        if manifest or path.suffix == ".tar":
            shutil.copy(path, folder)


@pytest.mark.parametrize("manifest", [True, False], ids=["finished", "killed"])
def test_the_layout_of_an_earlier_version_is_refused_before_any_call(
    finished: TracesConfig, tmp_path: Path, manifest: bool
) -> None:
    old_layout(finished, tmp_path / "out", manifest)
    before = files(tmp_path / "out")
    for steps in (["vision", "audio", "merge", "write"], ["write"]):
        with pytest.raises(ValueError, match=r"output: .*out contains traces of an earlier version.*manifest"):
            run_traces(replace(finished, output=str(tmp_path / "out"), ledger=str(tmp_path / "none")), steps=steps)
    assert not (tmp_path / "none").exists()
    assert files(tmp_path / "out") == before


def test_other_files_in_the_way_are_refused_and_kept(finished: TracesConfig, tmp_path: Path) -> None:
    write_set(tmp_path / "packed")
    with pytest.raises(ValueError, match="packed contains shards that are not traces"):
        write(finished, output=str(tmp_path / "packed"))
    shutil.move(tmp_path / "packed", tmp_path / "avqa" / "train")
    before = files(tmp_path / "avqa")
    with pytest.raises(ValueError, match=r"avqa/train contains files that are not traces"):
        write(finished, output=str(tmp_path / "avqa"))
    assert files(tmp_path / "avqa") == before
    (tmp_path / "mine" / "val").mkdir(parents=True)
    (tmp_path / "mine" / "val" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"mine/val contains files"):
        write(finished, output=str(tmp_path / "mine"))
    # A folder that has nothing to do with it is left alone.
    (tmp_path / "out" / "media").mkdir(parents=True)
    (tmp_path / "out" / "media" / "notes.txt").write_text("mine")
    write(finished, output=str(tmp_path / "out"))
    assert (tmp_path / "out" / "media" / "notes.txt").exists()


def test_a_copy_of_a_split_is_left_alone(finished: TracesConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(finished, output=str(out))
    shutil.copytree(out / "train", out / "train_before")
    (out / "tars").mkdir()
    shutil.copy(out / "train" / "traces-000000.tar", out / "tars")
    before = files(out / "train_before")
    write(finished, output=str(out), split_seed=5)
    assert files(out / "train_before") == before
    assert [path.name for path in (out / "tars").iterdir()] == ["traces-000000.tar"]
    write(finished, output=str(out), val_share=0.0)
    assert not (out / "val").exists(), "a split that the run no longer has is removed"


def test_the_input_is_never_overwritten(finished: TracesConfig, tmp_path: Path) -> None:
    """The input may be traces, say for another merger; the obvious output is the folder above the input."""
    write(finished, output=str(tmp_path / "out"))
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match=r"output: .*out contains the input"):
        run_traces(replace(finished, shards=str(tmp_path / "out" / "train"), output=str(tmp_path / "out")))
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_an_empty_split_is_an_error_that_names_a_share_that_works(finished: TracesConfig, share: float) -> None:
    out = Path(finished.output).parent / f"empty_{share}"
    name = "val" if share < 0.5 else "train"
    with pytest.raises(ValueError, match=rf"val_share: {share:g} leaves split '{name}' empty: \d+ samples") as caught:
        write(finished, output=str(out), val_share=share)
    assert not out.exists()
    words = str(caught.value).split("set it to ")[1].split(" ")
    write(finished, output=str(out), val_share=float(words[0]))
    assert len(ShardSet(out / "val")) > 0
    assert len(ShardSet(out / "train")) > 0


def test_one_clip_alone_cannot_be_split(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", 2)  # about one clip; the second question is kept
    with ScriptedServer(answer) as server:
        config = make_config(shards, tmp_path, server.url)
        with pytest.raises(ValueError, match=r"1 samples about 1 clips .*set it to 0 for no split val"):
            run_traces(config)
        run_traces(replace(config, val_share=0.0))
    assert ShardSet(tmp_path / "out" / "train").keys == ["q001"]


def test_a_split_of_the_input_that_loses_all_samples_is_an_error(tmp_path: Path) -> None:
    from avrt.data.writer import ShardWriter

    source = ShardSet(write_shards(tmp_path / "all", 8))
    with ShardWriter(tmp_path / "shards", samples_per_shard=16, image_format="png") as writer:
        for index, sample in enumerate(source):
            writer.write(replace(sample, split="val" if index in (0, 5) else "train"))  # both: vision is wrong
    with ScriptedServer(answer) as server:
        config = make_config(tmp_path / "shards", tmp_path, server.url, val_share=None, split=None)
        with pytest.raises(ValueError, match=r"split: .*'val' .*vision_wrong"):
            run_traces(config)
        run_traces(replace(config, split="train"))


def test_inspect_and_readers_name_the_splits_of_the_folder(
    finished: TracesConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", finished.output, "--verify"]) == 0
    out = capsys.readouterr().out
    assert "train" in out
    assert "val" in out
    with pytest.raises(ValueError, match=r"out: .*train, val.*name one of these folders"):
        ShardSet(finished.output)
    assert main(["inspect", str(Path(finished.output).parent)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_two_runs_with_one_output_do_not_write_at_once(finished: TracesConfig, tmp_path: Path) -> None:
    """Whatever their ledgers; the second is refused before it calls a server."""
    out = tmp_path / "out"
    run_lock = FolderLock(out, "traces", name=f".output{LOCK_NAME}")
    with run_lock, pytest.raises(FolderInUseError, match=rf"{out}: another `traces`"):
        run_traces(replace(finished, output=str(out), ledger=str(tmp_path / "other")))
    with FolderLock(finished.ledger, "traces"), pytest.raises(FolderInUseError, match=r"ledger: another `traces`"):
        run_traces(replace(finished, output=str(out)))
    write(finished, output=str(out))
    assert not list(tmp_path.rglob(".*"))
    # The ledger may be in the output's own folder.
    shutil.copytree(finished.ledger, tmp_path / "both")
    write(finished, output=str(tmp_path / "both"), ledger=str(tmp_path / "both"))


def test_the_folder_above_the_output_need_not_be_writable(
    finished: TracesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that is mounted into a container."""
    out = tmp_path / "volume"
    out.mkdir()
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if args and args[0] & os.O_CREAT and Path(path).parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    write(finished, output=str(out))
    assert (out / "statistics.json").exists()


def test_the_planner_reads_what_was_written(finished: TracesConfig) -> None:
    """A split's folder is an input like any other."""
    CallPlanner(finished, ShardSet(Path(finished.output) / "train"))
