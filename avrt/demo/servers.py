"""A local HTTP server with the demo's models, in the protocol of real model servers.

``demo-vision`` takes only frames, ``demo-audio`` only audio, ``demo-merger`` only text, ``demo-judge`` any of them.
None of them gets a file name, an annotation or the right answer.

Each question offers two colors crossed with two pitches, so a teacher can only narrow it down to two options. It then
picks one of the two by a hash of the question, like a model that guesses: both teachers are right about a quarter of
the questions, with all letters equally often. The merger reads both descriptions and finds the option that fits both.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile
from PIL import Image, UnidentifiedImageError

from avrt.demo.judge import judge
from avrt.demo.judge_media import without_videos
from avrt.demo.questions import write_trace
from avrt.demo.teachers import AudioTeacher, VisionTeacher
from avrt.demo.trace_judge import is_trace_prompt, judge_traces

VISION_MODEL = "demo-vision"
AUDIO_MODEL = "demo-audio"
MERGE_MODEL = "demo-merger"
JUDGE_MODEL = "demo-judge"
MODELS = (VISION_MODEL, AUDIO_MODEL, MERGE_MODEL, JUDGE_MODEL)

HOST = "127.0.0.1"
DEFAULT_PORT = 8790
"""The port in cli_configs/traces_demo.yaml."""

_OPTION = re.compile(r"^\(([A-Z])\) (.+)$", re.MULTILINE)
_COLOR = re.compile(r"The picture is (\w+)\.")
_PITCH = re.compile(r"The sound is (\w+)\.")
_MAX_BODY = 64 * 2**20


class BadRequestError(ValueError):
    """A request that a model cannot answer: the wrong kind of media, or none."""


class DemoModels:
    """The models behind one function from messages to reply."""

    def __init__(self) -> None:
        self._vision = VisionTeacher()
        self._audio = AudioTeacher()
        # Several questions share a clip, and measuring it takes longer than everything else.
        self._measured: dict[bytes, str | None] = {}

    def reply(self, model: str, messages: list[dict[str, Any]]) -> str:
        """Answer one request.

        Raises:
            BadRequestError: media of a kind that `model` does not take, damaged media, or none at all.
        """
        parts = [part for message in messages for part in _parts(message)]
        if model == JUDGE_MODEL:
            try:
                parts = without_videos(parts)
            except ValueError as error:
                raise BadRequestError(str(error)) from error
        text = "\n".join(part["text"] for part in parts if part.get("type") == "text")
        images = [part for part in parts if part.get("type") == "image_url"]
        audio = [part for part in parts if part.get("type") == "input_audio"]
        # The question comes last; before it a prompt may show an example with options of its own.
        options = dict(_OPTION.findall(text.rpartition("Question:")[2]))
        if len(options) < 2:
            raise BadRequestError("the request has no options of the form '(A) text'")
        if model == JUDGE_MODEL:
            return self._judge(text, options, images, audio)
        takes_images, takes_audio = model == VISION_MODEL, model == AUDIO_MODEL
        if bool(images) != takes_images or bool(audio) != takes_audio:
            takes = "images only" if takes_images else "audio only" if takes_audio else "text only"
            raise BadRequestError(f"{model} takes {takes}")
        if model == VISION_MODEL:
            color = self._color(images)
            return "I see no picture." if color is None else _describe("picture", color, text, options)
        if model == AUDIO_MODEL:
            pitch = self._pitch(audio)
            return "I hear no sound." if pitch is None else _describe("sound", pitch, text, options)
        return _merge(text, options)

    def _judge(
        self, text: str, options: dict[str, str], images: list[dict[str, Any]], audio: list[dict[str, Any]]
    ) -> str:
        color, pitch = self._color(images) if images else None, self._pitch(audio) if audio else None
        if is_trace_prompt(text):
            return judge_traces(text, color, pitch)
        try:
            return judge(text, options, color, pitch)
        except ValueError as error:
            raise BadRequestError(str(error)) from error

    def _color(self, images: list[dict[str, Any]]) -> str | None:
        return self._once(images, lambda: self._vision.describe(np.stack([*map(_decode_image, images)])))

    def _pitch(self, audio: list[dict[str, Any]]) -> str | None:
        return self._once(audio, lambda: self._audio.describe(*_decode_audio(audio)))

    def _once(self, parts: list[dict[str, Any]], measure: Callable[[], str | None]) -> str | None:
        """Measure some media; equal media are measured once."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(str(part[part["type"]]).encode())
        key = digest.digest()
        if key not in self._measured:
            self._measured[key] = measure()
        return self._measured[key]


