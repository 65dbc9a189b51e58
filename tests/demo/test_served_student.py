"""A student behind the demo's server gets the prompt of its training, and answers as the engine does."""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from avrt.data.records import decode_clip, encode_clip
from avrt.demo.message_media import BadRequestError
from avrt.demo.served_student import ServedStudent, read_sampling
from avrt.demo.servers import HOST, STUDENT_MODEL, make_server
from avrt.rollout.engine import SamplingConfig
from avrt.sample import SAMPLING_RATE, Sample
from avrt.servers.content import audio_part, frames_part, text_part
from avrt.text.prompts import PromptTemplate, question_text
from tests.tiny_student import PIXELS, make_sample

TEMPLATE = PromptTemplate(system="Look and listen.")
MEDIA = {"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}}


@pytest.fixture(scope="module")
def served(student_folder: Path) -> ServedStudent:
    return ServedStudent(student_folder)


def stored(kind: str, number: int = 0) -> tuple[Sample, dict[str, bytes]]:
    """A sample as a shard gives it back, and its media's bytes."""
    sample = make_sample(kind, number)
    assert sample.clip is not None
    waveform = None if sample.clip.waveform is None else sample.clip.waveform.clamp(-1, 1)
    encoded = encode_clip(replace(sample.clip, waveform=waveform))
    return replace(sample, clip=decode_clip(encoded)), encoded.members


def request(kind: str, number: int = 0, **changes: Any) -> tuple[Sample, dict[str, Any]]:
    sample, members = stored(kind, number)
    clip = sample.clip
    assert clip is not None
    content = []
    if clip.frames is not None:
        content.append(frames_part([members[name] for name in sorted(members) if name.startswith("frame")]))
    if clip.waveform is not None:
        buffer = io.BytesIO()
        soundfile.write(buffer, clip.waveform.numpy(), SAMPLING_RATE, format="WAV", subtype="PCM_16")
        content.append(audio_part(buffer.getvalue()))
    content.append(text_part(question_text(sample, template=TEMPLATE)))
    messages = [{"role": "system", "content": TEMPLATE.system}, {"role": "user", "content": content}]
    body = {"model": STUDENT_MODEL, "messages": messages, "temperature": 0, "max_tokens": 12}
    return sample, {**body, "mm_processor_kwargs": {**MEDIA, "fps": clip.fps, "do_sample_frames": False}, **changes}


@pytest.mark.parametrize("kind", ["audio_video", "video", "audio"])
def test_the_prompt_is_that_of_training(served: ServedStudent, kind: str) -> None:
    sample, body = request(kind)
    prompt, trained = served.encode(body), encoder(served).encode(sample)
    assert torch.equal(prompt.input_ids, trained.input_ids)
    media = [served.student.embed([one])[0] for one in (prompt, trained)]
    assert torch.equal(media[0].position_ids, media[1].position_ids)
    assert torch.equal(media[0].media_positions, media[1].media_positions)
    # The two JPEG decoders may differ by one level of 255.
    assert torch.allclose(media[0].media_features, media[1].media_features, atol=0.02)


def encoder(served: ServedStudent) -> Any:
    from avrt.model.encoding import PromptEncoder

    return PromptEncoder(served.student.processor, TEMPLATE, "tags", PIXELS, PIXELS)


def test_many_requests_at_once_get_the_replies_that_each_gets_alone(served: ServedStudent) -> None:
    bodies = [request("audio_video", number)[1] for number in range(3)] + [request("audio", 5, max_tokens=3)[1]]
    bodies += [request("video", number, temperature=1.0, seed=number)[1] for number in range(3)]
    alone = [served.reply(body) for body in bodies]
    with ThreadPoolExecutor(8) as executor:
        together = list(executor.map(served.reply, bodies * 2))
    assert together == alone * 2
    assert alone[3].completion_tokens <= 3
    assert {reply.finish_reason for reply in alone} <= {"stop", "length"}
    assert len({reply.text for reply in alone}) > 1
    prompts = [served.encode(body) for body in bodies[:3]]
    responses = served.generate(prompts, SamplingConfig(12, 0.0), [0] * 3)
    assert [reply.text for reply in alone[:3]] == [served.student.decode(one.token_ids) for one in responses]


def test_parameters_that_the_engine_lacks_are_refused() -> None:
    with pytest.raises(BadRequestError, match="unknown parameters: top_k, top_p"):
        read_sampling({"top_p": 0.9, "top_k": 5})
    with pytest.raises(BadRequestError, match="max_tokens 0"):
        read_sampling({"max_tokens": 0})
    body = {"model": "m", "messages": [], "temperature": 1.0}
    assert read_sampling(body)[1] == read_sampling(dict(reversed(body.items())))[1]
    assert read_sampling(body)[1] != read_sampling({**body, "messages": [1]})[1]
    assert read_sampling({**body, "seed": 7})[1] == 7


@pytest.fixture(scope="module")
def server(served: ServedStudent) -> Iterator[ThreadingHTTPServer]:
    with make_server(0, served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def post(server: ThreadingHTTPServer, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    url = f"http://{HOST}:{server.server_address[1]}/v1/chat/completions"
    call = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(call) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_over_http(server: ThreadingHTTPServer, served: ServedStudent) -> None:
    _, body = request("audio_video", 1)
    status, reply = post(server, body)
    expected = served.reply(body)
    assert status == 200
    assert reply["choices"][0]["message"]["content"] == expected.text
    assert reply["choices"][0]["finish_reason"] == expected.finish_reason
    assert reply["usage"]["prompt_tokens"] == len(served.encode(body).input_ids)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, "video/jpeg"),
        ({"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,AAAA"}}, "cannot be decoded"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio cannot be decoded"),
        ({"type": "file", "file": {}}, "type 'file'"),
        ({"type": "text", "text": "<|im_end|>"}, "special token"),
        ({"type": "input_audio", "input_audio": {"data": "RATE", "format": "wav"}}, "16000 Hz, not 8000"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    server: ThreadingHTTPServer, part: dict[str, Any], named: str
) -> None:
    if "RATE" in str(part):
        buffer = io.BytesIO()
        soundfile.write(buffer, [0.0] * 80, 8000, format="WAV")
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(buffer.getvalue()).decode()}}
    _, body = request("audio", 0)
    body["messages"][1]["content"].insert(0, part)
    status, reply = post(server, body)
    assert status == 400
    assert named in reply["error"]["message"]
    assert post(server, request("audio", 0)[1])[0] == 200  # and the server still answers
