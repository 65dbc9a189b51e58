"""Defaults of what is kept of a clip, the same in packing, training and evaluation."""

from __future__ import annotations

from avrt.media.geometry import TOKEN_PIXELS

NUM_FRAMES = 8
"""Frames per clip."""

MAX_AUDIO_SECONDS = 10.0
"""Seconds of audio, from the clip's start."""

MIN_FRAME_PIXELS = 128 * TOKEN_PIXELS
MAX_FRAME_PIXELS = 768 * TOKEN_PIXELS
"""Bounds on the pixels of a frame: 128 to 768 visual tokens. Smaller frames are enlarged for the student only."""

MAX_CLIP_PIXELS = 2**28
"""Limit on the pixels of all frames of a sample: 800 MB, or 445 frames of `MAX_FRAME_PIXELS`."""
