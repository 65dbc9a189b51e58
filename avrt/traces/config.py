"""The settings of a trace run, one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from avrt.config.dataclass_options import read_dataclass
from avrt.config.numbers import PositiveInt
from avrt.servers.config import ServerConfig, under_key
from avrt.servers.presets import PRESETS

Stage = Literal["vision", "audio", "merge"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STREAMS: Mapping[Stage, str] = {"vision": "V", "audio": "A", "merge": ""}
"""The stream of the clip that a stage sends."""

Variant = Literal["merged", "audio_only", "vision_only", "unfiltered", "answer_only", "format_only"]


@dataclass
class StageConfig(ServerConfig):
    """The servers of one stage, and its prompt.

    Attributes:
        prompt_file: text file with a prompt of your own; see `avrt.traces.prompts` for its placeholders.
        transport: ``data`` sends media inside the request; ``file`` sends ``file://`` addresses of copies in
            `media_dir`, for vLLM servers that share the disk (``--allowed-local-media-path``).
        media_dir: folder of these copies.
    """

    prompt_file: str | None = None
    transport: Literal["data", "file"] = "data"
    media_dir: str | None = None

    def check(self) -> None:
        super().check()
        if self.transport == "file" and not self.media_dir:
            raise ValueError("media_dir: give a folder that the servers see, for transport 'file'")
        if self.prompt_file is not None and not Path(self.prompt_file).is_file():
            raise ValueError(f"prompt_file: {self.prompt_file} is not a file")


@dataclass
class TracesConfig:
    """A whole run.

    Attributes:
        shards: input: a folder with a manifest, a tar file, a glob pattern, or a list of these.
        ledger: folder in which every finished call is recorded; configs with the same ledger share their calls.
        output: folder of the shards to write, with ``statistics.json``; a path, or a URL such as ``s3://bucket/traces``.
        vision, audio, merge: the three stages that call servers.
        split: make traces for this split of the input; null for all.
        variant: the kind of target text, see `avrt.traces.sample_filter`.
        val_share: share of clips held out as split ``val``; null keeps the samples' own splits.
        split_seed: seed of that choice.
        samples_per_shard: samples per output shard.
        tokenizer: folder of a tokenizer that counts the statistics' tokens; null counts words and punctuation.
        max_teacher_chars: longer teacher replies reach the merger without their thinking, or cut.
        max_failed_share: stop a stage when more than this share of its calls fail, so that a misconfigured server is
            noticed after a hundred calls and not after fifty thousand.
        allow_missing: write shards although calls are missing; otherwise that is an error.
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
    samples_per_shard: PositiveInt = 256
    tokenizer: str | None = None
    max_teacher_chars: int = 16_000
    max_failed_share: float = 0.5
    allow_missing: bool = False

    def stage(self, name: Stage) -> StageConfig:
        """The settings of a stage by its name."""
        config: StageConfig = getattr(self, name)
        return config

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is called.

        Raises:
            ValueError: names the key and how to fix it; never repeats a value that may be a secret.
        """
        for name in STAGES:
            config = self.stage(name)
            with under_key(name):
                config.check()
                preset = config.known_preset()
                if preset is not None and (stream := STREAMS[name]) not in preset.inputs:
                    raise ValueError(
                        f"preset: {config.preset!r} takes no {'images' if stream == 'V' else 'audio'}, which the stage "
                        f"{name} sends; choose {' or '.join(n for n, p in PRESETS.items() if stream in p.inputs)}"
                    )
        if self.val_share is not None and not 0 <= self.val_share < 1:
            raise ValueError(f"val_share: must be 0 or more and below 1, or null; got {self.val_share}")
        if not 0 < self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share: must be above 0 and at most 1, got {self.max_failed_share}")
        if self.max_teacher_chars < 200:
            raise ValueError(f"max_teacher_chars: must be 200 or more, got {self.max_teacher_chars}")


def load_config(files: Sequence[str | Path], options: Sequence[str] = ()) -> TracesConfig:
    """Read and check a config.

    Args:
        files: YAML files; each overrides the ones before it.
        options: words of the command line that override the files, such as ``--merge.max_concurrency=8``.

    Raises:
        UsageError: names the key and how to fix it; see `read_dataclass`.
        ValueError: a value that cannot work; see `TracesConfig.check`.
    """
    config = read_dataclass(TracesConfig, files, options, "cli_configs/traces_avqa.yaml")
    config.check()
    return config
