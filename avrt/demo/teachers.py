"""Two teachers with one stream each: one measures and names the color, the other the pitch.

They get what a student gets (frames, waveform) and nothing else: no file name, seed or annotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from avrt.demo.clips import COLORS, PITCHES


@dataclass(frozen=True)
class VisionTeacher:
    """Names the color of the shape in a clip's frames: the nearest class in chromaticity.

    Attributes:
        colors: RGB value of each class.
        min_chroma: a pixel is colored, not gray, if its largest and smallest channel differ by this much (0 to 255).
        min_colored_share: a clip with a smaller share of colored pixels has no color.
    """

    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: COLORS)
    min_chroma: int = 60
    min_colored_share: float = 0.01

    def describe(self, frames: npt.ArrayLike) -> str | None:
        """Name of the color in `frames`, or None if nothing in them is colored.

        Args:
            frames: uint8 ``[T, 3, height, width]``, a tensor or an array.

        Raises:
            ValueError: `frames` have another shape.
        """
        array = np.asarray(frames)
        if array.ndim != 4 or array.shape[1] != 3:
            raise ValueError(f"`frames` must be [T, 3, height, width]; got {list(array.shape)}")
        pixels = np.moveaxis(array, 1, -1).reshape(-1, 3).astype(np.float64)
        colored = pixels[np.ptp(pixels, axis=1) >= self.min_chroma]
        if len(colored) < self.min_colored_share * len(pixels):
            return None
        # Brightness scales all channels alike, so the direction of the color, not its length, determines the class.
        centroids = np.array(list(self.colors.values()), dtype=np.float64)
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        return list(self.colors)[int(np.argmax(centroids @ colored.mean(axis=0)))]


@dataclass(frozen=True)
class AudioTeacher:
    """Names the pitch of a clip's audio: the class nearest to its strongest frequency on a logarithmic scale.

    Attributes:
        pitches: fundamental frequency of each class in Hz.
        min_loudness: a waveform with a smaller root mean square (full scale is 1) is silence.
    """

    pitches: Mapping[str, float] = field(default_factory=lambda: PITCHES)
    min_loudness: float = 0.01

    def describe(self, waveform: npt.ArrayLike, sampling_rate: int) -> str | None:
        """Name of the pitch in `waveform`, or None if it is silent.

        Args:
            waveform: float ``[S]`` in -1 to 1, a tensor or an array.
            sampling_rate: audio samples per second.

        Raises:
            ValueError: `waveform` is not mono, or the rate cannot represent the highest class.
        """
        samples = np.asarray(waveform, dtype=np.float64)
        if samples.ndim != 1:
            raise ValueError(f"`waveform` must be mono, [S]; got {list(samples.shape)}")
        if sampling_rate <= 2 * max(self.pitches.values()):
            raise ValueError(f"`sampling_rate` must be over {2 * max(self.pitches.values()):.0f}; got {sampling_rate}")
        if samples.size == 0 or np.sqrt(np.mean(samples**2)) < self.min_loudness:
            return None
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
        spectrum[0] = 0  # a constant offset is not a tone
        strongest = max(float(np.argmax(spectrum)), 1.0) * sampling_rate / samples.size
        return min(self.pitches, key=lambda name: abs(np.log(self.pitches[name] / strongest)))
