"""What a training run and its rollout servers send each other: tensors as safetensors, everything else as JSON.

A request to ``/generate`` is one safetensors file: the media are its tensors, and its metadata holds the settings. No
pickle is involved on either side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from avrt.rollout.engine import Response

SETTINGS = "request"
"""Key of a request's metadata."""


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt and how to sample from it.

    Attributes:
        prompt: in vLLM's form, see `avrt.rollout.vllm.inputs.vllm_prompt`, with tensors instead of pictures and arrays.
        n: responses.
        temperature, seed, max_tokens: see vLLM's `SamplingParams`.
        stop_token_ids: tokens that end a response.
        version: names the weights to sample with; a server with others refuses.
    """

    prompt: dict[str, Any]
    n: int
    temperature: float
    seed: int
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    version: str

    def to_bytes(self) -> bytes:
        tensors: dict[str, Tensor] = {}
        media = {}
        for kind, items in self.prompt.get("multi_modal_data", {}).items():
            media[kind] = len(items)
            tensors |= {f"{kind}.{number}": item.contiguous() for number, item in enumerate(items)}
        settings = asdict(self) | {"prompt": {**self.prompt, "multi_modal_data": media}}
        # A file without tensors is not a safetensors file.
        return save(tensors or {"none": torch.zeros(1)}, {SETTINGS: json.dumps(settings)})

    @classmethod
    def from_bytes(cls, body: bytes) -> GenerateRequest:
        """Read a request.

        Raises:
            ValueError: it is not one.
        """
        try:
            tensors = load(body)
            length = int.from_bytes(body[:8], "little")
            settings = json.loads(json.loads(body[8 : 8 + length])["__metadata__"][SETTINGS])
            prompt = settings["prompt"]
            media = {
                kind: [tensors[f"{kind}.{number}"] for number in range(count)]
                for kind, count in prompt.pop("multi_modal_data").items()
            }
            if media:
                prompt["multi_modal_data"] = media
            return cls(**settings | {"prompt": prompt, "stop_token_ids": tuple(settings["stop_token_ids"])})
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a request of a training run: {type(error).__name__}: {error}") from error


ROUNDING = 1e-3
"""What a log-probability may be above 0."""


@dataclass(frozen=True)
class Reply:
    """A server's answer to a `GenerateRequest`.

    Attributes:
        prompt_token_ids: the prompt as vLLM read it.
        responses: n of them.
        version: names the weights that they were sampled with.
    """

    prompt_token_ids: list[int]
    responses: list[Response]
    version: str

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_token_ids": self.prompt_token_ids,
            "responses": [
                {"token_ids": r.token_ids.tolist(), "logprobs": r.logprobs.tolist(), "finished": r.finished}
                for r in self.responses
            ],
            "version": self.version,
        }

    @classmethod
    def from_json(cls, content: Any, n: int, max_tokens: int, vocabulary: int) -> Reply:
        """Read a reply.

        Args:
            n: responses that it must have.
            max_tokens: tokens that each may have.
            vocabulary: token ids are below it.

        Raises:
            ValueError: it is something else.
        """
        try:
            responses = [_response(entry, max_tokens, vocabulary) for entry in content["responses"]]
            reply = cls(_tokens(content["prompt_token_ids"], vocabulary), responses, str(content["version"]))
        except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise ValueError(f"not the reply of a rollout server ({type(error).__name__}: {error})") from error
        if len(responses) != n:
            raise ValueError(f"the reply of the rollout server has {len(responses)} responses instead of {n}")
        return reply


def _response(entry: Mapping[str, Any], max_tokens: int, vocabulary: int) -> Response:
    tokens, logprobs, finished = _tokens(entry["token_ids"], vocabulary), entry["logprobs"], entry["finished"]
    if not 1 <= len(tokens) <= max_tokens or len(tokens) != len(logprobs):
        raise ValueError(f"{len(tokens)} tokens of at most {max_tokens}, with {len(logprobs)} log-probabilities")
    values = torch.tensor([float(value) for value in logprobs], dtype=torch.float32)
    if not bool((values.isfinite() & (values <= ROUNDING)).all()):
        raise ValueError("a log-probability is not finite, or above 0")
    if not isinstance(finished, bool):
        raise ValueError(f"finished is {finished!r}")
    return Response(torch.tensor(tokens, dtype=torch.long), values, finished)


def _tokens(values: Any, vocabulary: int) -> list[int]:
    if not all(type(value) is int and 0 <= value < vocabulary for value in values):
        raise ValueError("a token id is none of the vocabulary")
    return list(values)
