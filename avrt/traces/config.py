"""The settings of a trace run, one YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from avrt.servers.config import Stage, StageConfig, check_stage, resolve_model

STAGES: tuple[Stage, ...] = get_args(Stage)

Variant = Literal["merged", "audio_only", "vision_only", "unfiltered", "answer_only", "format_only"]


@dataclass
class TracesConfig:
    """A whole run.

    Attributes:
        shards: input: a folder with a manifest, a tar file, a glob pattern, or a list of these.
        ledger: folder in which every finished call is recorded; share it between configs to share their calls.
        output: folder of the shards to write, with ``statistics.json``.
        vision, audio, merge: the three calling stages.
        split: make traces for this split of the input; null for all.
        variant: what the target text is, see `avrt.traces.variants`.
        val_share: share of clips held out as split ``val``; null keeps the samples' own splits.
        split_seed: of that choice.
        samples_per_shard: of the output.
        tokenizer: folder of a tokenizer that counts the statistics' tokens; null counts words and punctuation.
        max_teacher_chars: longer teacher replies reach the merger without their thinking, or cut.
        max_failed_share: stop a stage when more than this share of its calls fail, so that a misconfigured server is
            noticed after a hundred calls and not after fifty thousand.
        allow_missing: write shards although calls are missing; else that is an error.
    """

    shards: str | list[str]
    ledger: str
    output: str
    vision: StageConfig
    audio: StageConfig
    merge: StageConfig
    split: str | None = "train"
    variant: Variant = "merged"
    val_share: float | None = 0.05
    split_seed: int = 0
    samples_per_shard: int = 256
    tokenizer: str | None = None
    max_teacher_chars: int = 16_000
    max_failed_share: float = 0.5
    allow_missing: bool = False

    def stage(self, name: Stage) -> StageConfig:
        """The settings of a stage by its name."""
        config: StageConfig = getattr(self, name)
        return config


def check_config(config: TracesConfig) -> None:
    """Find what cannot work before anything is called.

    Raises:
        ValueError: naming the key and the mend; never repeating what might be a secret.
    """
    for stage in STAGES:
        check_stage(stage, config.stage(stage))
        resolve_model(stage, config.stage(stage))
    if config.val_share is not None and not 0 <= config.val_share < 1:
        raise ValueError(f"val_share: must be 0 or more and below 1, or null; is {config.val_share}")
    if config.samples_per_shard < 1:
        raise ValueError(f"samples_per_shard: must be 1 or more, is {config.samples_per_shard}")
    if not 0 < config.max_failed_share <= 1:
        raise ValueError(f"max_failed_share: must be above 0 and at most 1, is {config.max_failed_share}")
    if config.max_teacher_chars < 200:
        raise ValueError(f"max_teacher_chars: must be 200 or more, is {config.max_teacher_chars}")
