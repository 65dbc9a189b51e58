"""Pack clips and their questions into shards.

Reads AVQA's annotation files (and AVRT-20K's), decodes every clip once, and writes WebDataset shards with a manifest.
Uses all cores, resumes after an interruption, and lists the questions that it left out.
"""

from __future__ import annotations

import argparse

from avrt.media.defaults import MAX_AUDIO_SECONDS, MAX_FRAME_PIXELS, NUM_FRAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--annotations", required=True, metavar="A.json", help="questions: a JSON array or JSON lines")
    parser.add_argument(
        "--videos", required=True, metavar="DIR", help="folder of the clips: video_name, or .mp4, .mkv ..."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the shards; made if absent")
    parser.add_argument("--split", default="train", help="split of these questions (default: train)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--frames", type=int, default=NUM_FRAMES, metavar="N", help="frames per clip (default: %(default)s)"
    )
    parser.add_argument(
        "--max-audio-seconds",
        type=float,
        default=MAX_AUDIO_SECONDS,
        metavar="S",
        help="seconds of audio kept (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_FRAME_PIXELS,
        metavar="N",
        help="pixels per frame kept (default: %(default)s, which is 768 visual tokens)",
    )
    parser.add_argument(
        "--image-format", choices=("jpg", "png"), default="jpg", help="png keeps frames exactly (default: jpg)"
    )
    parser.add_argument("--jpeg-quality", type=int, default=95, metavar="Q", help="1 to 100 (default: 95)")
    parser.add_argument("--samples-per-shard", type=int, metavar="N", help="default: 256, less for small sets")
    parser.add_argument(
        "--allow-missing",
        action="append",
        choices=("video", "audio"),
        default=[],
        help="also keep clips without this stream (may be given twice)",
    )
    parser.add_argument(
        "--clip-timeout", type=float, default=120.0, metavar="S", help="seconds allowed for one clip (default: 120)"
    )
    parser.add_argument(
        "--max-failures",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="stop if more than this share of the questions has no usable clip (default: 0.5)",
    )


def run(args: argparse.Namespace) -> int:
    """Pack, then print a summary with the reasons of left-out questions."""
    from collections import Counter
    from pathlib import Path

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from avrt.data.annotations import ReadOptions, read_annotations
    from avrt.data.clip_workers import ClipSettings
    from avrt.data.packing import LEFT_OUT_NAME, PackOptions, pack

    samples = read_annotations(args.annotations, ReadOptions(split=args.split)).samples
    settings = ClipSettings(
        num_frames=args.frames,
        max_audio_seconds=args.max_audio_seconds,
        max_pixels=args.max_pixels,
        image_format=args.image_format,
        jpeg_quality=args.jpeg_quality,
        require_video="video" not in args.allow_missing,
        require_audio="audio" not in args.allow_missing,
    )
    options = PackOptions(
        workers=args.workers,
        samples_per_shard=args.samples_per_shard,
        clip_timeout_seconds=args.clip_timeout,
        max_failures=args.max_failures,
    )
    report = pack(samples, args.videos, args.out, settings, options)
    console = Console()
    manifest = report.manifest
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    resumed = f", {report.resumed_shards} of them from an earlier run" if report.resumed_shards else ""
    console.print(
        f"{manifest.samples} of {len(samples)} questions in {len(manifest.shards)} shards ({size:.1f} MB){resumed}, "
        f"in {report.seconds:.1f} s: {args.out}",
        highlight=False,
    )
    if not report.left_out:
        return 0
    table = Table("reason", "questions", "clips", "for example", title="Left out")
    for reason, count in Counter(entry.reason for entry in report.left_out).most_common():
        entries = [entry for entry in report.left_out if entry.reason == reason]
        clips = len({entry.source for entry in entries})
        table.add_row(reason, str(count), str(clips), escape(f"{entries[0].source}: {entries[0].detail}"))
    console.print(table)
    console.print(f"all of them: {Path(args.out) / LEFT_OUT_NAME}", highlight=False)
    return 0
