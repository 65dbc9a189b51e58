"""Option letters inside the options' own text: ``A. cat``, ``(B) dog``, ``c: bird``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from avrt.sample import LETTERS

_LABELED_OPTION = re.compile(r"\s*\(?([A-Za-z])\s*[.):]\s*(.*)", re.DOTALL)


def strip_labels(options: Sequence[Any]) -> tuple[str, ...]:
    """Options without their letters: ``["A. cat", "B. dog"]`` to ``("cat", "dog")``.

    Raises:
        ValueError: an option does not begin with its own letter.
    """
    texts = []
    for letter, option in zip(LETTERS, options, strict=False):
        text = _without_label(letter, option)
        if text is None:
            raise ValueError(f"option {option!r} does not begin with its letter, {letter!r}")
        texts.append(text)
    return tuple(texts)


def unlabeled(options: Sequence[str]) -> tuple[str, ...]:
    """Options without their letters where every one begins with its own; else as they are.

    Raises:
        ValueError: most options but not all begin with their own letter, or all letters occur in another order: the
            letters that a prompt adds would contradict them.
    """
    if not options or len(options) > len(LETTERS):
        return tuple(options)
    texts = [_without_label(letter, option) for letter, option in zip(LETTERS, options, strict=False)]
    stripped = tuple(text for text in texts if text is not None)
    if len(stripped) == len(options):
        if not all(stripped):
            raise ValueError(f"the options {list(options)} are letters without a text")
        return stripped
    matches = [_LABELED_OPTION.fullmatch(option) for option in options]
    letters = sorted(match[1].upper() for match in matches if match is not None)
    if 2 * len(stripped) > len(options) or letters == list(LETTERS[: len(options)]):
        raise ValueError(
            f"some of the options {list(options)} begin with their letter and others do not, or with another one; "
            "remove the letters, or give every option its own"
        )
    return tuple(options)


def _without_label(letter: str, option: Any) -> str | None:
    """The option's text after its letter; None where it does not begin with it."""
    match = _LABELED_OPTION.fullmatch(str(option))
    return match[2].strip() if match is not None and match[1].upper() == letter else None
