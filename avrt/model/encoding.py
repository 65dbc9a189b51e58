"""Encoding of samples into the student's input tensors: chat text, token ids, patches, mel features.

Runs in the data workers, needs the processor but not the model, and does no work twice: frames and audio come decoded
from the shards.

Shape letters: P prompt tokens, C trace tokens, F mel frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avrt.families.registry import family_of_processor
from avrt.media.defaults import MAX_FRAME_PIXELS, MIN_FRAME_PIXELS
from avrt.model.chat_template import chat_text, response_opening
from avrt.model.float32_default import float32_default
from avrt.sample import SAMPLING_RATE, Clip, Sample
from avrt.text.prompts import (
    DEFAULT,
    AnswerFormat,
    PromptTemplate,
    arrange,
    build_messages,
    clip_modalities,
    question_text,
)


@dataclass(frozen=True)
class Prompt:
    """One question, encoded for the student. Tensors of absent streams are None.

    Attributes:
        sample: the question, with its clip (callbacks show it).
        input_ids: ``[P]``, one placeholder token per media feature.
        frames: the image or the frames as resized for the vision encoder, uint8 ``[T, 3, height, width]``;
            `avrt.model.encoders.normalized_patches` turns them into the encoder's input. As float32 patches they would
            be four times as large when a data worker passes them on; where nothing was resized they are the clip's own
            frames, which are then passed on once.
        image_grid_thw, video_grid_thw: ``[1, 3]`` patches in time, height and width.
        second_per_grid: seconds between two temporal patches of the video.
        input_features: log-mel features ``[mel bins, F]``.
        waveform: float32 samples that these features were computed from; rollout engines with an encoder of their own
            read them.
        target: token ids ``[C]`` of the trace that supervised fine-tuning predicts.
        others: where a sample has several clips, the media of its other streams, in the order of the text; their
            `input_ids` are empty.
    """

    sample: Sample
    input_ids: Tensor
    frames: Tensor | None = None
    image_grid_thw: Tensor | None = None
    video_grid_thw: Tensor | None = None
    second_per_grid: float | None = None
    input_features: Tensor | None = None
    waveform: Tensor | None = None
    target: Tensor | None = None
    others: tuple[Prompt, ...] = ()

    @property
    def media(self) -> tuple[Prompt, ...]:
        """The media of all clips: the first here, then `others`."""
        return (self, *self.others)


class PromptEncoder:
    """Encodes samples with the processor of a student.

    Args:
        processor: of one of the families of `avrt.families.registry`.
        template: wording of the prompt.
        answer_format: ``tags`` or ``letter``; selects the template's instruction that ends the prompt.
        min_pixels, max_pixels: bounds on the pixels of each frame; a frame outside is resized.
        max_prompt_tokens: longer prompts are refused (a cut prompt would lose media placeholders), or None.
    """

    def __init__(
        self,
        processor: Any,
        template: PromptTemplate = DEFAULT,
        answer_format: AnswerFormat = "tags",
        min_pixels: int = MIN_FRAME_PIXELS,
        max_pixels: int = MAX_FRAME_PIXELS,
        max_prompt_tokens: int | None = None,
    ) -> None:
        if not 0 < min_pixels <= max_pixels:
            raise ValueError(f"min_pixels ({min_pixels}) must be positive and at most max_pixels ({max_pixels})")
        self.processor = processor
        self.family = family_of_processor(processor)
        self.template = template
        self.answer_format = answer_format
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.max_prompt_tokens = max_prompt_tokens
        self._special_tokens = [t.content for t in processor.tokenizer.added_tokens_decoder.values() if t.special]

    @float32_default()
    @torch.autocast("cpu", enabled=False)
    def encode(self, sample: Sample, with_target: bool = False) -> Prompt:
        """The prompt of a sample, with the streams that its clip has. Always computed in float32.

        Args:
            sample: with its clip decoded.
            with_target: also encode the sample's trace.

        Raises:
            ValueError: the sample has no clip or no trace, its text spells a special token, or its prompt is longer
                than `max_prompt_tokens`.
        """
        target = self.encode_target(sample) if with_target else None
        clips = sample.clips
        if not clips:
            raise ValueError(f"sample {sample.id!r} has no clip; was its shard read with media?")
        first, *others = map(clip_modalities, clips)
        messages = build_messages(
            sample, modalities=first, others=others, answer_format=self.answer_format, template=self.template
        )
        if len(clips) > 1:
            clips = self._in_order(sample)
        return replace(self.encode_chat(sample, messages, clips), target=target)

    @float32_default()
    @torch.autocast("cpu", enabled=False)
    def encode_chat(self, sample: Sample, messages: list[dict[str, Any]], clips: Sequence[Clip]) -> Prompt:
        """The prompt of chat messages that are written already, such as those of a request to a server.

        Args:
            sample: what the messages are about; its own clip is not read.
            messages: in the form of transformers' chat templates.
            clips: the media of the messages, in their order.

        Raises:
            ValueError: the sample's text spells a special token, or its prompt is longer than `max_prompt_tokens`.
        """
        self._refuse_special_tokens(sample, sample.question, *sample.options)
        inputs = self.processor(
            text=chat_text(self.processor, messages), return_tensors="pt", **self._media_arguments(clips)
        )
        input_ids = inputs["input_ids"][0]
        if self.max_prompt_tokens is not None and len(input_ids) > self.max_prompt_tokens:
            raise ValueError(
                f"sample {sample.id!r}: its prompt has {len(input_ids)} tokens, more than max_prompt_tokens "
                f"({self.max_prompt_tokens}); lower max_pixels or raise max_prompt_tokens"
            )
        media = self._media(clips, inputs)
        return Prompt(
            sample,
            input_ids,
            **(media[0] if media else {}),
            others=tuple(Prompt(sample, input_ids[:0], **part) for part in media[1:]),
        )

    def _in_order(self, sample: Sample) -> tuple[Clip, ...]:
        """Every stream as a clip of its own, in the order of the text: so the processor fills in the placeholders."""
        text = question_text(sample, answer_format=self.answer_format, template=self.template)
        places = [part for part in arrange(text, list(map(clip_modalities, sample.clips))) if not isinstance(part, str)]
        return tuple(_only(sample.clips[number], stream) for number, stream in places)

    def _media_arguments(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """The processor's arguments for the media of a prompt."""
        arguments: dict[str, Any] = {}
        images_kwargs = {
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            # The student does these on its device, see `avrt.model.encoders.normalized_patches`.
            "do_rescale": False,
            "do_normalize": False,
        }
        if images := [clip.frames[0] for clip in clips if clip.frames is not None and clip.is_image]:
            arguments |= {"images": images, "images_kwargs": images_kwargs}
        if videos := [clip for clip in clips if clip.frames is not None and not clip.is_image]:
            # A missing fps would silently become a default and put every frame at a wrong time. Of several videos the
            # processor knows one rate only; `_media` computes each one's own.
            videos_kwargs = {"do_sample_frames": False, "fps": videos[0].fps, "cap_pixels_per_frame": False}
            frames = [_even(clip.frames) for clip in videos if clip.frames is not None]
            arguments |= {"videos": frames, "videos_kwargs": images_kwargs | videos_kwargs}
        if audio := [self._audible(clip.waveform).numpy() for clip in clips if clip.waveform is not None]:
            arguments |= {"audio": audio, "audio_kwargs": self._audio_arguments(max(map(len, audio)))}
        return arguments

    def _media(self, clips: Sequence[Clip], inputs: Any) -> list[dict[str, Any]]:
        """The media of each clip, as arguments of `Prompt`, from the processor's output for all of them."""
        processor = self.processor
        images = _split(inputs.get("pixel_values"), inputs.get("image_grid_thw"), processor.image_processor)
        videos = _split(inputs.get("pixel_values_videos"), inputs.get("video_grid_thw"), processor.video_processor)
        features, masks = iter(inputs.get("input_features", ())), iter(inputs.get("feature_attention_mask", ()))
        media: list[dict[str, Any]] = []
        for clip in clips:
            found: dict[str, Any] = {}
            if clip.frames is not None:
                grid, frames = next(images if clip.is_image else videos)
                if clip.is_image:
                    frames = frames[:1]
                    found = {"image_grid_thw": grid}
                else:
                    assert clip.fps is not None
                    seconds = processor.video_processor.temporal_patch_size / clip.fps
                    found = {"video_grid_thw": grid, "second_per_grid": seconds}
                found["frames"] = clip.frames if torch.equal(frames, clip.frames) else frames
            if clip.waveform is not None:
                # Published processors pad on the right or on the left; the mask says where the audio is.
                found["input_features"] = next(features)[:, next(masks).bool()]
                found["waveform"] = self._audible(clip.waveform)
            media.append(found)
        return media

    @cached_property
    def opening(self) -> str:
        """What the chat template writes of every response itself, see `avrt.model.chat_template.response_opening`."""
        return response_opening(self.processor)

    def encode_target(self, sample: Sample) -> Tensor:
        """Token ids of the sample's trace with the end-of-turn token, ``[C]``: the target of supervised fine-tuning.

        What the chat template writes of a response itself is part of the prompt and not of the target.
        """
        if not sample.trace:
            raise ValueError(
                f"sample {sample.id!r} has no trace to learn from; supervised fine-tuning needs shards that carry "
                "traces (python -m avrt traces)"
            )
        self._refuse_special_tokens(sample, sample.trace)
        trace = sample.trace
        if self.opening:
            opened, tag, trace = trace.partition(self.opening.rstrip())
            if opened.strip() or not tag:
                raise ValueError(
                    f"sample {sample.id!r}: its trace does not begin with {self.opening.rstrip()}, which the student's "
                    "chat template writes in front of every response"
                )
            trace = trace.lstrip()
        ids = self.processor.tokenizer(trace + self.family.end_tokens[0], add_special_tokens=False)["input_ids"]
        return torch.tensor(ids)

    def _refuse_special_tokens(self, sample: Sample, *texts: str) -> None:
        """A special token in the data's text would end a turn, or announce media that does not exist."""
        for token in self._special_tokens:
            if any(token in text for text in texts):
                raise ValueError(
                    f"sample {sample.id!r}: its text contains the special token {token!r}, which the tokenizer would "
                    "not read as text; rewrite or remove the sample"
                )

    def _audible(self, waveform: Tensor) -> Tensor:
        """Shorter audio is padded with silence to one token, see `StudentFamily.shortest_audio`."""
        short = self.family.shortest_audio - len(waveform)
        return F.pad(waveform, (0, short)) if short > 0 else waveform

    def _audio_arguments(self, samples: int) -> dict[str, Any]:
        """Pad the audio by one analysis window of silence only, not to the model's 30 or 300 seconds.

        The features are the same (every mel frame of the audio sees silence behind the end either way), and no
        spectrogram of minutes of silence is computed for a 10 s clip.
        """
        extractor = self.processor.feature_extractor
        padded = samples + extractor.n_fft
        padded += -padded % extractor.hop_length
        return {"sampling_rate": SAMPLING_RATE, "max_length": padded, "truncation": False}


