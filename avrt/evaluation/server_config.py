"""The settings of an evaluation of a model behind a server, one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avrt.config.dataclass_options import read_dataclass
from avrt.evaluation.question_sets import MediaConfig, QuestionsConfig
from avrt.media.masking import Modalities
from avrt.servers.config import StageConfig, check_stage
from avrt.text.answers import Profile
from avrt.text.prompts import AnswerFormat, PromptTemplate

SERVER = "server"
"""Key of the server's settings."""


@dataclass
class ServerRunConfig:
    """An evaluation of a model behind OpenAI-compatible servers.

    Attributes:
        run: the run's folder.
        server: addresses, model and sampling, as in a trace run; media always travel inside the request.
        name: the run's name in tables; null takes the folder's.
        questions: which questions.
        media: how much of each clip is sent.
        inputs: streams that the model takes at all: ``AV``, ``A`` or ``V``. The other one is left out of the request,
            unlike a masked one, which is sent silent or black.
        answer_format: ``letter``, or ``tags`` for reasoning and answer in tags.
        profile: how replies are read; ``robust`` finds the answer in other models' forms too.
        template: wording of the prompt; its system message is not sent.
        jpeg_quality: of the frames, 1 to 100.
        max_failed_share: stop when more than this share of the calls fail.
        harness: also write lm-evaluation-harness's files, into ``<run>/harness``.
    """

    run: str
    server: StageConfig
    name: str | None = None
    questions: QuestionsConfig = field(default_factory=QuestionsConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    inputs: Modalities = "AV"
    answer_format: AnswerFormat = "letter"
    profile: Profile = "robust"
    template: PromptTemplate = field(default_factory=PromptTemplate)
    jpeg_quality: int = 95
    max_failed_share: float = 0.5
    harness: bool = True


def load_server_config(files: Sequence[str | Path], options: Sequence[str] = ()) -> ServerRunConfig:
    """Read and check a config.

    Args:
        files: YAML files; each one overrides those before it.
        options: words of the command line that override the files, such as ``--questions.benchmarks=mmau``.

    Raises:
        UsageError: naming the key and the mend; see `read_dataclass`.
        ValueError: a value that cannot work.
    """
    config = read_dataclass(ServerRunConfig, files, options, "cli_configs/eval_server.yaml")
    check_stage(SERVER, config.server)
    for key, unused in (("preset", None), ("prompt_file", None), ("transport", "data"), ("media_dir", None)):
        if getattr(config.server, key) != unused:
            raise ValueError(f"{SERVER}.{key}: belongs to trace runs; leave it out")
    if not 1 <= config.jpeg_quality <= 100:
        raise ValueError(f"jpeg_quality: must be 1 to 100, is {config.jpeg_quality}")
    if not 0 < config.max_failed_share <= 1:
        raise ValueError(f"max_failed_share: must be above 0 and at most 1, is {config.max_failed_share}")
    return config
