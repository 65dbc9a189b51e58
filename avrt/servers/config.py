"""The settings of a group of model servers, and the model that they offer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from avrt.servers.presets import PRESETS

Stage = Literal["vision", "audio", "merge"]
Transport = Literal["data", "file"]


@dataclass
class StageConfig:
    """Who answers one stage's calls, and how they are asked.

    Attributes:
        base_urls: addresses of the servers, each ending in ``/v1``; the stage's calls are spread over all of them.
        preset: name of a known model, which fills in `model` and `sampling`; null if both are given.
        model: name under which the servers offer the model; the preset's by default.
        revision: the model's commit, for the record; part of what makes two calls the same.
        sampling: parameters of every call, laid over the preset's; null takes one of the preset's away.
        prompt_file: text file with a prompt of your own; see `avrt.traces.prompts` for its placeholders.
        api_key_env: name of the environment variable with the servers' key; the key itself never stands in a file.
        max_concurrency: calls under way at each address; lowered by itself while a server is overloaded.
        request_timeout_seconds: time for one attempt, from the first byte sent to the last received.
        max_attempts: attempts per call before it is given up until the next run.
        backoff_seconds, max_backoff_seconds: pause after the first failure, doubled each time, and its bound.
        server_wait_seconds: how long to wait while no address answers, before the run stops.
        transport: ``data`` sends media inside the request; ``file`` as ``file://`` addresses of copies in `media_dir`,
            for vLLM servers that share the disk (``--allowed-local-media-path``).
        media_dir: folder of these copies.
    """

    base_urls: list[str]
    preset: str | None = None
    model: str | None = None
    revision: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    prompt_file: str | None = None
    api_key_env: str | None = None
    max_concurrency: int = 64
    request_timeout_seconds: float = 600.0
    max_attempts: int = 6
    backoff_seconds: float = 0.5
    max_backoff_seconds: float = 60.0
    server_wait_seconds: float = 1800.0
    transport: Transport = "data"
    media_dir: str | None = None


@dataclass(frozen=True)
class Model:
    """A stage's model with preset and config put together.

    Attributes:
        name, revision: as sent and recorded.
        sampling: every parameter that is sent.
        suffix: sentence that closes the prompt.
    """

    name: str
    revision: str
    sampling: Mapping[str, Any]
    suffix: str = ""


def resolve_model(stage: Stage, config: StageConfig) -> Model:
    """Put a stage's preset and settings together.

    Raises:
        ValueError: an unknown preset, one that is not for this stage, no model, no token limit, or a parameter that a
            call cannot have.
    """
    preset = None
    if config.preset is not None:
        preset = PRESETS.get(config.preset)
        if preset is None:
            raise ValueError(f"{stage}.preset: {config.preset!r} is none of {', '.join(PRESETS)}")
        if stage not in preset.stages:
            raise ValueError(f"{stage}.preset: {config.preset!r} is a model for {', '.join(preset.stages)}")
    name = config.model or (preset.model if preset else None)
    if not name:
        raise ValueError(f"{stage}.model: give the model's name, or a preset ({', '.join(PRESETS)})")
    merged = {**(preset.sampling if preset else {}), **config.sampling}
    sampling = {key: value for key, value in merged.items() if value is not None}
    limit = sampling.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(
            f"{stage}.sampling.max_tokens: must be a whole number, 1 or more, is {limit!r}; servers' own defaults may "
            "cut replies after 16 tokens"
        )
    if sampling.get("n", 1) != 1 or sampling.get("stream"):
        raise ValueError(f"{stage}.sampling: `n` must be 1 and `stream` false: a call has one reply, read as a whole")
    if reserved := sorted({"model", "messages"} & set(sampling)):
        raise ValueError(f"{stage}.sampling: must not hold {', '.join(reserved)}; set {stage}.model or prompt_file")
    return Model(name, config.revision, dict(sorted(sampling.items())), preset.suffix if preset else "")


def api_key(stage: Stage, config: StageConfig) -> str | None:
    """The servers' key out of the environment, or None where no variable is named.

    Raises:
        ValueError: the variable is not set.
    """
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "")
    if not key:
        raise ValueError(f"{stage}.api_key_env: the environment variable {config.api_key_env} is not set")
    return key


def check_stage(stage: str, config: StageConfig) -> None:
    """Find what cannot work in one stage's settings.

    Args:
        stage: the key that the settings stand under, for messages.

    Raises:
        ValueError: as `check_config`.
    """
    if not config.base_urls:
        raise ValueError(f"{stage}.base_urls: give at least one server address, such as http://localhost:8000/v1")
    if len(set(config.base_urls)) != len(config.base_urls):
        raise ValueError(f"{stage}.base_urls: an address stands there twice")
    for number, url in enumerate(config.base_urls):
        parts = urlsplit(url)
        # The address itself is not repeated: a wrong one may carry a key.
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{stage}.base_urls[{number}]: must look like http://host:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"{stage}.base_urls[{number}]: must hold no user, password or query; name an environment variable in "
                f"{stage}.api_key_env instead"
            )
    if config.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", config.api_key_env):
        raise ValueError(f"{stage}.api_key_env: must be the name of an environment variable, not a key")
    for name in ("max_concurrency", "max_attempts"):
        if getattr(config, name) < 1:
            raise ValueError(f"{stage}.{name}: must be 1 or more, is {getattr(config, name)}")
    for name in ("request_timeout_seconds", "backoff_seconds", "max_backoff_seconds", "server_wait_seconds"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{stage}.{name}: must be above 0, is {getattr(config, name)}")
    if config.transport == "file" and not config.media_dir:
        raise ValueError(f"{stage}.media_dir: give a folder that the servers see, for transport 'file'")
    if config.prompt_file is not None and not Path(config.prompt_file).is_file():
        raise ValueError(f"{stage}.prompt_file: {config.prompt_file} is no file")