def _describe(kind: str, seen: str, text: str, options: dict[str, str]) -> str:
    """A teacher's reply: its measurement, the options that fit it, and one of these."""
    fitting = [letter for letter, option in options.items() if seen in option.split()]
    if not fitting:
        return f"The {kind} is {seen}. No option has it."
    digest = hashlib.sha256(f"{kind}:{seen}:{text}".encode()).digest()
    letter = fitting[digest[0] % len(fitting)]
    reasons = " ".join(
        f"Option {name} says {option}: {'it fits' if name in fitting else 'it does not fit'}."
        for name, option in options.items()
    )
    return f"Description: The {kind} is {seen}.\nReasoning: {reasons}\nAnswer: ({letter}) {options[letter]}"


def _merge(text: str, options: dict[str, str]) -> str:
    """The merger's reply: a trace of the demo for the option that fits both descriptions."""
    colors, pitches = _COLOR.findall(text), _PITCH.findall(text)
    if not colors or not pitches:
        return "The two reports do not name a picture and a sound."
    color, pitch = colors[-1], pitches[-1]
    for letter, option in options.items():
        if {color, pitch} <= set(option.split()):
            return write_trace(color, pitch, options, letter)
    return f"No option has {color} and {pitch}."


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadRequestError("a message without content")
    return content


def _decode_image(part: dict[str, Any]) -> np.ndarray:
    """uint8 ``[3, height, width]`` of an ``image_url`` part with a data URL."""
    head, comma, body = part["image_url"]["url"].partition(",")
    if not comma or not head.startswith("data:image/"):
        raise BadRequestError("images must be data URLs")
    try:
        with Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=("JPEG", "PNG")) as image:
            return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise BadRequestError(f"an image cannot be decoded: {error}") from error


def _decode_audio(parts: list[dict[str, Any]]) -> tuple[np.ndarray, int]:
    """Mono samples in -1 to 1, and their rate, of one ``input_audio`` part."""
    if len(parts) != 1:
        raise BadRequestError(f"expected one audio part, not {len(parts)}")
    try:
        data = base64.b64decode(parts[0]["input_audio"]["data"], validate=True)
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (binascii.Error, soundfile.LibsndfileError) as error:
        raise BadRequestError(f"the audio cannot be decoded: {error}") from error
    return samples.mean(axis=1), rate


class _Handler(BaseHTTPRequestHandler):
    """``GET /v1/models`` and ``POST /v1/chat/completions``, on connections that stay open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    models = DemoModels()

    def do_GET(self) -> None:
        """List the models."""
        if self.path != "/v1/models":
            self._send(404, _error("no such path"))
            return
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in MODELS]
        self._send(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        """Answer a chat completion."""
        size = int(self.headers.get("content-length", 0))
        if size > _MAX_BODY:
            self.close_connection = True
            self._send(413, _error("the request is too large"))
            return
        data = self.rfile.read(size)
        if self.path != "/v1/chat/completions":
            self._send(404, _error("no such path"))
            return
        try:
            body = json.loads(data)
            model = body["model"]
            if model not in MODELS:
                self._send(404, _error(f"the model {model!r} does not exist"))
                return
            text = self.models.reply(model, body["messages"])
        except (BadRequestError, json.JSONDecodeError, KeyError, TypeError) as error:
            self._send(400, _error(str(error)))
            return
        prompt_words, reply_words = len(data.split()), len(text.split())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {
            "prompt_tokens": prompt_words,
            "completion_tokens": reply_words,
            "total_tokens": prompt_words + reply_words,
        }
        self._send(
            200,
            {
                "id": "demo",
                "object": "chat.completion",
                "created": 0,
                "model": model,
                "choices": [choice],
                "usage": usage,
            },
        )

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a line per call would hide the run's own output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def serve_demo_models(port: int, ready: Callable[[str], None]) -> None:
    """Serve the models on the local machine until the process is interrupted.

    Args:
        port: 0 takes a free one.
        ready: called with the address for `base_urls` once the server accepts calls.

    Raises:
        OSError: the port is taken.
    """
    with _Server((HOST, port), _Handler) as server:
        ready(server_url(server.server_address[1]))
        server.serve_forever()


def server_url(port: int) -> str:
    """The entry of `base_urls` for a server on this machine."""
    return f"http://{HOST}:{port}/v1"


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}
