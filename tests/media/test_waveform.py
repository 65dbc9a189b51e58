"""Audio: pitch, loudness, alignment with the frames, and odd formats."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from avrt.media.errors import MediaReason
from avrt.media.reader import read_audio, read_clip
from tests.media_checks import numbers, reason_of
from tests.media_files import as_int16, numbered_frame, tone, write_audio, write_video


class TestSound:
    def test_tone_keeps_pitch_and_loudness(self, tmp_path):
        audio = as_int16(tone(440, 12, 44_100), tone(440, 12, 44_100))
        path = write_video(
            tmp_path / "a.mkv",
            [numbered_frame(i) for i in range(100)],
            audio=audio,
            audio_rate=44_100,
            audio_layout="stereo",
        )
        waveform = read_clip(path).waveform
        assert waveform.dtype == torch.float32
        assert len(waveform) == 160_000
        expected = tone(440, 10, 16_000)
        assert np.abs(waveform.numpy() - expected)[200:-200].max() < 2e-3

    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_101, 48_000, 96_000])
    def test_rates(self, tmp_path, rate):
        clip = read_audio(write_audio(tmp_path / "a.wav", as_int16(tone(440, 2, rate)), rate))
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

    def test_late_audio_is_preceded_by_silence(self, tmp_path):
        path = write_video(
            tmp_path / "a.mkv",
            [numbered_frame(i) for i in range(100)],
            audio=as_int16(np.full(80_000, 0.5)),
            audio_start=Fraction(2),
        )
        waveform = read_clip(path).waveform
        assert len(waveform) == 112_000
        assert not waveform[:32_000].any()
        assert (waveform[32_000:] > 0.49).all()

    def test_early_audio_is_cut(self, tmp_path):
        ramp = np.linspace(0, 1, 80_000)
        path = write_video(
            tmp_path / "a.mkv",
            [numbered_frame(i) for i in range(100)],
            moments=range(20, 120),
            audio=as_int16(ramp),
        )
        clip = read_clip(path)
        assert clip.duration == 10.0
        assert numbers(clip)[0] == 6
        assert np.abs(clip.waveform.numpy() - ramp[32_000:]).max() < 1e-4

    def test_gap_is_filled_with_silence(self, real_data):
        """The phone clip's audio stops for 0.155 s in the middle; later audio must not move forward."""
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
        clip = read_audio(write_audio(tmp_path / "a.wav", loud, 16_000, codec="pcm_f32le"))
        assert clip.waveform.abs().max() == 1.0
        np.testing.assert_allclose(clip.waveform.numpy(), loud[0] / np.abs(loud).max(), atol=1e-6)

    def test_not_a_number(self, tmp_path):
        audio = np.full((1, 4000), np.nan, np.float32)
        path = write_audio(tmp_path / "a.wav", audio, 16_000, codec="pcm_f32le")
        assert reason_of(path, read_audio) == MediaReason.CORRUPT_AUDIO

    def test_limit(self, tmp_path):
        path = write_audio(tmp_path / "a.wav", as_int16(tone(100, 5, 16_000)), 16_000)
        clip = read_audio(path, max_audio_seconds=1.5)
        assert (len(clip.waveform), clip.duration) == (24_000, 5.0)

    def test_real_benchmark_audio(self, real_data):
        clip = read_audio(next((real_data / "benchmarks" / "mmau").rglob("*.wav")))
        assert clip.waveform.abs().max() > 0.01
