"""What a server is asked for one question: the message, and what stands beside it.

Other models get the frames as ``image_url`` parts, the audio as ``input_audio``, then the question. A student of this
project gets the prompt of its training: the system message, the frames as one video with their true rate, the audio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avrt.evaluation.benchmarks import Item
from avrt.evaluation.question_sets import QuestionSet
from avrt.evaluation.records.record import Record
from avrt.evaluation.server_config import ServerRunConfig
from avrt.sample import Clip
from avrt.servers.clip_content import media_parts, student_media_parts
from avrt.servers.config import Model
from avrt.servers.content import Content, text_part
from avrt.servers.frame_rate import with_frame_rate
from avrt.text.prompts import arrange, clip_modalities, question_text

NO_INPUT = "no_input"
"""`Record.failure`: the item has none of the streams that the model accepts."""

FRAME_RATES = "frame_rates"
"""`Record.failure`: the item has videos of different rates, and a request has place for one."""


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        content: the parts of the user message.
        sampling: parameters of the call.
        system: the system message; empty for none.
    """

    content: Content
    sampling: Mapping[str, Any]
    system: str = ""


def build_request(questions: QuestionSet, item: Item, config: ServerRunConfig, model: Model) -> Request | Record:
    """The call for an item, or its record if it cannot be shown."""
    sample = questions.show(item, config.media)
    if isinstance(sample, Record):
        return sample
    text = model.complete(question_text(sample, answer_format=config.answer_format, template=config.template))
    if config.asks_student:
        parts = prompt_parts(sample.clips, text, config.streams, student_media_parts)
    else:
        parts = prompt_parts(
            sample.clips, text, config.streams, lambda clip, stream: media_parts(clip, stream, config.jpeg_quality)
        )
    if all(part["type"] == "text" for part in parts):
        return questions.failed(item, NO_INPUT, f"the item has no stream of `inputs` {config.streams}")
    if not config.asks_student:
        return Request(parts, model.sampling)
    videos = [clip for clip in sample.clips if clip.frames is not None and not clip.is_image]
    rates = {clip.fps for clip in videos} if "V" in config.streams else set()
    if len(rates) > 1:
        return questions.failed(
            item, FRAME_RATES, f"the item's videos have {len(rates)} frame rates, and a request has place for one"
        )
    return Request(parts, with_frame_rate(model.sampling, next(iter(rates), None)), config.template.system)


def prompt_parts(clips: Sequence[Clip], text: str, inputs: str, media: Callable[[Clip, str], Content]) -> Content:
    """A question's clips and text in the order in which a model gets them, see `avrt.text.prompts.arrange`.

    Args:
        clips: of one question.
        text: of the prompt.
        inputs: streams that are sent.
        media: the parts of one stream (``A`` or ``V``) of a clip.
    """
    streams = [
        [name for name in clip_modalities(clip) if ("A" if name == "audio" else "V") in inputs] for clip in clips
    ]
    parts: Content = []
    for part in arrange(text, streams):
        if isinstance(part, str):
            parts.append(text_part(part))
        else:
            parts += media(clips[part[0]], "A" if part[1] == "audio" else "V")
    return parts
