"""Size of the demo, and the files that determine its data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from avrt.demo.stages import config_file

SOURCES = (
    "demo/clips.py",
    "demo/message_media.py",
    "demo/questions.py",
    "demo/reading.py",
    "demo/servers.py",
    "demo/stages.py",
    "demo/student.py",
    "demo/teachers.py",
    "demo/tokenizer.py",
    "model/tiny.py",
)
PRESETS = ("traces_demo.yaml", "sft_tiny.yaml")
"""Files under ``avrt/`` and ``cli_configs/`` that determine the demo's data."""


@dataclass(frozen=True)
class DemoSettings:
    """Size and randomness of a demo.

    Attributes:
        train_clips, val_clips, questions_per_clip: see `avrt.demo.build.build_demo_clips`.
        reading_steps: see `avrt.demo.reading.teach_reading`; 0 leaves the base student random.
        sft_steps, grpo_steps: most optimizer steps of each stage; None takes the preset's.
        seed: for clips, questions, the student's random weights and its training.
    """

    train_clips: int = 768
    val_clips: int = 128
    questions_per_clip: int = 3
    reading_steps: int = 500
    sft_steps: int | None = None
    grpo_steps: int | None = None
    seed: int = 0

    def clip_settings(self) -> dict[str, int]:
        """Arguments of `avrt.demo.build.build_demo_clips`."""
        names = ("train_clips", "val_clips", "questions_per_clip", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def version(self) -> str:
        """Short hash of everything that determines the data: these settings, the code and the presets."""
        package = Path(__file__).resolve().parents[1]
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for path in (*(package / name for name in SOURCES), *map(config_file, PRESETS)):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


def demo_settings(*, seed: int, quick: bool) -> DemoSettings:
    """Settings of ``demo``, or of ``demo --quick``: every stage in about a minute, too little to learn the task."""
    if not quick:
        return DemoSettings(seed=seed)
    return DemoSettings(train_clips=96, val_clips=16, reading_steps=80, sft_steps=40, grpo_steps=10, seed=seed)
