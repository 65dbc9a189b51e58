"""Holes in the audio keep later audio in its place, and imprecise time stamps change nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrt.media.reader import read_clip
from avrt.media.timeline import LOOKAHEAD_BLOCKS, TOLERANCE_SECONDS, Timeline
from tests.media_files import numbered_frame, remux, tone, write_video

RATE = 1000
"""Samples per second in tests without files: a sample is a millisecond."""
BLOCK = 20


def placed(positions: list[int | None], limit: int = 10**6) -> list[int]:
    """Where each block begins in the result; block i is filled with i + 1."""
    timeline = Timeline(RATE, limit)
    for number, position in enumerate(positions):
        timeline.add(np.full(BLOCK, number + 1, np.float32), position)
    samples = timeline.samples()
    return [int(np.argmax(samples == number + 1)) for number in range(len(positions))]


class TestTimeline:
    @given(st.lists(st.integers(-19, 19), min_size=1, max_size=60), st.integers(0, 500))
    def test_jitter_inserts_nothing(self, jitter: list[int], start: int) -> None:
        stamps: list[int | None] = [start + BLOCK * i + (late if i else 0) for i, late in enumerate(jitter)]
        assert placed(stamps) == [start + BLOCK * i for i in range(len(jitter))]

    def test_one_wrong_stamp_inserts_nothing(self) -> None:
        stamps: list[int | None] = [BLOCK * i for i in range(50)]
        stamps[20], stamps[30], stamps[40] = 5000, 0, None
        assert placed(stamps) == [BLOCK * i for i in range(50)]

    @settings(max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60)), max_size=6), st.integers(0, 2**31))
    def test_holes_never_add_up(self, holes: list[tuple[int, int]], seed: int) -> None:
        """With stamps rounded to a millisecond: all blocks within the tolerance, whatever came before."""
        rounding = np.random.default_rng(seed).integers(-1, 2, 100)
        truth = [BLOCK * i + sum(length for at, length in holes if at < i) for i in range(100)]
        stamps: list[int | None] = [time + int(error) for time, error in zip(truth, rounding, strict=True)]
        late = np.abs(np.array(placed(stamps)) - truth)
        assert late.max() <= TOLERANCE_SECONDS * RATE + 2

    def test_overlap_is_cut(self) -> None:
        stamps: list[int | None] = [BLOCK * i - (30 if i >= 5 else 0) for i in range(30)]
        # Block 5 would begin at 70, where blocks 3 and 4 lie; it is dropped, and block 6 loses half.
        assert placed(stamps)[7:] == [BLOCK * i - 30 for i in range(7, 30)]

    def test_late_and_early_starts(self) -> None:
        assert placed([500 + BLOCK * i for i in range(20)])[0] == 500
        assert placed([BLOCK * i - 200 for i in range(20)])[10:] == [BLOCK * i for i in range(10)]

    def test_limit(self) -> None:
        timeline = Timeline(RATE, limit=50)
        added = 0
        while not timeline.is_full:
            timeline.add(np.ones(BLOCK, np.float32), 10**9 + BLOCK * added)
            added += 1
        assert added == LOOKAHEAD_BLOCKS + 1
        assert timeline.samples().tolist() == [0.0] * 50


def click_train(seconds: int, rate: int) -> np.ndarray:
    """A burst of 5 ms at every half second, under soft noise; int16 ``[1, S]``."""
    audio = np.random.default_rng(0).normal(0, 0.002, seconds * rate)
    burst = tone(1000, 0.005, rate, amplitude=0.9)
    for begin in range(rate // 4, len(audio) - rate // 4, rate // 2):
        audio[begin : begin + len(burst)] += burst
    return np.round(audio * 32767).astype(np.int16)[None]


def onsets(waveform: torch.Tensor) -> list[float]:
    """The moments at which bursts begin, in seconds."""
    loud = np.flatnonzero(waveform.abs().numpy() > 0.2)
    return [float(loud[i]) / 16_000 for i in range(len(loud)) if not i or loud[i] - loud[i - 1] > 1600]


class TestHoles:
    @pytest.mark.parametrize("milliseconds", [10, 20, 30, 40, 50, 60])
    def test_what_follows_a_hole_stays_in_place(self, tmp_path, milliseconds):
        """Three holes, at 2, 4 and 6 s."""
        whole = write_video(
            tmp_path / "whole.mkv",
            [numbered_frame(i) for i in range(100)],
            audio=click_train(10, 48_000),
            audio_rate=48_000,
            audio_block=480,
        )

        def keep(packet) -> bool:
            at = packet.pts * packet.time_base
            holes = (at - 2, at - 4, at - 6)
            # Half a packet less, because Matroska rounds times.
            return packet.stream.type == "video" or not any(
                Fraction(-5, 1000) <= since < Fraction(milliseconds - 5, 1000) for since in holes
            )

        holed = read_clip(remux(whole, tmp_path / "a.mkv", keep)).waveform
        expected = onsets(read_clip(whole).waveform)
        assert len(expected) == 19
        late = np.abs(np.array(onsets(holed)) - expected)
        assert late.max() < 0.0211
        if milliseconds > 20:
            assert late.max() < 0.002

    @pytest.mark.parametrize(("name", "codec"), [("a.ts", "aac"), ("a.flv", "aac"), ("a.mp4", "aac"), ("a.ts", "mp2")])
    def test_lost_packets(self, tmp_path, name, codec):
        audio = click_train(10, 48_000)
        whole = write_video(
            tmp_path / f"whole_{name}",
            [numbered_frame(i) for i in range(100)],
            audio=audio if codec == "mp2" else audio.astype(np.float32) / 32768,
            audio_rate=48_000,
            audio_codec=codec,
            audio_block=1152 if codec == "mp2" else 1024,
        )
        counts = {"video": 0, "audio": 0}

        def keep(packet) -> bool:
            counts[packet.stream.type] += 1
            return packet.stream.type == "video" or counts["audio"] not in (100, 101, 200, 300, 301)

        holed = read_clip(remux(whole, tmp_path / name, keep)).waveform
        expected, found = np.array(onsets(read_clip(whole).waveform)), np.array(onsets(holed))
        assert len(found) >= len(expected) - 3
        # A burst may lie in a lost packet; every other is where it was.
        late = np.abs(found[:, None] - expected).min(1)
        assert late.max() < 0.0211

    @pytest.mark.parametrize("seed", range(3))
    def test_jitter_of_a_recorder(self, tmp_path, seed):
        """Stamps that are up to 15 ms off: every sample is as it was."""
        whole = write_video(
            tmp_path / "whole.mkv",
            [numbered_frame(i) for i in range(100)],
            audio=click_train(10, 48_000),
            audio_rate=48_000,
        )
        rng = np.random.default_rng(seed)

        def jitter(packet) -> bool:
            if packet.stream.type == "audio" and packet.pts:
                packet.pts = packet.dts = packet.pts + int(rng.integers(-9, 10))
            return True

        clip = read_clip(remux(whole, tmp_path / "a.mkv", jitter))
        assert torch.equal(clip.waveform, read_clip(whole).waveform)

    def test_real_hole(self, real_data):
        path = real_data.parent / "cases" / "20-media" / "gap40.mkv"
        if not path.exists():
            pytest.skip(f"{path} not found")
        waveform = read_clip(path).waveform
        assert waveform[48_050:48_590].abs().max() < 1e-3
        assert waveform[47_000:47_900].std() > 0.05
        assert waveform[48_700:49_600].std() > 0.05
