"""A local HTTP server with the demo's models, in the protocol of real model servers.

``demo-vision`` takes only frames, ``demo-audio`` only audio, ``demo-merger`` and ``demo-other-merger`` (which words its
traces differently) only text, ``demo-judge`` any of them. A student that was trained on the demo can be served beside
them, see `avrt.demo.served_student`. None of them gets a file name, an annotation or the right answer.

Each question offers two colors crossed with two pitches, so a teacher can only narrow it down to two options. It then
picks one of the two by a hash of the question, like a model that guesses: both teachers are right about a quarter of
the questions, with all letters equally often. The merger reads both descriptions and finds the option that fits both.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from avrt.demo.judge import judge
from avrt.demo.judge_media import without_videos
from avrt.demo.message_media import BadRequestError, decode_audio, decode_image, message_parts
from avrt.demo.questions import HEARD, OTHER_THOUGHT, SEEN, THOUGHT, write_trace
from avrt.demo.teachers import AudioTeacher, VisionTeacher
from avrt.demo.trace_judge import is_claims_prompt, is_trace_prompt, judge_traces, list_claims

if TYPE_CHECKING:
    from avrt.demo.served_student import ServedStudent  # imports torch and transformers

VISION_MODEL = "demo-vision"
AUDIO_MODEL = "demo-audio"
MERGE_MODEL = "demo-merger"
OTHER_MERGE_MODEL = "demo-other-merger"
JUDGE_MODEL = "demo-judge"
STUDENT_MODEL = "avrt-student"
"""The served student's name, that of the preset."""
MODELS = (VISION_MODEL, AUDIO_MODEL, MERGE_MODEL, OTHER_MERGE_MODEL, JUDGE_MODEL)

HOST = "127.0.0.1"
DEFAULT_PORT = 8790
"""The port in cli_configs/traces_demo.yaml."""

_OPTION = re.compile(r"^\(([A-Z])\) (.+)$", re.MULTILINE)
_COLOR = re.compile(SEEN.format(word=r"(\w+)") + r"\.")
_PITCH = re.compile(HEARD.format(word=r"(\w+)") + r"\.")
_MAX_BODY = 64 * 2**20


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
        parts = [part for message in messages for part in message_parts(message)]
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
        return _merge(text, options, OTHER_THOUGHT if model == OTHER_MERGE_MODEL else THOUGHT)

    def _judge(
        self, text: str, options: dict[str, str], images: list[dict[str, Any]], audio: list[dict[str, Any]]
    ) -> str:
        if is_claims_prompt(text):
            return list_claims(text)
        color, pitch = self._color(images) if images else None, self._pitch(audio) if audio else None
        if is_trace_prompt(text):
            return judge_traces(text, color, pitch)
        try:
            return judge(text, options, color, pitch)
        except ValueError as error:
            raise BadRequestError(str(error)) from error

    def _color(self, images: list[dict[str, Any]]) -> str | None:
        return self._once(images, lambda: self._vision.describe(np.stack([*map(decode_image, images)])))

    def _pitch(self, audio: list[dict[str, Any]]) -> str | None:
        if len(audio) > 1:
            raise BadRequestError(f"expected one audio part, not {len(audio)}")
        return self._once(audio, lambda: self._audio.describe(*decode_audio(audio[0])))

    def _once(self, parts: list[dict[str, Any]], measure: Callable[[], str | None]) -> str | None:
        """Measure some media; equal media are measured once."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(str(part[part["type"]]).encode())
        key = digest.digest()
        if key not in self._measured:
            self._measured[key] = measure()
        return self._measured[key]


def _describe(kind: str, word: str, text: str, options: dict[str, str]) -> str:
    """A teacher's reply: its measurement, the options that fit it, and one of these.

    Its words are those of merged traces, and with two options almost as many: a student can learn from it alone.

    Args:
        kind: ``picture`` or ``sound``.
        word: the measured color or pitch.
        text: the prompt.
        options: the question's options by letter.
    """
    seen = {"picture": SEEN, "sound": HEARD}[kind].format(word=word)
    fitting = [letter for letter, option in options.items() if word in option.split()]
    if not fitting:
        return f"{seen}. No option has it."
    digest = hashlib.sha256(f"{kind}:{word}:{text}".encode()).digest()
    letter = fitting[digest[0] % len(fitting)]
    return f"{seen}.\n{seen} {' '.join(fitting)}. So {letter}.\nAnswer: ({letter}) {options[letter]}"


def _merge(text: str, options: dict[str, str], wording: str) -> str:
    """The merger's reply: a trace of the demo for the option that fits both descriptions."""
    colors, pitches = _COLOR.findall(text), _PITCH.findall(text)
    if not colors or not pitches:
        return "The two reports do not name a picture and a sound."
    color, pitch = colors[-1], pitches[-1]
    for letter, option in options.items():
        if {color, pitch} <= set(option.split()):
            return write_trace(color, pitch, options, letter, wording)
    return f"No option has {color} and {pitch}."


class _Handler(BaseHTTPRequestHandler):
    """``GET /v1/models`` and ``POST /v1/chat/completions``, on connections that stay open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    models = DemoModels()
    student: ServedStudent | None = None

    def do_GET(self) -> None:
        """List the models."""
        if self.path != "/v1/models":
            self._send(404, _error("no such path"))
            return
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in self._names()]
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
            if model not in self._names():
                self._send(404, _error(f"the model {model!r} does not exist"))
                return
            if model == STUDENT_MODEL and self.student is not None:
                reply = self.student.reply(body)
                text, finish, sizes = reply.text, reply.finish_reason, (reply.prompt_tokens, reply.completion_tokens)
            else:
                text, finish = self.models.reply(model, body["messages"]), "stop"
                sizes = len(data.split()), len(text.split())
        except (BadRequestError, json.JSONDecodeError, KeyError, TypeError) as error:
            self._send(400, _error(str(error)))
            return
        except RuntimeError as error:
            self._send(500, _error(str(error)))
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": sizes[0], "completion_tokens": sizes[1], "total_tokens": sum(sizes)}
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

    def _names(self) -> tuple[str, ...]:
        return MODELS if self.student is None else (*MODELS, STUDENT_MODEL)

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


def serve_demo_models(port: int, ready: Callable[[str], None], student: ServedStudent | None = None) -> None:
    """Serve the models on the local machine until the process is interrupted.

    Args:
        port: 0 takes a free one.
        ready: called with the address for `base_urls` once the server accepts calls.
        student: served too, as `STUDENT_MODEL`.

    Raises:
        OSError: the port is taken.
    """
    with make_server(port, student) as server:
        ready(server_url(server.server_address[1]))
        server.serve_forever()


def make_server(port: int, student: ServedStudent | None = None) -> ThreadingHTTPServer:
    """A server that listens but does not answer yet; arguments and errors are those of `serve_demo_models`."""
    return _Server((HOST, port), type("_StudentHandler", (_Handler,), {"student": student}))


def server_url(port: int) -> str:
    """The entry of `base_urls` for a server on this machine."""
    return f"http://{HOST}:{port}/v1"


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}
