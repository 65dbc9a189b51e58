"""The settings of a group of model servers, and the model that they offer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar
from urllib.parse import urlsplit

from avrt.config.numbers import PositiveFloat, PositiveInt
from avrt.servers.presets import PRESETS, Preset
from avrt.servers.redaction import MIN_KEY_LENGTH


@dataclass(frozen=True)
class Model:
    """A model as it is called.

    Attributes:
        name: name under which the servers offer it.
        revision: its commit, as recorded.
        sampling: every parameter that is sent.
        suffix: sentence that must end the prompt.
        serve: command that starts a server for it, for error messages; empty if unknown.
    """

    name: str
    revision: str
    sampling: Mapping[str, Any]
    suffix: str = ""
    serve: str = ""

    def complete(self, prompt: str) -> str:
        """A prompt with the sentence that must end it."""
        return f"{prompt}\n{self.suffix}" if self.suffix else prompt


@dataclass
class ServerConfig:
    """A group of OpenAI-compatible servers that offer the same model.

    Attributes:
        base_urls: addresses of the servers, each ending in ``/v1``; calls are spread over all of them.
        preset: name of a known model, which fills in `model`, `sampling` and the sentence that must end its prompts;
            null if the first two are given.
        model: name under which the servers offer the model.
        revision: the model's commit, for the record; part of the key by which a recorded call is found again.
        sampling: parameters of every call; overrides the preset's, and null removes one of them.
        api_key_env: name of the environment variable that holds the servers' key. The key itself is never in a file.
        max_concurrency: calls in flight at each address; lowered automatically while a server is overloaded.
        request_timeout_seconds: time for one attempt, from the first byte sent to the last byte received.
        max_attempts: attempts per call before it is left to the next run.
        backoff_seconds, max_backoff_seconds: pause after the first failure, doubled after each further one, and its
            maximum.
        server_wait_seconds: how long to wait while no address answers, before the run stops.
    """

    MAY_TRANSCRIBE: ClassVar[bool] = False

    base_urls: list[str]
    preset: str | None = None
    model: str | None = None
    revision: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    api_key_env: str | None = None
    max_concurrency: PositiveInt = 64
    request_timeout_seconds: PositiveFloat = 600.0
    max_attempts: PositiveInt = 6
    backoff_seconds: PositiveFloat = 0.5
    max_backoff_seconds: PositiveFloat = 60.0
    server_wait_seconds: PositiveFloat = 1800.0

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: names the key within these settings. It never repeats a value that may be a secret.
        """
        if not self.base_urls:
            raise ValueError("base_urls: give at least one server address, such as http://localhost:8000/v1")
        if len(set(self.base_urls)) != len(self.base_urls):
            raise ValueError("base_urls: lists an address twice")
        for number, url in enumerate(self.base_urls):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"base_urls[{number}]: must look like http://host:8000/v1")
            if parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError(
                    f"base_urls[{number}]: must not contain a user, password or query; put the key into an environment "
                    "variable and name it in api_key_env"
                )
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("api_key_env: must be the name of an environment variable, not a key")
        self._check_no_key()
        if self.is_transcriber and not self.MAY_TRANSCRIBE:
            raise ValueError(f"preset: {self.preset!r} writes down speech and answers no question; choose another")
        self.resolve_model()

    def _check_no_key(self) -> None:
        """Refuse a key where it would be written into manifests, records and logs."""
        key = os.environ.get(self.api_key_env or "", "").strip()
        for shown in ("base_urls", "preset", "model", "revision"):
            if _SECRET_VALUE.search(str(getattr(self, shown))):
                raise ValueError(
                    f"{shown}: contains what looks like a key, and settings are recorded; put the key into an "
                    "environment variable and name it in api_key_env"
                )
        if name := _secret_in(self.sampling, "sampling"):
            raise ValueError(
                f"{name}: looks like a key or a header, and sampling parameters are recorded; put the key into an "
                "environment variable and name it in api_key_env"
            )
        for setting in fields(self):
            if len(key) >= MIN_KEY_LENGTH and key in repr(getattr(self, setting.name)):
                raise ValueError(
                    f"{setting.name}: contains the key itself, and settings are recorded; remove it, api_key_env is "
                    "enough"
                )

    def resolve_model(self) -> Model:
        """The model to call.

        Raises:
            ValueError: an unknown preset, no model, no token limit, or a parameter that a call cannot have.
        """
        preset = self.known_preset() or Preset(model="", inputs="AV")
        name = self.model or preset.model
        if not name:
            raise ValueError(
                f"model: give the name under which the servers offer the model, or a preset ({', '.join(PRESETS)})"
            )
        sampling = checked_sampling({**preset.sampling, **self.sampling}, token_limit=not self.is_transcriber)
        return Model(name, self.revision, sampling, preset.suffix, preset.serve)

    @property
    def is_transcriber(self) -> bool:
        """Whether the model writes down speech and answers no question."""
        preset = self.known_preset()
        return preset is not None and preset.transcribes

    def known_preset(self) -> Preset | None:
        """The preset that these settings name, or None.

        Raises:
            ValueError: there is none of that name.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset: {self.preset!r} is none of {', '.join(PRESETS)}")
        return None if self.preset is None else PRESETS[self.preset]

    def read_api_key(self) -> str | None:
        """The servers' key from the environment, or None where no variable is named.

        Raises:
            ValueError: the variable is not set, or its value cannot be sent.
        """
        if self.api_key_env is None:
            return None
        # Names of variables are upper case by custom; a key in place of a name is not repeated.
        name = self.api_key_env if self.api_key_env.isupper() else "that it names"
        key = os.environ.get(self.api_key_env, "").strip()  # files that keys are read from end in a line break
        if not key:
            raise ValueError(f"api_key_env: the environment variable {name} is not set")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(f"api_key_env: the environment variable {name} has characters that no key has")
        return key


_SECRET_NAME = re.compile(
    r"(x[_-])?(api|access|secret|private|auth)[_-]?(key|token)|authorization|password|passwd|secret|bearer|credentials?"
    r"|token|cookie|(extra[_-]?)?headers?",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(^|(?<=[^A-Za-z0-9]))([Bb](earer|asic)\s|(sk|pk|xai|nvapi)-[\w-]{16,}|(sk|pk|gsk|hf|ghp|r8)_[\w-]{16,}"
    r"|(AKIA|AIza)[\w-]{12,})"
)


def _secret_in(value: Any, name: str) -> str:
    """The key below `name` of a parameter whose name or value is a secret's; empty if there is none."""
    if isinstance(value, str):
        return name if _SECRET_VALUE.search(value) else ""
    if isinstance(value, Mapping):
        for key, child in value.items():
            inner = f"{name}.{key}"
            if _SECRET_VALUE.search(str(key)):
                return name
            if found := inner if _SECRET_NAME.fullmatch(str(key)) else _secret_in(child, inner):
                return found
    elif isinstance(value, list | tuple):
        return next((found for item in value if (found := _secret_in(item, name))), "")
    return ""


def checked_sampling(sampling: Mapping[str, Any], *, token_limit: bool = True) -> dict[str, Any]:
    """The parameters of a call, sorted, without those that are None.

    Args:
        token_limit: whether there must be a ``max_tokens``.

    Raises:
        ValueError: no token limit, or a parameter that a call cannot have.
    """
    chosen = {key: value for key, value in sorted(sampling.items()) if value is not None}
    limit = chosen.get("max_tokens")
    if token_limit and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(
            f"sampling.max_tokens: must be a whole number above 0, got {limit!r}; servers' own defaults may cut "
            "replies after 16 tokens"
        )
    if chosen.get("n", 1) != 1 or chosen.get("stream"):
        raise ValueError("sampling: `n` must be 1 and `stream` false, because a call has one reply that is read whole")
    if reserved := sorted({"model", "messages", "file"} & set(chosen)):
        raise ValueError(f"sampling: must not contain {', '.join(reserved)}")
    return chosen


@contextmanager
def under_key(key: str) -> Iterator[None]:
    """Put a key in front of the errors of these settings: ``base_urls: ...`` becomes ``vision.base_urls: ...``."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from error
