"""The settings of a trace run, one YAML file."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from avrt.config.dataclass_options import read_dataclass
from avrt.config.errors import UsageError
from avrt.config.numbers import PositiveInt
from avrt.config.scan import scan_file, scan_values
from avrt.servers.config import ServerConfig, under_key
from avrt.servers.presets import PRESETS
from avrt.text.prompts import PromptTemplate, format_target

MERGE = "merge"
"""The merger's stage. The stages of teachers have the teachers' names."""

Inputs = Literal["frames", "audio", "both", "transcript", "none"]
STREAMS: Mapping[str, str] = {"frames": "V", "audio": "A", "both": "AV", "transcript": "", "none": ""}
"""The streams of the clip that a teacher is sent, by its `inputs`."""

VARIANTS = ("merged", "unfiltered", "answer_only", "format_only")
"""Kinds of target text besides ``NAME_only``, one teacher alone."""
ALONE = "_only"

Rule = Literal["all_right", "any_right", "majority", "none"]

_TEACHERS = "teachers"
_OLD_TEACHERS = {"vision": "frames", "audio": "audio"}
"""Teachers that earlier versions had as keys of their own, and what they are sent."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = frozenset({MERGE, "write", "both", "all", "several", "answer", "format"})


def check_teacher_name(name: str) -> None:
    """Refuse a teacher's name that cannot be the name of a stage.

    Raises:
        ValueError: says which names can.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in _RESERVED:
        raise ValueError(
            f"teachers: {name[:40]!r} cannot be a teacher's name; use lower-case letters, digits and underscores, and "
            f"none of {', '.join(sorted(_RESERVED))}"
        )


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
class TeacherConfig(StageConfig):
    """The servers of one teacher, and what it is sent.

    Attributes:
        inputs: ``frames``, ``audio`` or ``both`` of the clip; ``transcript`` for the text of the transcribing teacher,
            which is listed before; ``none`` for the question alone.
        transcribes: the model writes down the speech (``POST /v1/audio/transcriptions``) and answers no question, so
            it has no vote in the filter; null for what the preset says.
        prompt: name of a prompt of the project, see `avrt.traces.prompts.PROMPTS`; null for that of `inputs`.
        samples: replies to each question. More than one shows how sure the teacher is; the first call is the one that
            is made with 1, and each further one has a seed of its own.
        template: wording in which a student of this project was trained: the teacher gets its prompt in that form, with
            the system message, and the frames as one video. Null for other models; for preset ``avrt-student`` it is
            the wording of the SFT and GRPO presets.
    """

    MAY_TRANSCRIBE: ClassVar[bool] = True

    inputs: Inputs = field(kw_only=True)
    transcribes: bool | None = None
    prompt: str | None = None
    samples: PositiveInt = 1
    template: PromptTemplate | None = None

    @property
    def student_template(self) -> PromptTemplate | None:
        """The wording of a student's prompts; None if the teacher is another model."""
        preset = self.known_preset()
        return PromptTemplate() if self.template is None and preset is not None and preset.is_student else self.template

    @property
    def streams(self) -> str:
        """Streams of the clip that are sent: ``AV``, ``A``, ``V``, or nothing."""
        return STREAMS[self.inputs]

    @property
    def is_transcriber(self) -> bool:
        """Whether the model writes down speech and answers no question."""
        return super().is_transcriber if self.transcribes is None else self.transcribes

    def check(self) -> None:
        super().check()
        if self.inputs not in STREAMS:
            raise ValueError(f"inputs: {self.inputs!r} is none of {', '.join(STREAMS)}")
        if self.is_transcriber:
            self._check_transcriber()
        preset = self.known_preset()
        for stream, name in (("V", "images"), ("A", "audio")):
            if preset is not None and stream in self.streams and stream not in preset.inputs:
                able = [name for name, known in PRESETS.items() if set(self.streams) <= set(known.inputs)]
                raise ValueError(
                    f"preset: {self.preset!r} takes no {name}, which inputs {self.inputs!r} send; choose "
                    f"{' or '.join(able)}"
                )
        if self.student_template is not None:
            self._check_student()
        if self.samples > 1 and self.resolve_model().sampling.get("temperature") == 0:
            raise ValueError(
                f"samples: {self.samples} replies at temperature 0 would all be the same; set sampling.temperature"
            )
        if self.samples > 1 and not isinstance(self.resolve_model().sampling.get("seed", 0), int):
            raise ValueError(
                "sampling.seed: must be a whole number where `samples` is above 1: each has one of its own"
            )

    def _check_transcriber(self) -> None:
        needed = {"inputs": "audio", "transport": "data", "samples": 1, "prompt": None, "prompt_file": None}
        for key, value in needed.items():
            if getattr(self, key) != value:
                raise ValueError(f"{key}: must be {'null' if value is None else value} for a teacher that transcribes")
        form = self.resolve_model().sampling.get("response_format", "json")
        if form not in ("json", "verbose_json"):
            raise ValueError(f"sampling.response_format: must be json or verbose_json, got {form!r}")

    def _check_student(self) -> None:
        if self.prompt is not None or self.prompt_file is not None:
            raise ValueError(
                "template: a student's prompt has the wording of its training; remove prompt and prompt_file"
            )
        if self.transport == "file" and "V" in self.streams:
            raise ValueError(
                "transport: 'file' cannot send frames as one video, as a student needs them; set it to 'data'"
            )


