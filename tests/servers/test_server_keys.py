"""Keys reach a server from the environment only: everything else in its settings is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from avrt.servers.config import ServerConfig
from avrt.servers.presets import PRESETS

KEY = "Zq7-Xk2_Vm9Wd4Ty6"
LIMIT = {"max_tokens": 8}


def config(**changes: Any) -> ServerConfig:
    return ServerConfig(**{"base_urls": ["http://h/v1"], "model": "m", "sampling": LIMIT, **changes})


@pytest.mark.parametrize(
    ("sampling", "name"),
    [
        ({"api_key": "x"}, "sampling.api_key"),
        ({"extra_headers": {"Authorization": "x"}}, "sampling.extra_headers"),
        ({"extra_body": {"headers": {}}}, "sampling.extra_body.headers"),
        ({"mm": [{"Authorization": "x"}]}, "sampling.mm.Authorization"),
        ({"user": f"Bearer {KEY}"}, "sampling.user"),
        ({"user": f"sk-{KEY}"}, "sampling.user"),
        ({"stop": ["a", f"hf_{KEY}"]}, "sampling.stop"),
        ({f"sk-{KEY}": 1}, "sampling"),
        ({"x-api-key": "x"}, "sampling.x-api-key"),
        ({"extra_body": {"u": f"https://h/?key=sk-{KEY}"}}, "sampling.extra_body.u"),
    ],
)
def test_what_looks_like_a_key_is_refused_and_not_repeated(sampling: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: looks like a key") as caught:
        config(sampling=LIMIT | sampling).check()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "place", [{"sampling": LIMIT | {"user": f"me {KEY}"}}, {"model": f"{KEY}/m"}, {"revision": KEY}]
)
def test_the_key_itself_is_refused_in_every_setting(monkeypatch: pytest.MonkeyPatch, place: dict[str, Any]) -> None:
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")
    with pytest.raises(ValueError, match=rf"^{next(iter(place))}: contains the key itself") as caught:
        config(api_key_env="TEST_KEY", **place).check()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "place",
    [{"base_urls": [f"https://h/sk-proj-{KEY}/v1"]}, {"model": f"sk-proj-{KEY}"}, {"revision": f"Bearer sk-{KEY}"}],
)
def test_what_looks_like_a_key_is_refused_in_addresses_and_names(place: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(place))}: contains what looks like a key") as caught:
        config(**place).check()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "model", ["hf-internal-testing/tiny-random-Qwen2", "org/task-specialized-omni-model", "pk_tiny"]
)
def test_ordinary_names_pass(model: str) -> None:
    config(model=model).check()


def test_ordinary_parameters_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "EMPTY")  # a server without keys
    ordinary = {
        "stop_token_ids": [1],
        "min_tokens": 1,
        "logit_bias": {"50256": -100},
        "chat_template_kwargs": {"enable_thinking": False},
        "extra_body": {"top_k": 3},
        "skip_special_tokens": False,
        "stop": ["Basically", "sketch-like"],
    }
    config(sampling=LIMIT | ordinary, model="EMPTY", api_key_env="TEST_KEY").check()
    for preset in PRESETS.values():
        config(sampling=LIMIT | dict(preset.sampling)).check()


@pytest.mark.parametrize("value", ["käy-0123456789", "two words", "tab\tinside"])
def test_a_value_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TEST_KEY", value)
    with pytest.raises(ValueError, match=r"^api_key_env: the environment variable TEST_KEY has characters") as caught:
        config(api_key_env="TEST_KEY").read_api_key()
    assert value not in str(caught.value)


def test_a_line_break_behind_the_key_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    assert config(api_key_env="TEST_KEY").read_api_key() == KEY


def test_a_key_in_place_of_the_variable_is_not_repeated() -> None:
    """Keys without a dash have the form of a name."""
    with pytest.raises(ValueError, match=r"^api_key_env: the environment variable that it names is not set"):
        config(api_key_env="hf_AbCdEfGh0123456789").read_api_key()
