"""What a training run and its rollout servers send each other: tensors as safetensors, everything else as JSON.

A request to ``/generate`` is one safetensors file: the media are its tensors, and its metadata holds the settings. No
pickle is involved on either side.
"""

from __future__ import annotations

import json
import math
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
    def from_json(cls, content: Any, n: int) -> Reply:
        """Read a reply.

        Raises:
            ValueError: it is not one with `n` responses.
        """
        try:
            responses = [_response(entry) for entry in content["responses"]]
            reply = cls([int(token) for token in content["prompt_token_ids"]], responses, str(content["version"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the reply of a rollout server ({type(error).__name__}: {error})") from error
        if len(responses) != n:
            raise ValueError(f"the reply of the rollout server has {len(responses)} responses instead of {n}")
        return reply


def _response(entry: Mapping[str, Any]) -> Response:
    tokens, logprobs = entry["token_ids"], entry["logprobs"]
    if not tokens or len(tokens) != len(logprobs):
        raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in logprobs):
        raise ValueError("a log-probability is not finite")
    return Response(
        torch.tensor(tokens, dtype=torch.long), torch.tensor(logprobs, dtype=torch.float32), bool(entry["finished"])
    )
