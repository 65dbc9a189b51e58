"""Writes the demo's data set to a folder: rendered clips and AVQA-format annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from avrt.demo.clips import RENDERER_VERSION, ClipContent, render_clip
from avrt.demo.questions import DemoQuestion, plan_clips, plan_questions
from avrt.files.atomic import atomic_file, write_atomic


@dataclass(frozen=True)
class DemoFiles:
    """Files that `build_demo_clips` writes."""

    videos: Path
    train_annotations: Path
    val_annotations: Path


def build_demo_clips(
    out_dir: str | Path,
    *,
    train_clips: int,
    val_clips: int,
    questions_per_clip: int,
    seed: int = 0,
    workers: int | None = None,
) -> DemoFiles:
    """Render the demo's clips and write its annotations.

    `out_dir` receives ``videos/<name>.mp4``, ``train_qa.json`` and ``val_qa.json`` in AVQA's schema, and
    ``clips.json``, the settings that the clips were made with. A file gets its final name only when it is complete, so
    a second call renders only the missing clips. One process at a time may build a folder. A folder may grow: a larger
    set with the same seed contains the clips of a smaller one.

    Args:
        train_clips, val_clips: number of clips, each a multiple of `avrt.demo.questions.BLOCK_SIZE`.
        questions_per_clip: 1 to `avrt.demo.questions.MAX_QUESTIONS_PER_CLIP`.
        seed: for everything random, 0 or more.
        workers: encoder threads; None takes one per core.

    Raises:
        ValueError: a number is out of range, or `out_dir` holds clips made with other settings.
        OSError: a file cannot be written.
    """
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or more; got {seed}")
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be 1 or more; got {workers}")
    out_dir = Path(out_dir)
    splits = {
        split: plan_questions(plan_clips(split, n_clips, seed), questions_per_clip)
        for split, n_clips in (("train", train_clips), ("val", val_clips))
    }
    questions = [question for split in splits.values() for question in split]
    files = demo_files(out_dir)
    files.videos.mkdir(parents=True, exist_ok=True)
    _claim_folder(out_dir, files.videos, {"renderer_version": RENDERER_VERSION, "seed": seed})
    _render_missing({question.clip for question in questions}, files.videos, workers)
    _write_annotations(files.train_annotations, splits["train"])
    _write_annotations(files.val_annotations, splits["val"])
    return files


def demo_files(out_dir: Path) -> DemoFiles:
    """Paths of the files in `out_dir`."""
    return DemoFiles(out_dir / "videos", out_dir / "train_qa.json", out_dir / "val_qa.json")


def _claim_folder(out_dir: Path, videos: Path, settings: dict[str, Any]) -> None:
    """Write down the settings of the clips in `out_dir`; refuse a folder whose clips have others."""
    record = out_dir / "clips.json"
    if record.exists():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{record} is not JSON ({error}); delete {out_dir} or choose another folder") from error
        if found != settings:
            raise ValueError(
                f"{out_dir} holds clips made with {found}, not {settings}; delete it or choose another folder"
            )
    elif next(videos.glob("*.mp4"), None) is not None:
        raise ValueError(f"{videos} holds clips of unknown origin (no {record}); delete it or choose another folder")
    else:
        write_atomic(record, (json.dumps(settings) + "\n").encode())


def _render_missing(clips: Iterable[ClipContent], videos: Path, workers: int | None) -> None:
    """Render the clips that have no file yet. Threads suffice: the encoders release Python's global lock."""
    paths = {videos / f"{clip.name}.mp4": clip for clip in sorted(clips, key=lambda clip: clip.name)}
    missing = {path: clip for path, clip in paths.items() if not path.exists()}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(workers or os.cpu_count()) as executor,
    ):
        task = progress.add_task("Rendering clips", total=len(paths), completed=len(paths) - len(missing))
        futures = [executor.submit(_render, clip, path) for path, clip in missing.items()]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        finally:
            executor.shutdown(cancel_futures=True)


def _render(clip: ClipContent, path: Path) -> None:
    with atomic_file(path) as file:
        render_clip(clip, file)


def _write_annotations(path: Path, questions: Sequence[DemoQuestion]) -> None:
    records = [question.annotation() for question in questions]
    write_atomic(path, (json.dumps(records, indent=1) + "\n").encode())