def _only(clip: Clip, stream: str) -> Clip:
    if stream == "audio":
        return replace(clip, frames=None, timestamps=(), fps=None, is_image=False)
    return replace(clip, waveform=None)


def _even(frames: Tensor) -> Tensor:
    """An even number of frames, for the vision encoder reads them in pairs; an odd last frame is repeated."""
    return frames if len(frames) % 2 == 0 else torch.cat([frames, frames[-1:]])


def _split(patches: Tensor | None, grids: Tensor | None, media: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The grid ``[1, 3]`` and the frames of each image or video of a prompt."""
    if patches is not None and grids is not None:
        for grid, part in zip(grids.split(1), patches.split(grids.prod(1).tolist()), strict=True):
            yield grid, _resized(part, grid, media)


def _resized(patches: Tensor, grid: Tensor, media: Any) -> Tensor:
    """The processor's patches ``[patches, patch values]`` reassembled into frames ``[T, channels, height, width]``.

    An image counts as two equal frames.
    """
    time, rows, columns = grid[0].tolist()
    merged, size = media.merge_size, media.patch_size
    blocks = (time, rows // merged, columns // merged, merged, merged)
    split = patches.view(*blocks, -1, media.temporal_patch_size, size, size)
    # time, block row, block column, row, column, channel, frame, y, x: to frames, channels, y, x
    frames = split.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return frames.reshape(time * media.temporal_patch_size, -1, rows * size, columns * size)
