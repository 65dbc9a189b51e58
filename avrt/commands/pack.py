"""Pack clips and their questions into shards.

Reads the questions of AVQA, AVRT-20K, MUSIC-AVQA, OmniInstruct, AVQA-R1-6K, Video-R1 and HumanOmniV2, of ShareGPT-like
chats, and of any other table by --fields; decodes every clip once, and writes WebDataset shards with a manifest. Uses
all cores, resumes after an interruption, and lists the questions that it left out.

Questions with reasoning (AVRT-20K) become data for supervised fine-tuning: rows whose reasoning follows the format and
gives the right answer, in OUT/train and OUT/val. --reasoning drop packs all rows as plain questions into OUT.

Clips are files in a folder (--videos), or in WebDataset shards of another tool, such as video2dataset (--shards). There
the questions are in the samples' .json, or --annotations names the clips by the sample's key or a field of its .json.

    python -m avrt pack --annotations train_qa.json --videos avqa/videos --out shards/avqa_train
    python -m avrt pack --annotations AVRT-20K.parquet --videos avqa/videos --out shards/avrt20k
    python -m avrt pack --shards 'v2d/{00000..00031}.tar' --out shards/mine
    python -m avrt pack --annotations train_qa.json --shards 'v2d/*.tar' --out shards/mine
    python -m avrt pack --annotations mine.csv --fields question=prompt,options=a+b+c+d,answer=label,video=file \\
        --videos clips --out shards/mine
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from avrt.data.annotations import Annotations
    from avrt.data.clip_sources import ShardClips
    from avrt.data.clip_workers import ClipSettings
    from avrt.data.packing import PackReport
    from avrt.sample import LeftOut, Sample

VAL_SHARE = 0.0492
"""Share of clips for validation that gives the paper's 945 of 19,224 samples."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="questions: JSON, JSON lines, CSV, TSV, parquet, or a folder of the datasets library",
    )
    parser.add_argument("--videos", metavar="DIR", help="folder of the clips, images and audio files that rows name")
    parser.add_argument(
        "--shards",
        nargs="+",
        metavar="PATTERN",
        help="instead of --videos: shards of another tool with the clips; paths or URLs, with {000..031} or *",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the shards, or a URL such as s3://bucket/folder"
    )
    parser.add_argument("--split", default="train", help="split of these questions (default: train)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")

    rows = parser.add_argument_group("reading the questions")
    rows.add_argument(
        "--fields",
        metavar="FIELD=KEY,...",
        help="keys of rows in a form of your own: id, question, options, answer, video, audio, image, reasoning, "
        "question_type, modality; columns joined by + are one list; id= numbers the rows",
    )
    rows.add_argument(
        "--answer-base",
        type=lambda word: word if word == "letter" else int(word),
        choices=(0, 1, "letter"),
        metavar="N",
        help="number of the first option in answers (default: 0), or letter: answers are letters, even if options are",
    )
    rows.add_argument("--dataset-split", metavar="NAME", help="split to read of a folder that has several")
    rows.add_argument(
        "--max-bad-rows",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="stop if more than this share of the rows is faulty (default: 0.01); fewer are left out and listed",
    )
    rows.add_argument(
        "--reasoning",
        choices=("filter", "drop"),
        help="filter: keep rows whose reasoning can be taught (default for AVRT-20K and a mapped field reasoning); "
        "drop: all rows, as plain questions",
    )
    rows.add_argument(
        "--val-share",
        type=float,
        default=VAL_SHARE,
        metavar="SHARE",
        help="share of the clips in OUT/val, with reasoning (default: %(default)s, the paper's 945 of 19,224)",
    )
    rows.add_argument("--split-seed", type=int, default=0, metavar="N", help="seed of that choice (default: 0)")
    rows.add_argument("--tokenizer", metavar="DIR", help="counts tokens of the reasoning (default: counts words)")

    clips = parser.add_argument_group("reading the clips")
    clips.add_argument(
        "--frames", type=int, default=NUM_FRAMES, metavar="N", help="frames per clip (default: %(default)s)"
    )
    clips.add_argument(
        "--max-audio-seconds",
        type=float,
        default=MAX_AUDIO_SECONDS,
        metavar="S",
        help="seconds of audio kept (default: %(default)s)",
    )
    clips.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_FRAME_PIXELS,
        metavar="N",
        help="pixels per frame kept (default: %(default)s, which is 768 visual tokens)",
    )
    clips.add_argument(
        "--image-format", choices=("jpg", "png"), default="jpg", help="png keeps frames exactly (default: jpg)"
    )
    clips.add_argument("--jpeg-quality", type=int, default=95, metavar="Q", help="1 to 100 (default: 95)")
    clips.add_argument("--samples-per-shard", type=int, metavar="N", help="default: 256, less for small sets")
    clips.add_argument(
        "--allow-missing",
        action="append",
        choices=("video", "audio"),
        default=[],
        help="also keep clips without this stream (may be given twice); not needed where no row names one",
    )
    clips.add_argument(
        "--clip-timeout", type=float, default=120.0, metavar="S", help="seconds allowed for one clip (default: 120)"
    )
    clips.add_argument(
        "--max-failures",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="stop if more than this share of the questions has no usable clip (default: 0.5)",
    )


