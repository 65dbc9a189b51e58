"""Reasoning traces from single-modality teachers: calls over a ledger, then filter, variants, shards and statistics.

A vision teacher gets only the frames, an audio teacher gets only the audio, and a text-only merger composes one
cross-modal trace of the two. All three are OpenAI-compatible servers. `pipeline` runs everything; `stages` makes the
calls through `avrt.servers` and records each in the append-only `ledger`; `sample_filter` decides which samples are
kept, and `finalize` writes their shards.
"""
