"""The process that reads clips: any files of a sample, inside data workers too, and it ends with its parent."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from avrt.data.clip_workers import ClipReader, ClipSettings
from avrt.data.records import EncodedClip, decode_clip
from avrt.media.errors import MediaError, MediaReason
from tests.media_files import as_int16, numbered_frame, png_bomb, tone, write_audio, write_video

SETTINGS = ClipSettings(num_frames=2, image_format="png", require_audio=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with audio, a silent video, an image and an audio file."""
    folder = tmp_path_factory.mktemp("files")
    frames = [numbered_frame(i) for i in range(20)]
    write_video(folder / "v.mkv", frames, audio=as_int16(tone(440, 2, 16_000)))
    write_video(folder / "silent.mp4", frames)
    Image.fromarray(numbered_frame(5)).save(folder / "i.png")
    write_audio(folder / "a.wav", as_int16(tone(300, 1.5, 16_000)), 16_000)
    return folder


class Clips(torch.utils.data.Dataset[dict[str, Any]]):
    """Reads clips in the data worker; reports the process ids of the worker and of its reader."""

    def __init__(self, paths: list[Path], reader: ClipReader) -> None:
        self.paths = paths
        self.reader = reader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        encoded = self.reader.read(self.paths[index])
        assert multiprocessing.current_process().daemon
        (child,) = multiprocessing.active_children()
        return {"clip": encoded, "worker": os.getpid(), "child": child.pid}


class Killed(Clips):
    """Notes the reader's process id in a file; then its data worker is killed."""

    def __init__(self, paths: list[Path], reader: ClipReader, note: Path) -> None:
        super().__init__(paths, reader)
        self.note = note

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.note.write_text(str(super().__getitem__(index)["child"]))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.fixture(scope="module")
def reader():
    reader = ClipReader(SETTINGS, timeout_seconds=60)
    yield reader
    reader.close()


class TestFiles:
    def test_image_and_audio(self, folder, reader):
        clip = decode_clip(reader.read_files(image=folder / "i.png", audio=folder / "a.wav"))
        assert clip.is_image
        assert clip.frames is not None
        assert clip.waveform is not None
        assert np.array_equal(clip.frames[0].permute(1, 2, 0).numpy(), numbered_frame(5))
        assert (len(clip.waveform), clip.duration) == (24_000, 1.5)

    def test_audio_file_of_a_silent_video(self, folder, reader):
        silent = reader.read_files(video=folder / "silent.mp4", audio=folder / "a.wav")
        assert (silent.info["num_frames"], silent.info["num_audio_samples"]) == (2, 24_000)
        assert silent.info["duration"] == 2.0
        # A video's own audio is already aligned with its frames.
        both = reader.read_files(video=folder / "v.mkv", audio=folder / "a.wav")
        assert both == reader.read(folder / "v.mkv")
        assert both.info["num_audio_samples"] == 32_000

    def test_what_a_sample_must_have(self, folder, reader):
        with pytest.raises(MediaError) as caught:
            reader.read_files(audio=folder / "a.wav")
        assert (caught.value.reason, caught.value.path) == (MediaReason.NO_VIDEO, folder / "a.wav")
        assert reader.read_files(image=folder / "i.png").info["num_audio_samples"] == 0
        for files in ({}, {"video": folder / "v.mkv", "image": folder / "i.png"}):
            with pytest.raises(ValueError, match="video"):
                reader.read_files(**files)
        strict = ClipReader(ClipSettings(require_video=False), timeout_seconds=60)
        try:
            with pytest.raises(MediaError) as caught:
                strict.read_files(image=folder / "i.png")
            assert (caught.value.reason, caught.value.path) == (MediaReason.NO_AUDIO, folder / "i.png")
            assert strict.read_files(audio=folder / "a.wav").info["num_frames"] == 0
        finally:
            strict.close()

    def test_the_file_at_fault_is_named(self, folder, reader):
        with pytest.raises(MediaError) as caught:
            reader.read_files(image=folder / "i.png", audio=folder / "none.wav")
        assert (caught.value.reason, caught.value.path) == (MediaReason.MISSING_FILE, folder / "none.wav")


