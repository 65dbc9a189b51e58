"""Token geometry of Qwen2.5-Omni: how much of a video and of its audio becomes one token of the prompt."""

from __future__ import annotations

from avrt.sample import SAMPLING_RATE

TOKEN_SIDE = 28
"""Side of one visual token in pixels (patches of 14, merged 2 by 2)."""

TOKEN_PIXELS = TOKEN_SIDE * TOKEN_SIDE
"""Pixels that one visual token covers, in each of its frames."""

FRAMES_PER_TOKEN = 2
"""Frames that one visual token of a video covers."""

AUDIO_TOKENS_PER_SECOND = 25

SAMPLES_PER_AUDIO_TOKEN = SAMPLING_RATE // AUDIO_TOKENS_PER_SECOND
"""Audio samples behind one token."""

MEL_FRAMES_PER_TOKEN = 4
"""Mel frames behind one audio token: a convolution and a pooling halve their number each."""
