"""Small evaluation runs on disk, with chosen replies to questions like the demo's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avrt.evaluation.records.log import RecordWriter
from avrt.evaluation.records.record import Record
from avrt.evaluation.records.run_info import RunInfo


def write_evaluation(folder: Path, run: str, replies: list[str], modalities: str, gold: str) -> None:
    """Write the run `folder`: two questions about each clip; an empty reply is one that failed."""
    info = RunInfo(
        run=run, benchmark="demo", model="tiny", items=len(replies), dataset_fingerprint="0" * 64, avrt_version="0"
    )
    replace(info, modalities=modalities).write(folder / "demo")  # type: ignore[arg-type]
    with RecordWriter(folder / "demo") as writer:
        for index, text in enumerate(replies):
            writer.append(
                Record(
                    id=f"item-{index}",
                    benchmark="demo",
                    index=index,
                    question="What is seen and heard?",
                    options=("red hum", "red bell", "blue hum", "blue bell"),
                    gold=gold,
                    media={"clip": f"clip-{index // 2}"},
                    text=text,
                    failure=None if text else "server_error",
                )
            )
