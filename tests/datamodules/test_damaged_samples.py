"""Damaged training samples: others in their place, the same for any workers and devices, up to a share."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avrt.data.faults import FaultReason, ShardError
from avrt.data.manifest import read_manifest, write_manifest
from avrt.data.records import encode_clip
from avrt.data.shards import ShardSet
from avrt.data.writer import OpenShard
from avrt.storage.shard_cache import ShardCache
from datamodules.damage import check_damaged_share
from datamodules.order import Place, SampleOrder
from datamodules.sources import open_sources
from datamodules.streaming import EncodedSamples
from datamodules.windows import WindowLoader
from tests.lightning_modules.training import write_shards
from tests.tiny_student import load_student

COUNT = 20


def at(folder: Path, number: int) -> tuple[Path, int, int]:
    """The shard of a sample, and where the sample begins and ends in it."""
    shards = ShardSet(folder)
    return Path(shards.location(number)), *shards._span(number)


def overwrite(folder: Path, number: int, find: bytes, offset: int, data: bytes) -> None:
    path, begin, end = at(folder, number)
    content = bytearray(path.read_bytes())
    place = content.index(find, begin, end) + offset
    content[place : place + len(data)] = data
    path.write_bytes(content)


def flip(folder: Path) -> None:
    """One bit of an image."""
    path, begin, end = at(folder, 5)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT", begin, end) + 20] ^= 1
    path.write_bytes(content)


def lose_member(folder: Path) -> None:
    """The first image is under another name, with a right header: the sample lacks it."""
    path, begin, end = at(folder, 5)
    content = bytearray(path.read_bytes())
    place = content.index(b".frame00.png", begin, end)
    header = begin + (place - begin) // 512 * 512
    info = tarfile.TarInfo.frombuf(bytes(content[header : header + 512]), "utf-8", "strict")
    info.name = info.name.replace("frame00", "frame77")
    content[header : header + 512] = info.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(content)


def undecodable(folder: Path) -> None:
    """Garbage for an image, with right checksums everywhere."""
    shards = ShardSet(folder)
    summaries = list(read_manifest(folder).shards)
    wanted = shards.shard_of(5)
    with OpenShard(Path(shards.files[wanted].location)) as shard:
        for number in range(len(shards)):
            if shards.shard_of(number) == wanted:
                clip = shards[number].clip
                assert clip is not None
                encoded = encode_clip(clip, image_format="png")
                if number == 5:
                    broken = {n: d[:60] if n.startswith("frame") else d for n, d in encoded.members.items()}
                    encoded = replace(encoded, members=broken)
                shard.write(shards[number], encoded)
    assert shard.summary is not None
    summaries[wanted] = shard.summary
    write_manifest(folder, replace(read_manifest(folder), shards=tuple(summaries)))


def truncate(folder: Path) -> None:
    """The shard ends inside its last sample."""
    path, begin, _ = at(folder, 7)
    path.write_bytes(path.read_bytes()[: begin + 1100])


KINDS: dict[str, tuple[Callable[[Path], None], int, FaultReason]] = {
    "bit flip": (flip, 5, FaultReason.CHECKSUM),
    "tar header": (lambda f: overwrite(f, 5, b"ustar", -100, b"zzz"), 5, FaultReason.NOT_A_TAR),
    "bad JSON": (lambda f: overwrite(f, 5, b'"answer"', 0, b"{"), 5, FaultReason.BAD_JSON),
    "missing member": (lose_member, 5, FaultReason.MISSING_MEMBER),
    "undecodable media": (undecodable, 5, FaultReason.BAD_MEDIA),
    "truncated shard": (truncate, 7, FaultReason.TRUNCATED),
}
"""How to damage a set, the number of the damaged sample, and what is reported."""


@pytest.fixture(scope="module")
def encoder(student_folder: Path) -> Any:
    return load_student(student_folder).encoder


def loader(folder: Path, encoder: Any, share: float = 0.05, **settings: Any) -> WindowLoader:
    samples = open_sources(str(folder), None, ShardCache(), "data.train", share)
    order = samples.order(seed=5, shuffle=True, shuffle_shards=2)
    reader = EncodedSamples(samples, encoder, order=order if share else None, max_damaged_share=share)
    fixed = {"micro_batch_size": 1, "micro_batches": 4, "fingerprint": samples.fingerprint}
    return WindowLoader(reader, order, **{**fixed, **settings})


def ids(batches: Any) -> list[str]:
    return [prompt.sample.id for batch in batches for prompt in batch.prompts]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage(tmp_path: Path, encoder: Any, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    folder = write_shards(tmp_path / "s", COUNT)
    clean = ids(loader(folder, encoder))
    damage, number, reason = KINDS[kind]
    damage(folder)
    bad = ShardSet(folder, on_error="defer").keys[number]
    one = loader(folder, encoder, num_workers=2)
    with caplog.at_level(logging.WARNING):
        found = ids(one)
    assert [a == b for a, b in zip(found, clean, strict=True)] == [key != bad for key in clean]
    assert bad not in found
    assert one.damaged.count == 1
    lines = [line for line in caplog.messages if "damaged, left out" in line]
    assert len(lines) == 1
    assert bad in lines[0]
    assert reason.value in lines[0]
    # The other one is far away: never in the same step as itself.
    place = clean.index(bad)
    assert found[place] not in clean[place // 4 * 4 : place // 4 * 4 + 4]
    with pytest.raises(ShardError):
        ids(loader(folder, encoder, share=0.0))
    with pytest.raises(ShardError, match=bad):
        ids(loader(folder, encoder, share=0.04, num_workers=1))  # less than one of 20


def test_same_for_any_workers_devices_and_resume(tmp_path: Path, encoder: Any) -> None:
    folder = write_shards(tmp_path / "s", COUNT)
    flip(folder)
    whole = ids(batch for one in [loader(folder, encoder)] for _ in range(2) for batch in one)
    for workers in (1, 3):
        one = loader(folder, encoder, num_workers=workers)
        assert ids(batch for _ in range(2) for batch in one) == whole
        assert one.damaged.count == one.damaged.committed == 2
    stopped = loader(folder, encoder, num_workers=2)
    seen = []
    for batch in stopped:
        seen.append(batch)
        if len(seen) == 12:
            break
    resumed = loader(folder, encoder)
    resumed.load_state_dict(stopped.state_dict())
    rest = ids(batch for _ in range(2) for batch in resumed)
    assert (ids(seen) + rest)[: len(whole)] == whole
    devices = [loader(folder, encoder, micro_batches=2, rank=rank, world_size=2) for rank in range(2)]
    read = [list(device) for device in devices]
    for window in range(COUNT // 4):
        both = [i for device in read for i in ids(device[2 * window : 2 * window + 2])]
        assert sorted(both) == sorted(whole[4 * window : 4 * window + 4])
    assert sum(device.damaged.count for device in devices) == 1


def test_an_unfinished_window_is_counted_once(tmp_path: Path, encoder: Any) -> None:
    folder = write_shards(tmp_path / "s", COUNT)
    flip(folder)
    one = loader(folder, encoder, num_iterations=2)
    batches = iter(one)
    while not one.damaged.count:
        next(batches)
    assert one.damaged.committed == 0
    again = loader(folder, encoder, num_iterations=2)
    again.load_state_dict(one.state_dict())
    for _ in again:
        pass
    assert again.damaged.count == again.damaged.committed == 1


def test_a_shard_without_manifest(tmp_path: Path, encoder: Any) -> None:
    """One bad sample is left out; where nobody knows how many are lost, the run stops."""
    folder = write_shards(tmp_path / "s", COUNT)
    overwrite(folder, 5, b'"answer"', 0, b"{")
    (folder / "manifest.json").unlink()
    shards = str(folder / "*.tar")
    assert len(open_sources(shards, None, ShardCache(), "data.train", 0.05)) == COUNT - 1
    with pytest.raises(ShardError, match="bad_json"):
        open_sources(shards, None, ShardCache(), "data.train", 0.04)
    path = folder / "shard-000002.tar"
    content = path.read_bytes()
    for data in (content[:3000], content + content):  # truncated; two tars joined
        path.write_bytes(data)
        with pytest.raises(ShardError, match=r"shard-000002.*(truncated|trailing_data)"):
            open_sources(shards, None, ShardCache(), "data.train", 0.5)


def test_joined_tars_beside_a_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path / "s", COUNT)
    path = folder / "shard-000002.tar"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ShardError, match="not_in_manifest"):
        open_sources(str(folder), None, ShardCache(), "data.train")
    assert len(open_sources(str(folder), None, ShardCache(), "data.train", 0.05)) == COUNT
    assert "not_in_manifest" in caplog.text


def test_others_are_the_rest_of_the_pass() -> None:
    order = SampleOrder([[4, 4], [3]], [1.0, 1.0], seed=1, shuffle_shards=1)
    for sample, stream in ((5, range(8)), (9, range(8, 11))):
        others = list(order.others(Place(sample, 3)))
        assert sorted(place.sample for place in others) == [i for i in stream if i != sample]
        assert {place.epoch for place in others} == {3}


def test_the_share_is_that_of_the_passes_begun() -> None:
    for damaged, seen in ((1, 4), (1, 100), (2, 101), (2, 200), (3, 201)):
        check_damaged_share(damaged, seen, 100, 0.01)
    for damaged, seen in ((2, 100), (3, 200)):
        with pytest.raises(ValueError, match="max_damaged_share"):
            check_damaged_share(damaged, seen, 100, 0.01)
