"""The files that pages call the reader's own or somebody else's, written by the programs that others use for them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow
import pyarrow.parquet
import webdataset

from avrt.demo.build import build_demo_clips
from tests.documentation.sandbox import Sandbox
from tests.lightning_modules.callbacks.tiny_runs import write_shards

BUCKET = "my-bucket"


def add_own_data(sandbox: Sandbox) -> None:
    """Add a question set, also as a table and as shards of another tool; packed shards; and a few clips of the demo."""
    folder = sandbox.folder
    train, _ = write_shards(folder / "more")
    train.rename(folder / "shards" / "mine")
    files = build_demo_clips(folder / "clips", train_clips=64, val_clips=64, questions_per_clip=1)
    (folder / "mine").mkdir()
    (folder / "mine" / "videos").symlink_to(files.videos)
    for source, place in ((files.val_annotations, "mine/questions.json"), (files.train_annotations, "demo.json")):
        (folder / place).write_text(json.dumps(json.loads(source.read_text(encoding="utf-8"))[:8]), encoding="utf-8")
    rows = json.loads((folder / "mine" / "questions.json").read_text(encoding="utf-8"))
    write_table(folder / "mine" / "table.csv", rows)
    write_clip_shards(folder / "v2d", rows, files.videos)
    words = ["--annotations", "demo.json", "--videos", str(files.videos), "--split", "train"]
    sandbox.run(["pack", *words, "--out", "shards/demo"])


def write_table(file: Path, rows: list[dict[str, Any]]) -> None:
    """AVQA's rows as a spreadsheet would save them."""
    with open(file, "w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["number", "prompt", *"abcd", "label", "file"])
        for row in rows:
            label = "ABCD"[row["answer"]]
            writer.writerow([row["id"], row["question_text"], *row["multi_choice"], label, row["video_name"]])


def write_clip_shards(folder: Path, rows: list[dict[str, Any]], videos: Path) -> None:
    """Two shards with the clips themselves, keys and numbers as video2dataset has them."""
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=len(rows) // 2, verbose=0) as writer:
        for number, row in enumerate(rows):
            clip = next(videos.glob(f"{row['video_name']}.*"))
            writer.write({"__key__": f"{number:08d}", clip.suffix[1:]: clip.read_bytes(), "json": row})


def write_published_traces(file: Path, rows: list[dict[str, Any]]) -> None:
    """AVQA's rows with reasoning, in the columns of the published AVRT-20K; every fifth one is wrong."""
    names = ("id", "video_name", "video_id", "question_relation", "question_type")
    table = []
    for number, row in enumerate(rows):
        choices = [str(choice) for choice in row["multi_choice"]]
        letter = "ABCD"[(row["answer"] + (number % 5 == 4)) % 4]
        table.append(
            {name: row[name] for name in names}
            | {"question": row["question_text"], "choices": choices, "answer": choices[row["answer"]]}
            | {"av_reasoning": f"<think>The frames and the audio agree.</think>\n<answer>{letter}</answer>"}
        )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), file)


@contextmanager
def object_storage() -> Iterator[None]:
    """An S3 server with an empty bucket, in the environment of every program that is started meanwhile."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    own = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with mock.patch.dict(os.environ, own):
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield
    finally:
        server.stop()
