"""Damaged copies of real files: what storage, downloads and attackers do to bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

CHANGES = (1, 1, 1, 1, 2, 3, 8)
"""How many changes an input gets; many of them are all caught by the first check."""

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` after a few random changes; half of them near the beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.choice(CHANGES)):
        if changed:
            rng.choice(_CHANGES)(changed, rng)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(min(len(data), 2048) if rng.random() < 0.5 else len(data))


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] = rng.randrange(256)


def _number(data: bytearray, rng: random.Random) -> None:
    place, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    data[place : place + size] = (rng.choice(_NUMBERS) % (1 << (8 * size))).to_bytes(size, order)  # type: ignore[arg-type]


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.randint(1, 600)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.randint(1, 600)] * rng.choice((1, 1, 2, 20))


def _zeros(data: bytearray, rng: random.Random) -> None:
    place, size = _place(data, rng), rng.randint(1, 600)
    data[place : place + size] = bytes(size)


def _move(data: bytearray, rng: random.Random) -> None:
    place, size = _place(data, rng), rng.randint(1, 600)
    part = data[place : place + size]
    del data[place : place + size]
    target = rng.randint(0, len(data))
    data[target:target] = part


def _text(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    pieces = (
        b"{",
        b"}",
        b"[",
        b'"',
        b"\\",
        b"\n",
        b": ",
        b"null",
        b"-1",
        b"1e999",
        b"NaN",
        b"\xff\xfe",
        b"../",
        b"\x00",
    )
    data[place:place] = rng.choice(pieces) * rng.choice((1, 1, 1, 500))


_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _byte, _number, _cut, _remove, _repeat, _zeros, _move, _text),
)
