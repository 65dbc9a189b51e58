"""AVRT: audio-visual reasoning transfer from single-modality teachers to small omni models."""

__version__ = "0.1.0"