def run(args: argparse.Namespace) -> int:
    """Pack, then print a summary with the reasons of left-out questions."""
    from dataclasses import replace

    from rich.console import Console

    from avrt.data.packing import LEFT_OUT_NAME, PackOptions, pack
    from avrt.storage.locations import join, shown
    from avrt.storage.uploads import output_folder
    from avrt.traces.output import STATISTICS_NAME
    from avrt.traces.published import PublishedOptions, compare_with_paper, pack_traces
    from avrt.traces.statistics import print_statistics

    options = PackOptions(
        workers=args.workers,
        samples_per_shard=args.samples_per_shard,
        clip_timeout_seconds=args.clip_timeout,
        max_failures=args.max_failures,
    )
    published = PublishedOptions(args.val_share, args.split_seed, args.tokenizer)
    console = Console()

    def place(name: str) -> str:
        return shown(join(args.out, name))

    annotations, clips = _questions(args, console)
    rows = len(annotations.samples) + len(annotations.left_out)
    settings = _clip_settings(args, annotations.samples, clips)
    _print(console, f"{rows:,} rows in the form of {annotations.form}")
    if args.reasoning == "filter" or (args.reasoning is None and annotations.has_reasoning):
        _print(console, "keeping rows whose reasoning can be taught; --reasoning drop packs all as plain questions")
        statistics, reports = pack_traces(
            annotations.samples, annotations.left_out, clips, args.out, settings, options, published
        )
        for name, report in reports.items():
            _print(console, _summary(f"{report.manifest.samples:,} samples", report, place(name)))
        print_statistics(statistics, console, with_paper=True)
        _print(console, compare_with_paper(statistics))
        left_out = [entry for report in reports.values() for entry in report.left_out]
        lists = [place(f"{name}/{LEFT_OUT_NAME}") for name in reports]
    else:
        traces = sum(sample.trace is not None for sample in annotations.samples)
        if traces and args.reasoning is None:
            _print(console, f"{traces:,} rows have reasoning, which is not packed; --reasoning filter packs it")
        if STATISTICS_NAME in output_folder(args.out).names():
            raise ValueError(
                f"out: {shown(args.out)} holds questions with reasoning, in train and val; choose another folder"
            )
        # Reasoning that was not checked must not be a target of fine-tuning.
        samples = [replace(sample, trace=None) for sample in annotations.samples]
        report = pack(samples, clips, args.out, settings, options, left_out=annotations.left_out)
        _print(console, _summary(f"{report.manifest.samples:,} of {rows:,} questions", report, shown(args.out)))
        left_out, lists = list(report.left_out), [place(LEFT_OUT_NAME)]
    if left_out:
        _print_left_out(console, left_out, lists)
    return 0


