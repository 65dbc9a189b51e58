"""Samples in shards of other tools. (Placeholder, to be replaced by the whole module.)"""

from __future__ import annotations

from typing import Any

from avrt.sample import Sample


def foreign_sample(members: dict[str, bytes], key: str, split: str) -> Sample:
    """One sample with its media, from the members of a shard of another tool."""
    raise ValueError(describe_members(set(members)))


def foreign_record(names: set[str], record: dict[str, Any] | None, key: str, split: str) -> Sample:
    """One sample without its media, from its members' names and its JSON member."""
    raise ValueError(describe_members(names))


def describe_members(names: set[str]) -> str:
    """Names the members of a sample that cannot be used."""
    found = ", ".join(f".{name}" for name in sorted(names))
    return f"made by another tool: members {found}; expected .json with a question, its frames and .flac"
