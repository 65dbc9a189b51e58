"""Accuracy by earlier success, against a plain recomputation, and its state."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avrt.rollout.prompt_history import PromptHistory, prompt_key
from avrt.sample import Completion, Sample

G = 4


def responses(key: str, right: int, source: str = "clip", total: int = G) -> list[Completion]:
    """`total` responses to one prompt, the first `right` of them right."""
    sample = Sample(key, "?", ("dog", "cat"), 1, source=source)
    return [Completion(sample, f"<think>x</think><answer>{'B' if i < right else 'A'}</answer>") for i in range(total)]


def window(*prompts: tuple[str, int]) -> list[Completion]:
    return [done for key, right in prompts for done in responses(key, right)]


def note(history: PromptHistory, *prompts: tuple[str, int]) -> dict[str, float]:
    """One whole window on one device."""
    found = history.note(window(*prompts), G, torch.Tensor.cpu)
    history.commit()
    return found


def test_by_hand() -> None:
    history = PromptHistory()
    assert note(history, ("a", 0), ("b", 1), ("c", 4)) == {"accuracy/new": 5 / 12}
    assert note(history, ("a", 2), ("b", 4), ("c", 3), ("d", 0)) == {
        "accuracy/new": 0.0,
        "accuracy/repeated_none_right": 0.5,
        "accuracy/repeated_some_right": 1.0,
        "accuracy/repeated_all_right": 0.75,
    }
    # The last pass counts: a and c are now right in some, b in all, d in none of their responses.
    assert note(history, ("a", 4), ("c", 4), ("b", 2), ("d", 1)) == {
        "accuracy/repeated_none_right": 0.25,
        "accuracy/repeated_some_right": 1.0,
        "accuracy/repeated_all_right": 0.5,
    }
    assert len(history) == 4


@settings(max_examples=60, deadline=None)
@given(
    windows=st.lists(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, G)), min_size=4, max_size=4), max_size=5
    ),
    cut=st.integers(0, 5),
)
def test_devices_and_resumes_change_nothing(windows: list[list[tuple[str, int]]], cut: int) -> None:
    alone, resumed = PromptHistory(), PromptHistory()
    pair = [PromptHistory(), PromptHistory()]
    seen: dict[str, tuple[int, int]] = {}
    for number, prompts in enumerate(windows):
        if number == cut:
            saved = io.BytesIO()
            torch.save(resumed.state_dict(), saved)
            saved.seek(0)
            resumed = PromptHistory()
            resumed.load_state_dict(torch.load(saved, weights_only=True))
        kinds: dict[str, list[int]] = {}
        for key, right in prompts:
            before = seen.get(key)
            kind = "new" if before is None else {0: "none", before[1]: "all"}.get(before[0], "some")
            kinds.setdefault(kind, []).append(right)
        expected = {
            f"accuracy/{'new' if kind == 'new' else f'repeated_{kind}_right'}": sum(rights) / (G * len(rights))
            for kind, rights in kinds.items()
        }
        for key in {key for key, _ in prompts}:
            rights = [right for k, right in prompts if k == key]
            seen[key] = sum(rights), G * len(rights)
        assert note(alone, *prompts) == note(resumed, *prompts) == pytest.approx(expected)
        table = torch.cat([rows_of(prompts[rank::2]) for rank in range(2)])  # as windows are divided over devices
        for history in pair:
            assert history.note([], G, lambda rows, table=table: table) == pytest.approx(expected)
            history.commit()
    assert same(alone.state_dict(), resumed.state_dict())
    sorted_rows = [
        sorted(zip(*(value.tolist() for value in h.state_dict().values()), strict=True)) for h in (alone, *pair)
    ]
    assert sorted_rows[0] == sorted_rows[1] == sorted_rows[2]


def rows_of(prompts: list[tuple[str, int]]) -> torch.Tensor:
    """A device's own part of what is gathered."""
    found: list[torch.Tensor] = []
    PromptHistory().note(window(*prompts), G, lambda rows: found.append(rows) or rows)
    return found[0]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_a_window_that_is_rolled_out_again() -> None:
    """A run may stop between two optimizer steps on one window; the checkpoint of the first must not have it."""
    history = PromptHistory()
    note(history, ("a", 4))
    state = history.state_dict()
    first = history.note(window(("a", 1), ("b", 0)), G, torch.Tensor.cpu)
    assert same(history.state_dict(), state)
    assert history.note(window(("a", 1), ("b", 0)), G, torch.Tensor.cpu) == first
    history.commit()
    history.commit()
    assert len(history) == 2


def test_prompts_are_told_apart_by_id_and_clip() -> None:
    """Two sources may each count their ids from 0; the order of the options does not matter."""
    keys = [prompt_key(Sample(key, "?", ("a", "b"), 0, source=clip)) for key in ("0", "1") for clip in ("x", "y")]
    assert len(set(keys)) == 4
    assert all(0 <= key < 2**63 for key in keys)
    assert keys[0] == prompt_key(Sample("0", "?", ("b", "a"), 1, source="x"))


def test_the_size_of_the_state() -> None:
    history = PromptHistory()
    for first in range(0, 4000, 500):
        note(history, *((f"sample-{first + i}", i % 5) for i in range(500)))
    state = history.state_dict()
    assert sum(value.numel() * value.element_size() for value in state.values()) == 16 * 4000