def _questions(args: argparse.Namespace, console: Console) -> tuple[Annotations, str | ShardClips]:
    """The questions, and the folder or shards with their clips.

    Raises:
        ValueError: options that do not go together, or see `read_annotations`, `read_shards` and `match_questions`.
    """
    from dataclasses import replace
    from pathlib import Path

    from avrt.data.annotations import Annotations, ReadOptions, read_annotations
    from avrt.data.shard_questions import match_questions, read_shards
    from avrt.storage.locations import expand
    from avrt.storage.shard_cache import ShardCache

    if bool(args.videos) == bool(args.shards) or (args.videos and not args.annotations):
        raise ValueError("give --annotations and --videos, or --shards, or --annotations and --shards")
    if not args.annotations:
        for name in ("fields", "answer_base", "dataset_split"):
            if getattr(args, name) is not None:
                raise ValueError(f"{name}: is about a file of annotations; give --annotations too")
        found = read_shards(expand(args.shards), ShardCache(), split=args.split)
        has_reasoning = any(sample.trace for sample in found.samples)
        return Annotations("the shards' JSON members", has_reasoning, found.samples, found.left_out), found.clips
    how = ReadOptions(
        split=args.split,
        fields=args.fields,
        answer_base=args.answer_base,
        dataset_split=args.dataset_split,
        max_bad_rows=args.max_bad_rows,
        media_folder=Path(args.videos) if args.videos else None,
    )
    with console.status(f"reading {args.annotations}"):
        annotations = read_annotations(args.annotations, how)
    if args.videos:
        return annotations, args.videos
    found = match_questions(annotations.samples, expand(args.shards), ShardCache())
    _print(console, f"the shards' clips are found by {found.found_by}")
    left_out = (*annotations.left_out, *found.left_out)
    return replace(annotations, samples=found.samples, left_out=left_out), found.clips


def _clip_settings(args: argparse.Namespace, samples: Sequence[Sample], clips: str | ShardClips) -> ClipSettings:
    from avrt.data.clip_sources import ShardClips
    from avrt.data.clip_workers import ClipSettings
    from avrt.media.clip_files import is_image

    # A set of audio files has no video to miss, and one of images no audio.
    if isinstance(clips, ShardClips):
        names_video, names_audio = clips.has_frames, clips.has_audio
    else:
        names_video = any(sample.source != sample.audio_source for sample in samples)
        names_audio = any(sample.audio_source or not is_image(sample.source) for sample in samples)
    return ClipSettings(
        num_frames=args.frames,
        max_audio_seconds=args.max_audio_seconds,
        max_pixels=args.max_pixels,
        image_format=args.image_format,
        jpeg_quality=args.jpeg_quality,
        require_video="video" not in args.allow_missing and names_video,
        require_audio="audio" not in args.allow_missing and names_audio,
    )


def _summary(count: str, report: PackReport, folder: str) -> str:
    manifest = report.manifest
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    resumed = f", {report.resumed_shards} of them from an earlier run" if report.resumed_shards else ""
    return f"{count} in {len(manifest.shards)} shards ({size:.1f} MB){resumed}, in {report.seconds:.1f} s: {folder}"


def _print_left_out(console: Console, left_out: Sequence[LeftOut], lists: Sequence[str]) -> None:
    from collections import Counter

    from rich.markup import escape
    from rich.table import Table

    table = Table("reason", "questions", "clips", "for example", title="Left out")
    for reason, count in Counter(entry.reason for entry in left_out).most_common():
        entries = [entry for entry in left_out if entry.reason == reason]
        clips = len({entry.source for entry in entries})
        table.add_row(reason, str(count), str(clips), escape(f"{entries[0].source}: {entries[0].detail}"))
    console.print(table)
    _print(console, f"all of them: {', '.join(lists)}")


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
