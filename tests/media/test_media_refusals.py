"""Files that are refused, with a reason and within bounds."""

import math
import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avrt.media.errors import MediaError, MediaReason, with_path
from avrt.media.reader import read_clip, read_image
from tests.media_checks import numbers, reason_of
from tests.media_files import numbered_frame, png_bomb, write_video


class TestRefusals:
    def test_no_file(self, tmp_path):
        assert reason_of(tmp_path / "none.mp4") == MediaReason.MISSING_FILE
        assert reason_of(tmp_path) == MediaReason.MISSING_FILE
        assert reason_of(tmp_path / "none.png", read_image) == MediaReason.MISSING_FILE

    def test_named_pipe_does_not_block(self, tmp_path):
        os.mkfifo(tmp_path / "a.mp4")
        assert reason_of(tmp_path / "a.mp4") == MediaReason.MISSING_FILE

    @pytest.mark.parametrize(
        "content",
        [
            b"this is a text",
            b"\x00" * 5000,
            b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nreal.mp4\n#EXT-X-ENDLIST\n",
            b"ffconcat version 1.0\nfile real.mp4\n",
        ],
        ids=["text", "zeros", "play list", "concat script"],
    )
    def test_not_media_whatever_the_extension(self, tmp_path, content):
        write_video(tmp_path / "real.mp4", [numbered_frame(1)] * 5)
        for name in ("a.mp4", "a.m3u8", "a.ffconcat", "a.txt"):
            (tmp_path / name).write_bytes(content)
            assert reason_of(tmp_path / name) == MediaReason.UNREADABLE

    def test_wrong_extension_reads_by_content(self, tmp_path):
        path = write_video(tmp_path / "a.mkv", [numbered_frame(i) for i in range(100)])
        assert numbers(read_clip(path.rename(tmp_path / "a.mp4"), require_audio=False))[0] == 6

    @pytest.mark.parametrize("name", ["concat:a|b.mp4", "http:__x.mp4", "%03d.mp4", "-i.mp4", "a b'\"é.mp4"])
    def test_odd_names_are_plain_names(self, tmp_path, monkeypatch, name):
        write_video(tmp_path / "plain.mp4", [numbered_frame(3)]).rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert numbers(read_clip(name, require_audio=False)) == [3] * 8

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
    @pytest.mark.parametrize("container", ["mp4", "mkv"])
    def test_cut_off_download(self, tmp_path, container, share):
        rng = np.random.default_rng(0)
        frames = list(rng.integers(0, 255, (100, 32, 64, 3), dtype=np.uint8))
        options = {"movflags": "faststart"} if container == "mp4" else {}
        path = write_video(tmp_path / f"a.{container}", frames, container_options=options)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert reason_of(path, require_audio=False) == MediaReason.TRUNCATED

    def test_unknown_codec(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(20)])
        content = path.read_bytes()
        at = content.rindex(b"avc1")  # in the sample description; the file's brand comes first
        path.write_bytes(content[:at] + b"zzzz" + content[at + 4 :])
        assert reason_of(path, require_audio=False) == MediaReason.UNKNOWN_CODEC

    @pytest.mark.parametrize("name", ["unknown_codec.mp4", "esc_AttributeError_121.avi"])
    def test_real_file_of_an_unknown_codec(self, real_data, name):
        path = real_data.parent / "cases" / "20-media" / name
        if not path.exists():
            pytest.skip(f"{path} not found")
        assert reason_of(path, require_audio=False) == MediaReason.UNKNOWN_CODEC

    def test_too_long(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(0)] * 2, moments=[0, 5 * 3600 * 10])
        assert reason_of(path, require_audio=False) == MediaReason.TOO_LONG

    def test_hours_within_the_limit_are_read(self, tmp_path):
        moments = [600 * 10 * i for i in range(18)]
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(18)], moments=moments)
        clip = read_clip(path, require_audio=False)
        assert clip.duration == pytest.approx(17 * 600, abs=601)
        expected = [int(moment // 600) for moment in clip.timestamps]
        assert numbers(clip) == [min(number, 17) for number in expected]

    @pytest.mark.parametrize(
        "arguments", [{"num_frames": 0}, *({"max_audio_seconds": s} for s in (0.0, math.nan, math.inf))]
    )
    def test_arguments(self, tmp_path, arguments):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            read_clip(tmp_path / "a.mp4", **arguments)

    def test_error_crosses_processes(self):
        error = pickle.loads(pickle.dumps(MediaError(MediaReason.NO_AUDIO, "none", "a.mp4")))
        assert (error.path, error.reason, error.detail) == (Path("a.mp4"), MediaReason.NO_AUDIO, "none")
        assert str(error) == "a.mp4: no_audio: none"

    def test_the_reader_names_the_file(self):
        with pytest.raises(MediaError) as caught, with_path(Path("b.mp4")):
            raise MediaError(MediaReason.NO_AUDIO, "none")
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.path, str(error)) == (Path("b.mp4"), "b.mp4: no_audio: none")


LIMITED = """
import resource, sys
from avrt.media.errors import MediaError
from avrt.media.reader import read_clip, read_image
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
limit = used + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        if path.endswith(".png"):
            read_image(path)
        else:
            read_clip(path, require_audio=False)
    except MediaError as error:
        print(path, error.reason.value)
"""


class TestBombs:
    def test_refused_within_a_memory_limit(self, tmp_path):
        """8K video, a container that lies about it, and an image bomb, with 100 MB to spare."""
        large = write_video(
            tmp_path / "large.mp4",
            [np.zeros((4320, 7680, 3), np.uint8)],
            codec="libx264",
            options={"preset": "ultrafast"},
        )
        content = large.read_bytes()
        size = struct.pack(">HH", 7680, 4320)
        assert content.count(size) == 1
        lying = tmp_path / "lying.mp4"
        lying.write_bytes(content.replace(size, struct.pack(">HH", 320, 180)))
        bomb = png_bomb(tmp_path / "bomb.png")
        assert bomb.stat().st_size < 200_000
        files = [str(large), str(lying), str(bomb)]
        done = subprocess.run([sys.executable, "-c", LIMITED, *files], capture_output=True, text=True, check=True)
        reasons = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
        assert reasons[files[0]] == reasons[files[2]] == "too_large"
        assert reasons[files[1]] in ("too_large", "corrupt_video", "unreadable")

    def test_many_frames_do_not_pile_up(self, tmp_path):
        """Memory is bounded by the frames kept: 300 frames of 720p would be 830 MB."""
        path = write_video(
            tmp_path / "a.mp4", [np.zeros((720, 1280, 3), np.uint8)] * 300, options={"preset": "ultrafast"}
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read_clip(path, require_audio=False)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024