@dataclass
class TracesConfig:
    """A whole run.

    Attributes:
        shards: input: a folder with a manifest, a tar file, a glob pattern, or a list of these.
        ledger: folder in which every finished call is recorded; configs with the same ledger share their calls.
        output: folder of the shards to write, with ``statistics.json``; a path, or a URL such as ``s3://bucket/traces``.
        teachers: the teachers by name, in the order in which the merger reads their replies. The name is that of the
            teacher's stage, and part of the key of its calls.
        merge: the merger; null for none, where the target is one teacher's reasoning.
        wording_file: YAML file with the wording of the merger's prompt, see ``avrt/traces/data/merger_wording.yaml``;
            null for the project's own.
        split: make traces for this split of the input; null for all.
        variant: the kind of target text, see `avrt.traces.sample_filter`.
        fillers: texts without content for the variant ``format_only``, in the language and length of your traces; each
            sample gets one. Null for numbered steps in English.
        filter: how many teachers must be right: ``all_right`` (the paper's), ``any_right``, ``majority``, ``none``.
        min_right_share: share of a teacher's samples that must be right for the teacher to count as right.
        val_share: share of clips held out as split ``val``; null keeps the samples' own splits.
        split_seed: seed of that choice.
        samples_per_shard: samples per output shard.
        tokenizer: folder of a tokenizer that counts the statistics' tokens; null counts words and punctuation.
        max_teacher_chars: longer teacher replies reach the merger without their thinking, or cut.
        max_target_chars: a longer target of one teacher alone (``NAME_only``) loses the thinking; if it is then still
            longer, the sample is dropped.
        max_failed_share: stop a stage when more than this share of its calls fail, so that a misconfigured server is
            noticed after a hundred calls and not after fifty thousand.
        allow_missing: write shards although calls are missing; otherwise that is an error.
    """

    shards: str | list[str]
    ledger: str
    output: str
    teachers: dict[str, TeacherConfig]
    merge: StageConfig | None = None
    wording_file: str | None = None
    split: str | None = "train"
    variant: str = "merged"
    fillers: list[str] | None = None
    filter: Rule = "all_right"
    min_right_share: float = 0.5
    val_share: float | None = 0.05
    split_seed: int = 0
    samples_per_shard: PositiveInt = 256
    tokenizer: str | None = None
    max_teacher_chars: int = 16_000
    max_target_chars: PositiveInt = 8_000
    max_failed_share: float = 0.5
    allow_missing: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that call servers, in the order in which they run: the teachers, then the merger."""
        return (*self.teachers, *(() if self.merge is None else (MERGE,)))

    @property
    def transcriber(self) -> str | None:
        """The teacher that transcribes, or None."""
        return next((name for name, teacher in self.teachers.items() if teacher.is_transcriber), None)

    @property
    def voters(self) -> tuple[str, ...]:
        """The teachers that answer."""
        return tuple(name for name, teacher in self.teachers.items() if not teacher.is_transcriber)

    @property
    def rule(self) -> Rule:
        """The filter's rule: variant ``unfiltered`` has none."""
        return "none" if self.variant == "unfiltered" else self.filter

    @property
    def alone(self) -> str | None:
        """The teacher whose reasoning is the target, or None."""
        name = self.variant.removesuffix(ALONE)
        return name if name in self.voters and name != self.variant else None

    def stage(self, name: str) -> StageConfig:
        """The settings of a stage by its name."""
        if name != MERGE:
            return self.teachers[name]
        assert self.merge is not None
        return self.merge

    def key(self, name: str) -> str:
        """The key of a stage's settings, for error messages."""
        return name if name == MERGE else f"teachers.{name}"

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is called.

        Raises:
            ValueError: names the key and how to fix it; never repeats a value that may be a secret.
        """
        self._check_names()
        for name in self.stages:
            with under_key(self.key(name)):
                self.stage(name).check()
        self._check_transcripts()
        self._check_variant()
        self._check_fillers()
        if not 0 < self.min_right_share <= 1:
            raise ValueError(f"min_right_share: must be above 0 and at most 1, got {self.min_right_share}")
        if self.val_share is not None and not 0 <= self.val_share < 1:
            raise ValueError(f"val_share: must be 0 or more and below 1, or null; got {self.val_share}")
        if not 0 < self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share: must be above 0 and at most 1, got {self.max_failed_share}")
        if self.max_teacher_chars < 200:
            raise ValueError(f"max_teacher_chars: must be 200 or more, got {self.max_teacher_chars}")
        if self.wording_file is not None and not Path(self.wording_file).is_file():
            raise ValueError(f"wording_file: {self.wording_file} is not a file")

    def _check_names(self) -> None:
        if not self.teachers:
            raise ValueError("teachers: give at least one, by name")
        for name in self.teachers:
            check_teacher_name(name)

    def _check_transcripts(self) -> None:
        if not self.voters:
            raise ValueError("teachers: all of them transcribe; give at least one that answers")
        if len(self.teachers) - len(self.voters) > 1:
            raise ValueError("teachers: only one of them can transcribe")
        names = list(self.teachers)
        readers = [name for name in names if self.teachers[name].inputs == "transcript"]
        if readers and self.transcriber is None:
            raise ValueError(
                f"teachers.{readers[0]}.inputs: needs a teacher that transcribes, such as whisper-large-v3"
            )
        for name in readers:
            if self.transcriber is not None and names.index(name) < names.index(self.transcriber):
                raise ValueError(f"teachers.{name}: list it after {self.transcriber!r}, whose transcript it reads")

    def _check_fillers(self) -> None:
        if self.fillers is not None and (not self.fillers or any(not text.strip() for text in self.fillers)):
            raise ValueError("fillers: expects some texts, none of them blank; or null for the project's own")
        for text in self.fillers or ():
            try:
                format_target(text, "A")
            except ValueError as error:
                raise ValueError(f"fillers: {text!r}: {error}") from error

    def _check_variant(self) -> None:
        known = [*VARIANTS, *(f"{name}{ALONE}" for name in self.voters)]
        if self.variant not in known:
            raise ValueError(f"variant: must be one of {', '.join(known)}; got {self.variant!r}")
        if self.merge is None and self.variant in ("merged", "unfiltered"):
            raise ValueError(
                f"variant: {self.variant!r} needs the merger's servers in `merge`; without one, choose "
                f"{' or '.join(known[2:])}"
            )


def load_config(files: Sequence[str | Path], options: Sequence[str] = ()) -> TracesConfig:
    """Read and check a config.

    Args:
        files: YAML files; each overrides the ones before it.
        options: words of the command line that override the files, such as ``--merge.max_concurrency=8``.

    Raises:
        UsageError: names the key and how to fix it; see `read_dataclass`.
        ValueError: a value that cannot work; see `TracesConfig.check`.
    """
    names = dict.fromkeys(_teacher_names(files, options))
    for name in names:
        check_teacher_name(name)
    # As a data class, each teacher has keys of its own: files are merged key by key, and errors have the whole key.
    teachers = make_dataclass("Teachers", [(name, TeacherConfig) for name in names])
    kind = make_dataclass("TracesForm", [(_TEACHERS, teachers)], bases=(TracesConfig,))
    form: Any = read_dataclass(kind, files, options, "cli_configs/traces_avqa.yaml")
    values = {field.name: getattr(form, field.name) for field in fields(TracesConfig)}
    config = TracesConfig(**{**values, _TEACHERS: vars(form.teachers)})
    config.check()
    return config


def _teacher_names(files: Sequence[str | Path], options: Sequence[str]) -> Iterator[str]:
    """Names of the teachers, in the order in which they are first given.

    Raises:
        UsageError: a file or an option has the form of an earlier version, with ``vision`` and ``audio`` at the top.
    """
    for file in files:
        scan_file(Path(file))
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        if old := [name for name in _OLD_TEACHERS if name in settings]:
            form = ", ".join(f"{name}: {{inputs: {_OLD_TEACHERS[name]}, ...}}" for name in old)
            raise UsageError(
                f"{file}: {old[0]}: teachers are listed by name now, with what they are sent; write "
                f"teachers: {{{form}}}, each with the settings that it has"
            )
        if _TEACHERS in settings and not isinstance(settings[_TEACHERS], dict):
            raise UsageError(f"{file}: {_TEACHERS}: must list teachers by name, as name: {{inputs: ..., ...}}")
        yield from _keys(settings.get(_TEACHERS))
    scan_values(options)
    for number, word in enumerate(options):
        option, equals, value = word.removeprefix("--").partition("=")
        name, *rest = option.split(".")
        if word.startswith("--") and name in _OLD_TEACHERS:
            raise UsageError(f"{option}: teachers are listed by name now; write --{_TEACHERS}.{option}")
        if word.startswith("--") and name == _TEACHERS:
            value = value if equals else next(iter(options[number + 1 :]), "")
            if not rest and not isinstance(_read(value), dict):
                raise UsageError(f"--{_TEACHERS}: must list teachers by name, as {{NAME: {{inputs: ..., ...}}}}")
            yield from rest[:1] if rest else _keys(_read(value))


def _keys(value: Any) -> list[str]:
    return [str(key) for key in value] if isinstance(value, dict) else []


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None  # reported by the parser
