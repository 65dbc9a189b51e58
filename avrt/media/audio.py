"""An audio stream to mono float samples at the project's rate.

Shape letters: C channels, S samples.
"""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np
import torch
from torchaudio.functional import resample

from avrt.media.errors import MediaError, MediaReason
from avrt.media.timeline import Timeline
from avrt.sample import SAMPLING_RATE

MAX_SOURCE_RATE = 768_000
"""A sampling rate above this means a damaged header."""

MAX_RESAMPLING_PHASES = 1000
"""torchaudio keeps one filter per phase; at coprime rates (44,101 Hz) that would take gigabytes."""

CHANNEL_WEIGHTS = {"FC": 1.0, "FL": 0.5**0.5, "FR": 0.5**0.5, "FLC": 0.5**0.5, "FRC": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
"""Weight of each channel in the mono mix after ITU-R BS.775; channels not listed (the surrounds) count 0.5, the bass
channel 0. Weights are divided by their sum, so a mix cannot clip."""


def read_waveform(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    *,
    start: Fraction | None,
    max_seconds: float,
) -> torch.Tensor:
    """Decode the first seconds of an audio stream.

    Sample 0 is the audio at `start`: earlier audio is cut, and silence fills the time before a stream that begins later
    as well as gaps inside it, so the waveform stays aligned with the frames. If the peak is above 1 (lossy codecs
    overshoot), the whole waveform is divided by the peak, because FLAC would clip it.

    Args:
        start: moment on the container's clock at which the waveform starts; None for the stream's first sample.
        max_seconds: length limit of the result.

    Returns:
        float32 ``[S]`` in [-1, 1] at `SAMPLING_RATE`, S ≤ ``max_seconds * SAMPLING_RATE``.

    Raises:
        MediaError: ``no_audio`` or ``corrupt_audio``.
    """
    timeline: Timeline | None = None
    rate = 0
    offset: float | None = None
    try:
        for frame in container.decode(stream):
            if timeline is None:
                rate = frame.sample_rate
                if not 0 < rate <= MAX_SOURCE_RATE:
                    raise MediaError(MediaReason.CORRUPT_AUDIO, f"impossible sampling rate {rate}")
                # A tenth of a second more than wanted, so that the resampling filter sees past the cut.
                timeline = Timeline(rate, math.ceil((max_seconds + 0.1) * rate))
                offset = None if start is None else float(start * rate)
            position = None
            if frame.pts is not None and frame.time_base is not None:
                moment = frame.pts * frame.time_base.numerator * rate / frame.time_base.denominator
                if offset is None:
                    offset = moment - timeline.count
                position = round(moment - offset)
            timeline.add(_mono(frame), position)
            if timeline.is_full:
                break
    except av.error.FFmpegError as error:
        raise MediaError(MediaReason.CORRUPT_AUDIO, f"decoding stops: {error.strerror}") from error
    samples = timeline.samples() if timeline is not None else np.empty(0, np.float32)
    if not len(samples):
        raise MediaError(MediaReason.NO_AUDIO, "the audio stream holds no samples")
    waveform = torch.from_numpy(samples)
    if not torch.isfinite(waveform).all():
        raise MediaError(MediaReason.CORRUPT_AUDIO, "the audio holds values that are not finite")
    waveform = _to_project_rate(waveform, rate)[: round(max_seconds * SAMPLING_RATE)]
    peak = waveform.abs().max()
    if peak > 1:
        waveform = waveform / peak
    return waveform.contiguous()


def _resampling_phases(rate: int) -> int:
    return max(rate, SAMPLING_RATE) // math.gcd(rate, SAMPLING_RATE)


def _to_project_rate(waveform: torch.Tensor, rate: int) -> torch.Tensor:
    """float32 ``[S]`` at `rate` to `SAMPLING_RATE`."""
    if rate == SAMPLING_RATE:
        return waveform
    if _resampling_phases(rate) <= MAX_RESAMPLING_PHASES:
        return resample(waveform, rate, SAMPLING_RATE)
    frame = av.AudioFrame.from_ndarray(waveform.numpy()[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLING_RATE)
    pieces = [piece.to_ndarray()[0] for part in (frame, None) for piece in resampler.resample(part)]
    return torch.from_numpy(np.concatenate(pieces))


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """One decoded block as mono float32 ``[S]``, full scale at 1."""
    block = frame.to_ndarray()
    if block.dtype == np.uint8:
        block = (block.astype(np.float32) - 128) / 128
    elif block.dtype.kind == "i":
        block = block.astype(np.float32) / 2 ** (8 * block.dtype.itemsize - 1)
    channels = frame.layout.nb_channels
    # Packed formats come as one row with the channels interleaved; planar ones as one row per channel.
    block = block.reshape(-1, channels).T if frame.format.is_packed else block
    if channels == 1:
        return block[0].astype(np.float32)
    names = [channel.name for channel in frame.layout.channels]
    weights = np.array([CHANNEL_WEIGHTS.get(name, 0.5) for name in names], np.float64)
    if not weights.sum():
        weights[:] = 1.0
    return (weights / weights.sum() @ block).astype(np.float32)
