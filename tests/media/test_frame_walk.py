"""Frames by leaving out what is not needed, against decoding everything; and that nothing is decoded twice."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from avrt.media import frame_walk, reader, span
from avrt.media.errors import MediaReason
from avrt.media.frame_walk import FrameWalk, UnexpectedFrameError
from avrt.media.reader import read_clip
from avrt.media.video import frames_shown_at, segment_centers
from tests.media_checks import numbers, reason_of
from tests.media_files import as_int16, number_of, numbered_frame, remux, write_video

SPARSE = {"g": "100000", "keyint_min": "100000", "sc_threshold": "0"}
X264 = {
    "b-frames": {"g": "50", "bf": "3"},
    "open groups": {"g": "40", "bf": "3", "x264-params": "open-gop=1"},
    "one key frame": SPARSE,
    "pyramid": {"g": "100", "bf": "8", "x264-params": "b-pyramid=strict:ref=4"},
    "intra refresh": {"g": "60", "x264-params": "intra-refresh=1"},
    "interlaced": {"g": "50", "x264-params": "interlaced=1"},
}
FILES = [
    *(("a.mp4", "libx264", name) for name in X264),
    *(("a.ts", "libx264", name) for name in ("b-frames", "open groups", "one key frame")),
    *(("a.mkv", "libx264", name) for name in ("b-frames", "open groups")),
    ("a.flv", "libx264", "b-frames"),
    ("a.avi", "mpeg4", "b-frames"),
    ("a.mpg", "mpeg2video", ""),
    ("a.ts", "mpeg2video", ""),
    ("a.webm", "libvpx", ""),
]
FRAMES = 300


def decoded(path: Path) -> list[tuple[int, np.ndarray]]:
    """All frames, in order: time in ticks and image."""
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def shown(path: Path, count: int) -> list[np.ndarray]:
    """The plain way: decode everything, take the last frame at or before each center of a segment."""
    frames = decoded(path)
    times = [time for time, _ in frames]
    with reader._open_video(path) as stream:
        whole = span.presented_span(stream.container, stream).beginning_at(times[0] * stream.time_base)
        wanted = [(whole.start + center) / stream.time_base for center in segment_centers(whole.duration, count)]
    return [frames[max(bisect_right(times, moment) - 1, 0)][1] for moment in wanted]


@pytest.fixture
def count_decoded(monkeypatch):
    """Number of frames decoded since the last call."""
    number = 0
    spend = FrameWalk._spend

    def count(self, frame) -> None:
        nonlocal number
        number += 1
        spend(self, frame)

    def take() -> int:
        nonlocal number
        number, before = 0, number
        return before

    monkeypatch.setattr(FrameWalk, "_spend", count)
    return take


class TestSameFrames:
    @pytest.mark.parametrize("rate", [10, 2], ids=["30 s", "150 s"])
    @pytest.mark.parametrize(("name", "codec", "options"), FILES)
    def test_as_by_decoding_everything(self, tmp_path, count_decoded, name, codec, options, rate):
        """30 s files are scanned, so frames that no other refers to are left out; 150 s files are not."""
        rate = 25 if codec == "mpeg2video" else rate
        path = write_video(
            tmp_path / name,
            [numbered_frame(i) for i in range(FRAMES)],
            time_base=Fraction(1, rate),
            codec=codec,
            options=X264.get(options, {}),
        )
        for count in (1, 3, 8, 30):
            clip = read_clip(path, num_frames=count, require_audio=False)
            assert count_decoded() <= FRAMES + (options == "intra refresh") * 60
            for frame, expected in zip(clip.frames, shown(path, count), strict=True):
                np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), expected)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_variable_rate(self, tmp_path, name):
        rng = np.random.default_rng(0)
        moments = np.cumsum(rng.choice([1, 1, 1, 2, 30], FRAMES)).tolist()
        path = write_video(
            tmp_path / name,
            [numbered_frame(i) for i in range(FRAMES)],
            moments=moments,
            time_base=Fraction(1, 50),
            options={"g": "50", "bf": "3"},
        )
        for count in (1, 8, 40):
            clip = read_clip(path, num_frames=count, require_audio=False)
            assert numbers(clip) == [number_of(image.transpose(2, 0, 1)) for image in shown(path, count)]

    def test_a_clip_cut_without_encoding(self, tmp_path):
        """An edit list hides the first frames of the group."""
        path = write_video(
            tmp_path / "whole.mp4", [numbered_frame(i) for i in range(FRAMES)], options={"g": "60", "bf": "3"}
        )

        def later(packet) -> bool:
            packet.pts -= round(2 / packet.time_base)
            packet.dts -= round(2 / packet.time_base)
            return True

        cut = remux(path, tmp_path / "a.mp4", later, {"avoid_negative_ts": "disabled"})
        clip = read_clip(cut, require_audio=False)
        assert clip.duration == pytest.approx(28.0)
        assert numbers(clip) == [20 + int(10 * (i + 0.5) * 28 / 8) for i in range(8)]

    def test_packets_that_promise_other_frames(self, tmp_path):
        path = write_video(
            tmp_path / "a.mp4", [numbered_frame(i) for i in range(FRAMES)], options={"g": "300", "bf": "3"}
        )
        opener = partial(reader._open_video, path)
        with opener() as stream:
            whole = span.presented_span(stream.container, stream)
        assert len(whole.ticks) == FRAMES
        wrong = replace(whole, ticks=tuple(tick + 1 for tick in whole.ticks))
        with FrameWalk(opener, wrong) as walk, pytest.raises(UnexpectedFrameError):
            frames_shown_at(walk, whole, segment_centers(whole.duration, 8), max_pixels=10**6)
        read, again = (reader._read_frames(path, given, 8, None, 10**6)[2] for given in (whole, wrong))
        assert (read == again).all()


class TestCost:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    def test_one_key_frame(self, tmp_path, count_decoded, name):
        """More than two minutes with one key frame are decoded once."""
        path = write_video(
            tmp_path / name, [numbered_frame(i) for i in range(600)], time_base=Fraction(1, 4), options=SPARSE
        )
        clip = read_clip(path, require_audio=False)
        assert numbers(clip) == [37, 112, 187, 262, 337, 412, 487, 562]
        assert count_decoded() < 575

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    def test_only_needed_groups_are_decoded(self, tmp_path, count_decoded, name):
        """A key frame in 20 s, 60 minutes: at most 20 s for each frame, and the first."""
        path = write_video(
            tmp_path / name,
            [numbered_frame(i % 4096) for i in range(3600)],
            time_base=Fraction(1),
            options={"g": "20", "keyint_min": "20", "sc_threshold": "0", "preset": "ultrafast"},
        )
        clip = read_clip(path, require_audio=False)
        assert numbers(clip) == [225 + 450 * i for i in range(8)]
        assert count_decoded() < 9 * 25

    def test_frames_that_no_other_refers_to(self, tmp_path, count_decoded):
        path = write_video(
            tmp_path / "a.mp4",
            [numbered_frame(i) for i in range(FRAMES)],
            options={"g": "300", "bf": "3", "x264-params": "b-adapt=0"},
        )
        assert numbers(read_clip(path, require_audio=False)) == [int(FRAMES * (i + 0.5) / 8) for i in range(8)]
        assert count_decoded() < 0.6 * FRAMES

    def test_budget(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(600)], options=SPARSE)
        monkeypatch.setattr(frame_walk, "MAX_DECODED_PIXELS", 100 * 192 * 32)
        assert reason_of(path, require_audio=False) == MediaReason.TOO_LONG


class TestFirstFrame:
    @pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
    def test_frames_before_time_0_are_not_shown(self, tmp_path, name):
        """Matroska cannot store times below 0: FFmpeg's writer leaves them without one."""
        codec = "libvpx" if name == "a.webm" else "libx264"
        whole = write_video(
            tmp_path / f"whole_{name}",
            [numbered_frame(i) for i in range(100)],
            codec=codec,
            options={"g": "50", "bf": "0"} if codec == "libx264" else {},
        )

        def earlier(packet) -> bool:
            packet.pts -= 1000
            packet.dts -= 1000
            return True

        path = remux(whole, tmp_path / name, earlier, {"avoid_negative_ts": "disabled"})
        clip = read_clip(path, require_audio=False)
        assert clip.duration == 9.0
        assert numbers(clip) == [10 + int(90 * (i + 0.5) / 8) for i in range(8)]

    @pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
    def test_a_stream_cut_inside_a_group(self, tmp_path, name):
        """The first frames do not decode: the clip begins at the first that does, its audio too."""
        is_ts = name == "a.ts"
        ramp = np.linspace(-0.9, 0.9, 480_000)
        whole = write_video(
            tmp_path / f"whole_{name}",
            [numbered_frame(i) for i in range(100)],
            options={"g": "40", "keyint_min": "40", "sc_threshold": "0"},
            audio=as_int16(ramp),
            audio_rate=48_000,
            audio_codec="mp2" if is_ts else "pcm_s16le",
            audio_block=1152,
        )
        skipped = 15

        def cut(packet) -> bool:
            nonlocal skipped
            skipped -= packet.stream.type == "video"
            return packet.stream.type == "audio" or skipped < 0

        clip = read_clip(remux(whole, tmp_path / name, cut))
        assert clip.duration == pytest.approx(6.0)
        assert numbers(clip) == [40 + int(60 * (i + 0.5) / 8) for i in range(8)]
        assert clip.timestamps[0] == pytest.approx(0.375)
        # The ramp rises by 0.18 a second and begins with the video.
        assert np.diff(clip.waveform.numpy()[1000:90_000:16_000]).mean() == pytest.approx(0.18, abs=0.005)
        if not is_ts:
            assert clip.waveform[16_000].item() == pytest.approx(-0.9 + 0.18 * 5, abs=1e-3)

    def test_real_cut_stream(self, real_data):
        path = real_data.parent / "cases" / "20-media" / "dmg_mid.ts"
        if not path.exists():
            pytest.skip(f"{path} not found")
        first, last = decoded(path)[0][0], decoded(path)[-1][0]
        clip = read_clip(path, require_audio=False)
        assert clip.duration == pytest.approx((last - first) / 90_000 + 0.04)
        for frame, expected in zip(clip.frames, shown(path, 8), strict=True):
            np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), expected)


class TestExactMoments:
    @pytest.mark.parametrize("rate", [Fraction(24), Fraction(25), Fraction(30), Fraction(30_000, 1001), Fraction(15)])
    @pytest.mark.parametrize("blocks", [3, 7, 11, 13])
    def test_a_center_on_a_boundary_gets_the_later_frame(self, tmp_path, rate, blocks):
        """16 k frames: every center of 8 segments is the first moment of a frame."""
        count = 16 * blocks
        path = write_video(
            tmp_path / "a.mp4", [numbered_frame(i) for i in range(count)], time_base=1 / rate, options={"g": "30"}
        )
        clip = read_clip(path, require_audio=False)
        assert numbers(clip) == [(2 * i + 1) * blocks for i in range(8)]
