"""Decoding for evaluation in a process of its own: the same clips, and bombs and crashes cost one file."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from avrt.media import isolated
from avrt.media.errors import MediaError, MediaReason
from avrt.media.isolated import read_isolated
from avrt.media.media_process import MediaProcess
from avrt.media.reader import read_media
from tests.media_files import as_int16, numbered_frame, png_bomb, tone, write_video

SETTINGS = {"num_frames": 2, "require_audio": False}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [numbered_frame(i) for i in range(20)]
    path = tmp_path_factory.mktemp("clips") / "v.mkv"
    return write_video(path, frames, audio=as_int16(tone(440, 2, 16_000)))


@pytest.fixture(scope="module")
def cases(real_data: Path) -> Path:
    """Files on which the program failed once."""
    folder = real_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip("this test needs the folder `shared/cases` beside the checkout")
    return folder


def child() -> int:
    process = isolated._of_thread.process._process
    assert process is not None
    return process.pid


def test_the_same_clip(video: Path) -> None:
    for files in ({"video": video}, {"audio": video, "require_video": False}):
        here = read_media(**SETTINGS | files)
        there = read_isolated(timeout_seconds=60, **SETTINGS | files)
        for name, value in vars(here).items():
            other = getattr(there, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    with pytest.raises(MediaError) as caught:
        read_isolated(timeout_seconds=60, video=video.with_name("none.mp4"))
    assert (caught.value.reason, caught.value.path) == (MediaReason.MISSING_FILE, video.with_name("none.mp4"))


def crash(pid: int) -> None:
    """End a stopped process as a fault in a decoder would."""
    os.kill(pid, signal.SIGSEGV)
    os.kill(pid, signal.SIGCONT)


def test_a_crash_and_a_hang_cost_one_file(video: Path) -> None:
    def read() -> torch.Tensor | None:
        return read_isolated(timeout_seconds=6, video=video, **SETTINGS).frames

    whole = read()
    before = child()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):  # a scheduler's and Ctrl-C: the run decides
        os.kill(child(), number)
        assert torch.equal(read(), whole)
    assert child() == before
    os.kill(child(), signal.SIGSTOP)
    threading.Timer(0.3, crash, (child(),)).start()
    with pytest.raises(MediaError, match="SIGSEGV") as caught:
        read()
    assert caught.value.reason == MediaReason.DECODER_CRASH
    assert torch.equal(read(), whole)
    os.kill(child(), signal.SIGSTOP)
    with pytest.raises(MediaError) as caught:
        read()
    assert caught.value.reason == MediaReason.TIMEOUT
    assert torch.equal(read(), whole)


def no_codec(path: Path) -> None:
    """What PyAV raises for a stream without a codec."""
    raise AttributeError(f"{path.name}: 'NoneType' object has no attribute 'width'")


def test_any_error_of_a_library_is_a_reason_of_that_file(video: Path) -> None:
    process = MediaProcess(no_codec, timeout_seconds=60)
    try:
        for _ in range(2):
            with pytest.raises(MediaError, match=r"AttributeError in test_isolated\.py.*width") as caught:
                process.call(video, video)
            assert (caught.value.reason, caught.value.path) == (MediaReason.DECODER_CRASH, video)
    finally:
        process.close()


def test_the_child_of_a_thread_ends_with_it(video: Path) -> None:
    pids = []

    def work() -> None:
        read_isolated(timeout_seconds=60, video=video, **SETTINGS)
        pids.append(child())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert pids[0] not in {process.pid for process in multiprocessing.active_children()}


def test_bombs(video: Path, cases: Path, tmp_path: Path) -> None:
    expected = {
        "22-bombs/samples_60M.mp4": MediaReason.UNREADABLE,
        "22-bombs/png_rgba.png": MediaReason.OUT_OF_MEMORY,
        "20-media/unknown_codec.mp4": MediaReason.UNKNOWN_CODEC,
        "20-media/esc_AttributeError_121.avi": MediaReason.UNKNOWN_CODEC,
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, reason in expected.items():
        kind = "image" if name.endswith("png") else "video"
        with pytest.raises(MediaError) as caught:
            read_isolated(timeout_seconds=120, **SETTINGS, **{kind: cases / name})
        assert caught.value.reason == reason, name
    peak = int(Path(f"/proc/{child()}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak < 3_000_000  # kB: 2 GiB and the libraries
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    with pytest.raises(MediaError, match="too_large"):
        read_isolated(timeout_seconds=60, image=png_bomb(tmp_path / "b.png"), **SETTINGS)
    assert read_isolated(timeout_seconds=60, video=video, **SETTINGS).frames is not None


def test_pixels_of_all_frames_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4)
    monkeypatch.setattr("avrt.media.video.MAX_CLIP_PIXELS", 8 * 64 * 64)
    assert read_media(video=path, num_frames=8, require_audio=False).frames is not None
    with pytest.raises(MediaError, match=r"too_large: 9 frames of 64x64"):
        read_media(video=path, num_frames=9, require_audio=False)


def killed_once(marker: str) -> str:
    """Ends its own process like a machine without memory does, the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "read"


def test_a_process_that_the_machine_kills_reads_once_more(tmp_path: Path) -> None:
    process = MediaProcess(killed_once, timeout_seconds=60)
    try:
        assert process.call(tmp_path / "clip", str(tmp_path / "marker")) == "read"
    finally:
        process.close()
