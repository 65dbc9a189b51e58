"""Inspection of a set of shards: counts per split, and one sample's media as files to look at and listen to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import soundfile
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from avrt.data.records import AUDIO_MEMBER, decode_clip
from avrt.data.shards import ShardSet
from avrt.files.atomic import write_atomic
from avrt.sample import LETTERS, SAMPLING_RATE

NOT_GIVEN = "(not given)"


@dataclass
class SplitSummary:
    """Counts over the samples of one split.

    Attributes:
        samples: questions.
        clips: different clips they are about.
        duration_seconds: shortest, mean and longest clip, over the questions.
        streams: questions whose clip has video and audio, only one of them, or an image.
        frame_sizes: display sizes of the sources, ``width x height``.
        num_frames: frames kept per clip.
        question_types, modalities: the data set's own categories.
        options: options per question.
        answers: gold answers by letter.
        traces: questions with a trace for supervised fine-tuning.
    """

    samples: int = 0
    clips: int = 0
    duration_seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    streams: Counter[str] = field(default_factory=Counter)
    frame_sizes: Counter[str] = field(default_factory=Counter)
    num_frames: Counter[int] = field(default_factory=Counter)
    question_types: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    options: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    traces: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


def summarize(shards: ShardSet) -> dict[str, SplitSummary]:
    """Counts over a set of shards, per split in alphabetic order. Reads no media."""
    summaries: dict[str, SplitSummary] = {}
    durations: dict[str, list[float]] = {}
    sources: dict[str, set[str]] = {}
    for index, split in enumerate(shards.splits):
        record = shards.record(index)
        clip = record["clip"]
        summary = summaries.setdefault(split, SplitSummary())
        summary.samples += 1
        summary.streams[_streams(clip)] += 1
        if clip["width"]:
            summary.frame_sizes[f"{clip['width']}x{clip['height']}"] += 1
        summary.num_frames[clip["num_frames"]] += 1
        summary.question_types[record["question_type"] or NOT_GIVEN] += 1
        summary.modalities[record["modality"] or NOT_GIVEN] += 1
        summary.options[len(record["options"])] += 1
        summary.answers[LETTERS[record["answer"]]] += 1
        summary.traces += record["trace"] is not None
        durations.setdefault(split, []).append(clip["duration"])
        # A sample without a clip's name has its own clip.
        sources.setdefault(split, set()).add(record["source"] or f"/{record['id']}")
    for split, summary in summaries.items():
        values = durations[split]
        summary.clips = len(sources[split])
        summary.duration_seconds = (min(values), sum(values) / len(values), max(values))
    return dict(sorted(summaries.items()))


def print_summary(summaries: dict[str, SplitSummary], console: Console) -> None:
    """Print one table per split."""
    for split, summary in summaries.items():
        table = Table(title=f"split {escape(split)}", show_header=False)
        shortest, mean, longest = summary.duration_seconds
        table.add_row("questions", f"{summary.samples} about {summary.clips} clips")
        table.add_row("duration", f"{shortest:.1f} to {longest:.1f} s, mean {mean:.1f} s")
        table.add_row("streams", _shares(summary.streams))
        table.add_row("frames kept", _shares(Counter({f"{n} frames": c for n, c in summary.num_frames.items()})))
        if summary.frame_sizes:
            table.add_row("source size", _shares(summary.frame_sizes))
        table.add_row("question type", _shares(summary.question_types))
        table.add_row("needs", _shares(summary.modalities))
        table.add_row("options", _shares(Counter({f"{n} options": c for n, c in summary.options.items()})))
        answers = Counter({letter: summary.answers[letter] for letter in LETTERS[: max(summary.options)]})
        table.add_row("right answer", _shares(answers, by_count=False))
        table.add_row("with a trace", str(summary.traces))
        console.print(table)


def write_sample(shards: ShardSet, key: str, out_dir: str | Path) -> list[Path]:
    """Write one sample's frames as stored, its audio as WAV, and its text.

    Returns:
        The files written.

    Raises:
        ValueError: no sample has that key.
    """
    if key not in shards.keys:
        raise ValueError(f"show: no sample {key!r}; the first are {', '.join(shards.keys[:5])}")
    index = shards.keys.index(key)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    encoded = shards.media(index)
    clip = decode_clip(encoded)
    sample = shards.metadata(index)
    written = []
    for name, data in sorted(encoded.members.items()):
        if name != AUDIO_MEMBER:
            write_atomic(folder / f"{key}.{name}", data)
            written.append(folder / f"{key}.{name}")
    if clip.waveform is not None:
        path = folder / f"{key}.wav"
        soundfile.write(path, clip.waveform.numpy(), SAMPLING_RATE, subtype="PCM_16")
        written.append(path)
    lines = [
        sample.question,
        *(f"{letter}. {text}" for letter, text in zip(sample.letters, sample.options, strict=True)),
    ]
    lines.append(f"right answer: {sample.gold}")
    lines.append(
        f"split {sample.split}, type {sample.question_type or NOT_GIVEN}, needs {sample.modality or NOT_GIVEN}"
    )
    lines.append(f"clip {sample.source or NOT_GIVEN}: {clip.duration:.3f} s, {clip.width}x{clip.height}")
    if clip.fps:
        times = ", ".join(f"{moment:.3f}" for moment in clip.timestamps)
        lines.append(f"{len(clip.timestamps)} frames at {times} s, {clip.fps:.4f} frames per second")
    if clip.waveform is not None:
        peak = float(clip.waveform.abs().max())
        lines.append(f"{len(clip.waveform) / SAMPLING_RATE:.3f} s of audio, peak {peak:.3f}")
    for stage, text in sorted(sample.teacher_traces.items()):
        lines.append(f"\ntrace of teacher {stage}:\n{text}")
    if sample.trace is not None:
        lines.append(f"\ntrace:\n{sample.trace}")
    path = folder / f"{key}.txt"
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return [*written, path]


def _streams(clip: dict[str, Any]) -> str:
    visual = "image" if clip["is_image"] else "video"
    if clip["num_frames"] and clip["num_audio_samples"]:
        return f"{visual} and audio"
    return f"{visual} only" if clip["num_frames"] else "audio only"


def _shares(counts: Counter[Any], by_count: bool = True) -> str:
    total = sum(counts.values())
    items = counts.most_common(12) if by_count else list(counts.items())
    parts = [f"{name} {count} ({100 * count / total:.0f} %)" for name, count in items]
    rest = len(counts) - len(items)
    # Categories come from the data: brackets in them are not markup.
    return escape(", ".join(parts) + (f", and {rest} more" if rest else ""))
