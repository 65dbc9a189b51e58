"""The settings of a judge's run, one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from avrt.config.dataclass_options import read_dataclass
from avrt.config.numbers import PositiveInt
from avrt.servers.config import ServerConfig, under_key
from avrt.traces.verdicts import MODES, TIE, Mode

Media = Literal["frames_and_audio", "video", "video_and_audio", "frames", "audio", "none"]
STREAMS: dict[Media, str] = {
    "frames_and_audio": "AV",
    "video": "V",
    "video_and_audio": "AV",
    "frames": "V",
    "audio": "A",
    "none": "",
}
"""Streams that a judge gets in each form of media; with `JudgeServerConfig.hears_video`, ``video`` has both."""


@dataclass
class ReaderConfig(ServerConfig):
    """The servers of a judge that replies with verdicts.

    Attributes:
        json_schema: send the form of the reply as ``response_format``, for servers that take it. Replies are checked
            in either case.
        max_replies: calls for one judgment, as long as replies are not valid verdicts.
    """

    json_schema: bool = True
    max_replies: PositiveInt = 3


@dataclass
class JudgeServerConfig(ReaderConfig):
    """The servers of a judge that sees and hears the clips.

    Attributes:
        media: how the judge gets the clip: ``frames_and_audio``: frames as images, and the audio; ``video``: one mp4
            file as ``video_url``; ``video_and_audio``: that, and the audio as a file of its own, as in the paper;
            ``frames``, ``audio``: one stream; ``none``: text only.
        hears_video: the server also gives the model the audio of a video file, as Gemini's does. vLLM and SGLang drop
            it without a word, and a judge that hears nothing would still say whether a trace is grounded in the audio.
        videos: folder of the original clips, which ``video`` then sends unchanged; null makes the mp4 file from the
            frames and the audio of the shards.
    """

    media: Media = "frames_and_audio"
    hears_video: bool = False
    videos: str | None = None

    @property
    def streams(self) -> str:
        """The streams that the judge gets of a clip with both: ``AV``, ``A``, ``V`` or nothing."""
        return "AV" if self.media == "video" and self.hears_video else STREAMS[self.media]

    def check(self) -> None:
        super().check()
        preset = self.known_preset()
        if preset is not None and set(self.streams) - set(preset.inputs):
            raise ValueError(f"media: preset {self.preset!r} does not take all of {self.media!r}")
        if self.videos is not None and not self.media.startswith("video"):
            raise ValueError(f"videos: is for media 'video' and 'video_and_audio', not {self.media!r}")
        if self.videos is not None and not Path(self.videos).is_dir():
            raise ValueError(f"videos: {self.videos} is not a folder")


@dataclass
class PromptFiles:
    """Text files with prompts of your own, by mode; see `avrt.judging.prompts` for their placeholders."""

    individual: str | None = None
    head_to_head: str | None = None
    source: str | None = None

    def check(self) -> None:
        """Refuse files that are not there."""
        for mode, path in vars(self).items():
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{mode}: {path} is not a file")


@dataclass
class JudgeConfig:
    """A whole run.

    Attributes:
        sets: one or two sets of traces: name to shards (a folder with a manifest, a tar file or a glob pattern). Two
            sets are compared on the samples that both have.
        ledger: folder in which every finished call is recorded.
        output: folder of ``verdicts.jsonl`` and ``judgments.json``.
        judge: the servers.
        prompt_files: prompts of your own.
        modes: kinds of questions; null for all that the sets allow: ``individual``, with two sets ``head_to_head``,
            with teachers' traces ``source``.
        split: judge samples of this split; null for all.
        max_samples: judge this many samples, drawn by `seed`; null for all.
        seed: seed of that choice.
        max_failed_share: stop when more than this share of the calls fail.
        allow_missing: write scores although calls are missing; otherwise that is an error.
    """

    sets: dict[str, str]
    ledger: str
    output: str
    judge: JudgeServerConfig
    prompt_files: PromptFiles = field(default_factory=PromptFiles)
    modes: list[Mode] | None = None
    split: str | None = None
    max_samples: PositiveInt | None = None
    seed: int = 0
    max_failed_share: float = 0.5
    allow_missing: bool = False

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is called.

        Raises:
            ValueError: names the key and how to fix it.
        """
        if not 1 <= len(self.sets) <= 2:
            raise ValueError(f"sets: give one or two sets of traces as name: shards, got {len(self.sets)}")
        if empty := [name for name in self.sets if not name.strip() or name == TIE]:
            raise ValueError(f"sets: {empty[0]!r} is not a name")
        if self.modes is not None and len(set(self.modes)) < len(self.modes):
            raise ValueError("modes: lists a mode twice")
        if self.modes is not None and not self.modes:
            raise ValueError(f"modes: give some of {', '.join(MODES)}, or null for all")
        if "head_to_head" in (self.modes or ()) and len(self.sets) < 2:
            raise ValueError("modes: head_to_head needs a second set of traces in `sets`")
        if self.modes is not None and "source" in self.modes and "individual" not in self.modes:
            raise ValueError("modes: source needs individual, which finds the traces with false claims")
        if not 0 < self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share: must be above 0 and at most 1, got {self.max_failed_share}")
        with under_key("judge"):
            self.judge.check()
        with under_key("prompt_files"):
            self.prompt_files.check()


def load_config(files: Sequence[str | Path], options: Sequence[str] = ()) -> JudgeConfig:
    """Read and check a config.

    Args:
        files: YAML files; each overrides the ones before it.
        options: words of the command line that override the files, such as ``--judge.max_concurrency=8``.

    Raises:
        UsageError: names the key and how to fix it; see `read_dataclass`.
        ValueError: a value that cannot work; see `JudgeConfig.check`.
    """
    config = read_dataclass(JudgeConfig, files, options, "cli_configs/judge.yaml")
    config.check()
    return config
