"""A small question set in shards, and a server that plays all three models on it, deterministically.

Question i is about clip ``i // 2``; its gold option is ``i % 4``. The vision teacher is wrong where i is a multiple of
5, the audio teacher where it is a multiple of 7, and the merger breaks its format where i is a multiple of 11.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avrt.data.writer import ShardWriter
from avrt.sample import Clip, Sample
from avrt.traces.config import MERGE, StageConfig, TeacherConfig, TracesConfig
from tests.servers.scripted_server import Reply

OPTIONS = ("red fox", "grey owl", "brown bear", "white hare")
LETTERS = "ABCD"


def write_shards(folder: Path, count: int) -> Path:
    """Questions 0 to count - 1 with two small frames and a tenth of a second of audio."""
    generator = torch.Generator().manual_seed(1)
    with ShardWriter(folder, samples_per_shard=16, image_format="png") as writer:
        for index in range(count):
            clip = Clip(
                torch.randint(0, 256, (2, 3, 16, 24), generator=generator, dtype=torch.uint8),
                (0.0, 0.5),
                fps=2.0,
                waveform=torch.rand(1600, generator=generator) - 0.5,
                duration=1.0 + index % 2,
                width=1280 if index % 4 else 640,
                height=720,
            )
            writer.write(
                Sample(
                    id=f"q{index:03d}",
                    question=f"What is in clip number {index}?",
                    options=OPTIONS,
                    answer=index % 4,
                    question_type="Which" if index % 3 else "Come From",
                    modality="Both",
                    source=f"clip{index // 2}",
                    clip=clip,
                )
            )
    return folder


def vision_right(index: int) -> bool:
    return index % 5 != 0


def audio_right(index: int) -> bool:
    return index % 7 != 0


def merge_formatted(index: int) -> bool:
    return index % 11 != 0


def kept(index: int) -> bool:
    """Whether question `index` passes the filter."""
    return vision_right(index) and audio_right(index) and merge_formatted(index)


def answer(body: dict[str, Any], text: str, times: int) -> Reply:
    """All three models: the message's parts and the prompt show which one is called."""
    match = re.search(r"What is in clip number (\d+)\?", text)
    assert match is not None
    index = int(match[1])
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    right = index % 4
    if "image_url" in kinds:
        option = right if vision_right(index) else (right + 1) % 4
        return Reply(
            f"◁think▷I look at clip {index}.◁/think▷It shows fur.\nAnswer: ({LETTERS[option]}) {OPTIONS[option]}"
        )
    if "input_audio" in kinds or "audio_url" in kinds:
        option = right if audio_right(index) else (right + 2) % 4
        return Reply(f"Based on the calls in clip {index}, the best fit is: *({LETTERS[option]}) {OPTIONS[option]}*")
    think = f"<think>Heard and seen in clip {index}.</think>"
    tail = "" if merge_formatted(index) else " I hope this helps."
    return Reply(f"{think}\n<answer>{LETTERS[right]}</answer>{tail}")


def make_config(shards: Path, root: Path, url: str, **changes: Any) -> TracesConfig:
    """Settings for a quick run against one address."""

    settings: dict[str, Any] = {"val_share": 0.25, **changes}
    server = server_settings(url)
    teachers = {"vision": TeacherConfig(**server, inputs="frames"), "audio": TeacherConfig(**server, inputs="audio")}
    return TracesConfig(
        str(shards),
        str(root / "ledger"),
        str(root / "out"),
        teachers=settings.pop("teachers", teachers),
        merge=settings.pop("merge", StageConfig(**server)),
        **settings,
    )


def server_settings(url: str) -> dict[str, Any]:
    """Settings of a stage for a quick run against one address."""
    return {
        "base_urls": [url],
        "model": "m",
        "revision": "r1",
        "sampling": {"max_tokens": 64, "temperature": 0.0, "top_k": 5},
        "max_concurrency": 4,
        "request_timeout_seconds": 20,
        "backoff_seconds": 0.01,
        "server_wait_seconds": 20,
    }


def change_stage(config: TracesConfig, name: str, **changes: Any) -> TracesConfig:
    """The config with some settings of one stage changed."""
    changed = replace(config.stage(name), **changes)
    if name == MERGE:
        return replace(config, merge=changed)
    assert isinstance(changed, TeacherConfig)
    return replace(config, teachers={**config.teachers, name: changed})
