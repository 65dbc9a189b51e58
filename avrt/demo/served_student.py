"""An exported student behind the demo's server: real replies of the built-in engine, on the CPU.

It takes what vLLM takes from `avrt traces`: a system message, frames as one video or as images, audio, text, and the
processor's settings in ``mm_processor_kwargs``. The model answers all requests that are waiting at once.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avrt.demo.message_media import BadRequestError, decode_audio, decode_frames, decode_image, message_parts
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.model.student import Student, StudentConfig
from avrt.rollout.builtin import TransformersRollout
from avrt.rollout.engine import Response, SamplingConfig
from avrt.sample import SAMPLING_RATE, Clip, Sample

MAX_BATCH = 64
"""Requests that are answered together."""
DEFAULT_MAX_TOKENS = 256
DEFAULT_FPS = 2.0
"""Rate of frames that come without one, as in vLLM."""


@dataclass(frozen=True)
class StudentReply:
    """A reply to one request.

    Attributes:
        text: without special tokens.
        finish_reason: ``stop`` or ``length``.
        prompt_tokens, completion_tokens: as the model counts them.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class _Job:
    prompt: Prompt
    sampling: SamplingConfig
    seed: int
    reply: Future[StudentReply]


class ServedStudent:
    """Answers requests with a student.

    Args:
        folder: as `avrt export` and `ExportStudent` write it.

    Raises:
        ValueError: the folder cannot be loaded.
    """

    def __init__(self, folder: str | Path) -> None:
        torch.set_num_threads(1)  # in a model this small, more would only wait for each other
        self.student = Student.load(StudentConfig(path=str(folder), dtype="float32"))
        self._waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._encoding, self._running = threading.Lock(), threading.Lock()

    def reply(self, body: dict[str, Any]) -> StudentReply:
        """Answer one request, together with those that other threads make meanwhile.

        Raises:
            BadRequestError: media that cannot be read, or parameters that the engine does not have.
        """
        sampling, seed = read_sampling(body)
        with self._encoding:
            prompt = self.encode(body)
        job = _Job(prompt, sampling, seed, Future())
        self._waiting.put(job)
        # Whoever gets the model answers for all that wait.
        with self._running:
            while not job.reply.done():
                self._answer_waiting()
        return job.reply.result()

    def _answer_waiting(self) -> None:
        groups: dict[SamplingConfig, list[_Job]] = {}
        taken = 0
        while taken < MAX_BATCH and not self._waiting.empty():
            job = self._waiting.get()
            groups.setdefault(job.sampling, []).append(job)
            taken += 1
        try:
            for sampling, jobs in groups.items():
                responses = self.generate([job.prompt for job in jobs], sampling, [job.seed for job in jobs])
                for job, response in zip(jobs, responses, strict=True):
                    job.reply.set_result(self._read(job.prompt, response))
        finally:
            for job in (job for jobs in groups.values() for job in jobs):
                if not job.reply.done():
                    job.reply.set_exception(RuntimeError("the student failed on this request or one beside it"))

    def _read(self, prompt: Prompt, response: Response) -> StudentReply:
        # As a model server does, without what the chat template wrote of the response itself.
        text, finish = self.student.decode(response.token_ids), "stop" if response.finished else "length"
        return StudentReply(text, finish, len(prompt.input_ids), len(response.token_ids))

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingConfig, seeds: Sequence[int]) -> list[Response]:
        """One response to each prompt."""
        student = self.student
        engine = TransformersRollout(student.language_model, sampling, student.eos_token_ids, student.banned_tokens)
        return [response for [response] in engine.generate(student.embed(prompts), 1, seeds)]

    def encode(self, body: dict[str, Any]) -> Prompt:
        """The prompt of a request's messages.

        Raises:
            BadRequestError: media that cannot be read.
        """
        settings = body.get("mm_processor_kwargs") or {}
        clips: list[Clip] = []
        messages = []
        texts: list[str] = []
        for message in body["messages"]:
            content = []
            for part in message_parts(message):
                if part["type"] == "text":
                    texts.append(part["text"])
                    content.append({"type": "text", "text": part["text"]})
                else:
                    clip, stream = _read_stream(part, settings.get("fps", DEFAULT_FPS))
                    clips.append(clip)
                    content.append({"type": stream})
            messages.append({"role": message["role"], "content": content})
        # The engine knows questions with options; a request has its whole text as the question.
        sample = Sample("request", "\n".join(texts), ("", ""), 0)
        size = settings.get("size") or {}
        bounds = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        encoder = PromptEncoder(self.student.processor, **{name: n for name, n in bounds.items() if n is not None})
        try:
            return encoder.encode_chat(sample, messages, clips)
        except ValueError as error:
            raise BadRequestError(str(error)) from error


def _read_stream(part: dict[str, Any], fps: float) -> tuple[Clip, str]:
    """A part with media as a clip of one stream, and the name of its placeholder."""
    kind = part["type"]
    if kind == "video_url":
        frames = torch.from_numpy(decode_frames(part))
        return Clip(frames, tuple(i / fps for i in range(len(frames))), fps), "video"
    if kind == "image_url":
        return Clip(torch.from_numpy(decode_image(part))[None], (0.0,), is_image=True), "image"
    if kind == "input_audio":
        samples, rate = decode_audio(part)
        if rate != SAMPLING_RATE:
            raise BadRequestError(f"audio must have {SAMPLING_RATE} Hz, not {rate}")
        return Clip(None, waveform=torch.from_numpy(samples)), "audio"
    raise BadRequestError(f"a part of type {kind!r} cannot be read")


SAMPLING_NAMES = frozenset({"model", "messages", "max_tokens", "temperature", "seed", "mm_processor_kwargs"})
"""Keys of a request that are read."""


def read_sampling(body: dict[str, Any]) -> tuple[SamplingConfig, int]:
    """How to sample a reply, and the seed; without one, equal requests get equal replies.

    Raises:
        BadRequestError: a parameter that the engine does not have: nothing is ignored silently.
    """
    if unknown := sorted(set(body) - SAMPLING_NAMES):
        raise BadRequestError(f"unknown parameters: {', '.join(unknown)}")
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    seed = body.get("seed", int.from_bytes(digest[:4], "big"))
    limit, temperature = body.get("max_tokens", DEFAULT_MAX_TOKENS), body.get("temperature", 1.0)
    if not isinstance(limit, int) or limit < 1 or not isinstance(temperature, int | float) or temperature < 0:
        raise BadRequestError(
            f"max_tokens {limit!r} and temperature {temperature!r} must be numbers, 1 or more and 0 or more"
        )
    return SamplingConfig(limit, float(temperature)), int(seed)
