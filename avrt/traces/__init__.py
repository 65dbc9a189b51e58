"""Reasoning traces from single-modality teachers: calls over a ledger, then filter, variants, shards and statistics.

A vision teacher sees the frames and never hears, an audio teacher hears and never sees, and a text-only merger
composes one cross-modal trace of the two. All three are OpenAI-compatible servers. `stages` makes the calls through
`client` and records each in the append-only `ledger`; `finalise` turns ledger and input shards into the shards that
fine-tuning reads, as a pure function.
"""
