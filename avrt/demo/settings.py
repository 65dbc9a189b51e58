"""Size of the demo, and the files that determine its data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from avrt.demo.stages import config_file

SOURCES = (
    "demo/clips.py",
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
        seed: for clips, questions, the student's random weights and its training.
    """

    train_clips: int = 768
    val_clips: int = 128
    questions_per_clip: int = 3
    seed: int = 0

    @property
    def version(self) -> str:
        """Short hash of everything that determines the data: these settings, the code and the presets."""
        package = Path(__file__).resolve().parents[1]
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for path in (*(package / name for name in SOURCES), *map(config_file, PRESETS)):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]