def test_memory_limit(folder, tmp_path):
    """An image of 81 million pixels in 10 kB; the process continues afterwards."""
    bomb = png_bomb(tmp_path / "bomb.png", side=9000)
    reader = ClipReader(SETTINGS, timeout_seconds=60, max_memory=200 * 2**20)
    try:
        with pytest.raises(MediaError) as caught:
            reader.read_files(image=bomb)
        assert (caught.value.reason, caught.value.path) == (MediaReason.OUT_OF_MEMORY, bomb)
        children = {process.pid for process in multiprocessing.active_children()}
        assert reader.read(folder / "v.mkv").info["num_frames"] == 2
        assert {process.pid for process in multiprocessing.active_children()} == children
    finally:
        reader.close()


class TestDataWorkers:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_reads_in_a_data_worker(self, folder, reader, method):
        """The reader of this process runs already: a worker's copy starts one of its own, which ends with it."""
        whole = reader.read(folder / "v.mkv")
        loader = torch.utils.data.DataLoader(
            Clips([folder / "v.mkv"] * 3, reader), batch_size=None, num_workers=1, multiprocessing_context=method
        )
        rows = list(loader)
        assert [row["clip"] for row in rows] == [whole] * 3
        assert len({row["child"] for row in rows}) == 1
        assert rows[0]["child"] != os.getpid()
        assert gone(rows[0]["child"])
        assert reader.read(folder / "v.mkv") == whole

    def test_ends_with_a_killed_worker(self, folder, reader, tmp_path):
        clips = Killed([folder / "v.mkv"], reader, tmp_path / "child")
        loader = torch.utils.data.DataLoader(clips, batch_size=None, num_workers=1, multiprocessing_context="fork")
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            list(loader)
        assert gone(int((tmp_path / "child").read_text()))

    def test_a_copy_starts_anew(self, folder, reader):
        copy = pickle.loads(pickle.dumps(reader))
        assert isinstance(copy, ClipReader)
        assert (copy.settings, copy.timeout_seconds) == (reader.settings, reader.timeout_seconds)
        try:
            assert isinstance(copy.read(folder / "v.mkv"), EncodedClip)
        finally:
            copy.close()


def clip_readers() -> set[int]:
    """Process ids of this process's clip readers; another test's shard set may still hold one."""
    return {p.pid for p in multiprocessing.active_children() if p.name == "clip-reader" and p.pid is not None}


def child(others: set[int]) -> int:
    """Process id of the one clip reader beside `others`."""
    (process_id,) = clip_readers() - others
    return process_id


class TestReader:
    def test_a_hang_costs_one_clip(self, folder: Path) -> None:
        path = folder / "v.mkv"
        reader = ClipReader(ClipSettings(), timeout_seconds=5)
        others = clip_readers()
        try:
            whole = reader.read(path)
            os.kill(child(others), signal.SIGSTOP)
            with pytest.raises(MediaError) as caught:
                reader.read(path)
            assert (caught.value.reason, caught.value.path) == (MediaReason.TIMEOUT, path)
            assert reader.read(path) == whole
        finally:
            reader.close()

    def test_a_crash_costs_one_clip(self, folder: Path) -> None:
        path = folder / "v.mkv"
        reader = ClipReader(ClipSettings(), timeout_seconds=60)
        others = clip_readers()
        try:
            whole = reader.read(path)
            os.kill(child(others), signal.SIGSTOP)
            threading.Timer(0.2, os.kill, (child(others), signal.SIGSEGV)).start()
            threading.Timer(0.4, os.kill, (child(others), signal.SIGCONT)).start()
            with pytest.raises(MediaError, match="SIGSEGV") as caught:
                reader.read(path)
            assert caught.value.reason == MediaReason.DECODER_CRASH
            assert reader.read(path) == whole
        finally:
            reader.close()
