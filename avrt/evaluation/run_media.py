"""How much of each clip a run's model got, and how fast it replied, in a few words for tables."""

from __future__ import annotations

from avrt.evaluation.number_format import ABSENT
from avrt.evaluation.scoring import BenchmarkRun


def frames_of(run: BenchmarkRun) -> str:
    """Frames per item, such as ``8``, or ``2/s, at most 64``; ``image``; `ABSENT` for none or unknown."""
    kinds, settings = _kinds(run), run.info.decoding
    if "image" in kinds and "video" not in kinds:
        return "image"
    if "video" not in kinds or settings.get("inputs") == "A" or settings.get("num_frames") is None:
        return ABSENT
    count, rate = settings["num_frames"], settings.get("frames_per_second")
    return str(count) if rate is None else f"{rate:g}/s, at most {count}"


def audio_of(run: BenchmarkRun) -> str:
    """Seconds of audio per item, such as ``10``, or `ABSENT` where there is none or it is unknown."""
    settings = run.info.decoding
    seconds = settings.get("max_audio_seconds")
    heard = _kinds(run) & {"video", "audio"} and settings.get("inputs") != "V"
    return f"{seconds:g}" if heard and isinstance(seconds, int | float) else ABSENT


def _kinds(run: BenchmarkRun) -> set[str]:
    return {kind for record in run.records for kind in record.media}


def seconds_per_reply(run: BenchmarkRun) -> float | None:
    """The mean time of a reply; None where it was not measured."""
    times = [record.latency_seconds for record in run.records if record.latency_seconds is not None]
    return sum(times) / len(times) if times else None


def tokens_per_second(run: BenchmarkRun) -> float | None:
    """Generated tokens per second of these times; None where either was not measured."""
    timed = [
        (record.completion_tokens, record.latency_seconds)
        for record in run.records
        if record.completion_tokens is not None and record.latency_seconds
    ]
    return sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed) if timed else None
