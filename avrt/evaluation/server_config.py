"""The settings of an evaluation of a model behind a server, one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avrt.config.dataclass_options import read_dataclass
from avrt.evaluation.media_config import MediaConfig
from avrt.evaluation.question_sets import QuestionsConfig
from avrt.media.masking import Modalities
from avrt.servers.config import ServerConfig, under_key
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat, PromptTemplate

SERVER = "server"
"""Key of the server's settings."""


@dataclass
class ServerRunConfig:
    """An evaluation of a model behind OpenAI-compatible servers.

    Attributes:
        output_dir: folder of the run.
        server: addresses, model and sampling, or a preset.
        name: the run's name in tables; null uses the folder's name.
        questions: the questions.
        media: how much of each clip is sent.
        inputs: streams that the model accepts: ``AV``, ``A`` or ``V``; null for those of the preset, else ``AV``. The
            other one is left out of the request, unlike a masked one, which is sent silent or black.
        answer_format: ``letter``, or ``tags`` for reasoning and answer in tags.
        profile: parser profile; ``robust`` also finds the answer in other models' formats.
        template: wording of the prompt; its system message is sent to a student (preset ``avrt-student``) only.
        jpeg_quality: JPEG quality of the frames, 1 to 100; a student gets them without loss.
        repeats: replies to ask for per question, at `server.sampling.temperature`: mean, pass@k and majority vote.
        max_failed_share: stop when more than this share of the calls fail.
        harness: also write lm-evaluation-harness's files, into ``<output_dir>/harness``.
    """

    output_dir: str
    server: ServerConfig
    name: str | None = None
    questions: QuestionsConfig = field(default_factory=QuestionsConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    inputs: Modalities | None = None
    answer_format: AnswerFormat = "letter"
    profile: Profile = "robust"
    template: PromptTemplate = field(default_factory=PromptTemplate)
    jpeg_quality: int = 95
    repeats: int = 1
    max_failed_share: float = 0.5
    harness: bool = True

    @property
    def asks_student(self) -> bool:
        """Whether the server has a student of this project, which gets the prompt of its training."""
        preset = self.server.known_preset()
        return preset is not None and preset.is_student

    @property
    def streams(self) -> str:
        """The streams that are sent."""
        preset = self.server.known_preset()
        return self.inputs or ("AV" if preset is None else preset.inputs)


def load_server_config(files: Sequence[str | Path], options: Sequence[str] = ()) -> ServerRunConfig:
    """Read and check a config.

    Args:
        files: YAML files; each overrides the ones before it.
        options: words of the command line that override the files, such as ``--questions.benchmarks=mmau``.

    Raises:
        UsageError: names the key and how to fix it; see `read_dataclass`.
        ValueError: a value that cannot work.
    """
    config = read_dataclass(ServerRunConfig, files, options, "cli_configs/eval_server.yaml")
    with under_key(SERVER):
        config.server.check()
        preset = config.server.known_preset()
    if preset is not None and not preset.inputs:
        raise ValueError(
            f"{SERVER}.preset: {config.server.preset!r} takes text only, so it cannot be asked about clips"
        )
    if preset is not None and (unknown := set(config.streams) - set(preset.inputs)):
        names = "images" if "V" in unknown else "audio"
        raise ValueError(f"inputs: the preset {config.server.preset!r} takes no {names}; leave `inputs` out")
    if not 1 <= config.jpeg_quality <= 100:
        raise ValueError(f"jpeg_quality: must be 1 to 100, got {config.jpeg_quality}")
    _check_repeats(config)
    if not 0 < config.max_failed_share <= 1:
        raise ValueError(f"max_failed_share: must be above 0 and at most 1, got {config.max_failed_share}")
    return config


def _check_repeats(config: ServerRunConfig) -> None:
    if config.repeats < 1:
        raise ValueError(f"repeats: must be 1 or more, got {config.repeats}")
    if config.repeats > 1:
        sampling = config.server.resolve_model().sampling
        if sampling.get("temperature") == 0:
            raise ValueError(
                f"repeats: {config.repeats} replies would be equal at temperature 0; set server.sampling.temperature"
            )
        if sampling.get("seed") is not None:
            raise ValueError(
                f"repeats: {config.repeats} replies would be equal with one seed; remove server.sampling.seed"
            )
