"""The merger's prompt, built from whichever teachers there are.

A prompt file of your own (`merge.prompt_file`) has ``{question}`` and either ``{teachers}``, which becomes all replies
with their titles, or ``{NAME_trace}`` for each teacher (the paper's printed prompt has ``{NAME_reasoning}``, which
means the same). The wording around the replies is in ``data/merger_wording.yaml``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from avrt.config.scan import scan_file
from avrt.sample import Sample
from avrt.traces.config import MERGE, TeacherConfig, TracesConfig
from avrt.traces.prompts import NO_WORDS, fill_prompt, placeholders, read_prompt, trace_for_merger, with_question
from avrt.traces.teacher_replies import TeacherReply

WORDING_FILE = Path(__file__).parent / "data" / "merger_wording.yaml"

PAIR_PROMPT = """\
Two assistants have looked into one clip for the same multiple-choice question. One heard its sound and saw nothing; \
the other saw its frames and heard nothing. Either may be mistaken.

Question: {question}
{options}

From the sound:
{audio_trace}

From the frames:
{vision_trace}

Write one chain of reasoning that uses both, as if you had heard and seen the clip yourself:
- Put it between <think> and </think>. Say what is heard and what is seen, how the two support or correct each other, \
and why this leads to one option.
- Do not mention the assistants, and add nothing that neither of them reports.
- Keep it to about 100 to 150 words.
- After it write only the letter of the right option between <answer> and </answer>.
Write nothing before, between or after the two parts."""
"""For a vision and an audio teacher alone."""

_PAIR = {"vision": "frames", "audio": "audio"}
_TEACHERS = "teachers"


class MergePrompt:
    """The merger's prompt of a run.

    Args:
        config: checked settings, with a merger.

    Attributes:
        template: the prompt with its placeholders, for when every teacher has a reply.

    Raises:
        ValueError: the prompt or its wording has no place for a teacher's reply, or is not written rightly.
    """

    def __init__(self, config: TracesConfig) -> None:
        assert config.merge is not None
        self._teachers: Mapping[str, TeacherConfig] = config.teachers
        self._max_chars = config.max_teacher_chars
        self._wording = _read_wording(config.wording_file)
        path = config.merge.prompt_file
        is_pair = {name: teacher.inputs for name, teacher in self._teachers.items()} == _PAIR
        if path is not None:
            prompt, key = read_prompt(path), f"{MERGE}.prompt_file: {path}"
        else:
            prompt, key = self._wording.prompt, f"wording_file: {config.wording_file}: prompt"
            if is_pair and not self._wording.has_own_prompt:
                prompt = PAIR_PROMPT
        self._is_pair = prompt is PAIR_PROMPT
        self._check(prompt, key)
        self.template = with_question(prompt)

    def _check(self, prompt: str, key: str) -> None:
        used = {_trace_name(name) for name in placeholders(prompt)}
        needed = {"question", *({_TEACHERS} if _TEACHERS in used else map(_trace, self._teachers))}
        if missing := sorted(needed - used):
            names = ", ".join(f"{{{name}}}" for name in missing)
            raise ValueError(f"{key}: must contain {names}; {{{_TEACHERS}}} stands for all replies")

    def fill(self, sample: Sample, replies: Mapping[str, TeacherReply], suffix: str) -> str:
        """The text of the merger's call.

        Args:
            sample: the question.
            replies: the complete replies, by teacher; one or more.
            suffix: sentence that ends the prompt.
        """
        prompt = self.template
        if self._is_pair and len(replies) < len(self._teachers):
            prompt = self._wording.prompt
        texts = {name: self._text(reply) for name, reply in replies.items()}
        values = dict.fromkeys((_trace(name) for name in self._teachers), self._wording.no_reply)
        values.update({_trace(name): text for name, text in texts.items()})
        values.update({_reasoning(name): values[_trace(name)] for name in self._teachers})
        values["roles"] = "; ".join(dict.fromkeys(self._wording.roles[self._kind(name)] for name in texts))
        titles = Counter(self._kind(name) for name in texts)
        values[_TEACHERS] = "\n\n".join(
            f"{self._wording.titles[self._kind(name)]}{f' ({name})' if titles[self._kind(name)] > 1 else ''}:\n{text}"
            for name, text in texts.items()
        )
        return fill_prompt(prompt, sample, suffix=suffix, **values)

    def _kind(self, name: str) -> str:
        return "transcription" if self._teachers[name].is_transcriber else self._teachers[name].inputs

    def _text(self, reply: TeacherReply) -> str:
        """A teacher's reply, and how sure it is."""
        assert reply.record is not None
        text = trace_for_merger(reply.record.reply, self._max_chars)
        if not reply.votes:
            return text or NO_WORDS
        letter = reply.parsed.letter if reply.parsed is not None else None
        if len(reply.samples) < 2 or letter is None:
            return text
        share = reply.agreement
        line = next((line for line in self._wording.certainty if share >= line[0]), None)
        if line is None:
            return text
        samples = len(reply.samples)
        values = {"samples": samples, "count": round(share * samples), "percent": round(100 * share), "letter": letter}
        return f"{text}\n{line[1].format(**values)}"


def _trace(name: str) -> str:
    return f"{name}_trace"


def _reasoning(name: str) -> str:
    return f"{name}_reasoning"


def _trace_name(placeholder: str) -> str:
    name = placeholder.removesuffix("_reasoning")
    return _trace(name) if name != placeholder else placeholder


@dataclass(frozen=True)
class _Wording:
    """The content of a wording file; see ``data/merger_wording.yaml``."""

    prompt: str
    roles: Mapping[str, str]
    titles: Mapping[str, str]
    no_reply: str
    certainty: tuple[tuple[float, str], ...]
    has_own_prompt: bool


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _read_wording(path: str | None) -> _Wording:
    """The project's wording, with the keys of a file instead of its own.

    Raises:
        ValueError: an unknown key, or a value that is not of the kind of the project's own.
    """
    content: dict[str, Any] = yaml.safe_load(WORDING_FILE.read_text(encoding="utf-8"))
    own: dict[str, Any] = {}
    if path is not None:
        scan_file(Path(path))
        own = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for key, value in own.items():
        if key not in content or not isinstance(value, type(content[key])):
            raise ValueError(f"wording_file: {path}: {key}: expects the keys and kinds of {WORDING_FILE.name}")
        if isinstance(value, dict) and not (set(value) <= set(content[key]) and all(map(_is_text, value.values()))):
            raise ValueError(f"wording_file: {path}: {key}: expects texts for {', '.join(content[key])}")
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    try:
        certainty = [(float(line["at_least"]), str(line["text"])) for line in content["certainty"]]
        for _, text in certainty:
            text.format(samples=5, count=4, percent=80, letter="A")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"wording_file: {path}: certainty: each line needs at_least and text, with {{samples}}, {{count}}, "
            f"{{percent}} and {{letter}} only ({error})"
        ) from None
    content["certainty"] = tuple(sorted(certainty, reverse=True))
    return _Wording(**content, has_own_prompt="prompt" in own)
