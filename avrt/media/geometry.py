"""The unit in which sizes of packed frames are counted: the smallest visual token of the students."""

from __future__ import annotations

TOKEN_SIDE = 28
"""Side of a visual token in pixels (patches of 14, merged 2 by 2). Larger ones divide a packed frame less evenly, and
their processors resize it once more."""

TOKEN_PIXELS = TOKEN_SIDE * TOKEN_SIDE
"""Pixels that one visual token covers, in each of its frames."""

FRAMES_PER_TOKEN = 2
"""Frames that one visual token of a video covers."""
