"""Lists of ids as people and programs write them, and the samples of shards that they select."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avrt.data.id_lists import limit_samples, read_ids
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from tests.lightning_modules.training import write_shards
from tests.tiny_student import make_sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """10 samples in 3 shards."""
    return ShardSet(write_shards(tmp_path_factory.mktemp("s"), 10))


def write(path: Path, ids: list[str]) -> str:
    path.write_text("".join(f"{item}\n" for item in ids))
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb c\n",
        b"# made by hand\n  a \n\nb c",
        b"a\r\nb c\r\n",
        b"\xef\xbb\xbfa\r\nb c\r\n",  # Windows' Notepad
    ],
    ids=["plain", "comments", "Windows", "byte order mark"],
)
def test_ids_of_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    assert read_ids(path) == ["a", "b c"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a\nb\na\n", "lists 'a' twice"),
        (b"\n# none\n", "lists no ids"),
        ("a\n".encode("utf-16"), "is not a text in UTF-8"),  # PowerShell's redirection
    ],
)
def test_unusable_files(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"ids\.txt: {line}"):
        read_ids(path)


@settings(max_examples=40, deadline=None)
@given(only=st.none() | st.sets(st.integers(0, 9), min_size=1), never=st.none() | st.sets(st.integers(0, 9)))
def test_selected_samples(
    shards: ShardSet, tmp_path_factory: pytest.TempPathFactory, only: set[int] | None, never: set[int] | None
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    wanted = [i for i in range(10) if (only is None or i in only) and i not in (never or ())]
    files = [
        None
        if chosen is None
        else write(folder / f"{name}.txt", [shards.keys[i] for i in sorted(chosen, reverse=True)])
        for name, chosen in (("only", only), ("never", never or None))
    ]
    if not wanted:
        with pytest.raises(ValueError, match="drops every sample"):
            limit_samples(shards, *files)
        return
    found, notes = limit_samples(shards, *files)
    found = pickle.loads(pickle.dumps(found))  # as a data worker gets it
    assert found.keys == [shards.keys[i] for i in wanted]
    assert [found.metadata(i) for i in range(len(found))] == [shards.metadata(i) for i in wanted]
    assert [found.location(i) for i in range(len(found))] == [shards.location(i) for i in wanted]
    assert sum(found.shard_sizes) == len(found)
    assert (found.fingerprint == shards.fingerprint) == (len(wanted) == 10)
    assert (notes == []) == (only is None and not never)


def test_other_samples_have_another_fingerprint(shards: ShardSet) -> None:
    sets = [{shards.keys[i], shards.keys[j]} for i in range(4) for j in range(i)]
    assert len({shards.subset(keys).fingerprint for keys in sets}) == len(sets)
    assert shards.subset(set(shards.keys[:2])).fingerprint == shards.subset(set(shards.keys[1::-1])).fingerprint


def test_a_sample_reads_the_same(shards: ShardSet) -> None:
    one = shards.subset({shards.keys[7]})
    assert one.members(0) == shards.members(7)
    assert one.shard_sizes == [0, 1, 0]


def test_ids_that_the_shards_lack(shards: ShardSet, tmp_path: Path) -> None:
    larger = write(tmp_path / "larger.txt", [*shards.keys[:3], "elsewhere", "x y"])
    found, notes = limit_samples(shards, larger, None)
    assert len(found) == 3
    assert "2 of the 5 ids" in notes[0]
    assert "'elsewhere'" in notes[0]
    assert "3 of 10 samples" in notes[-1]
    other = write(tmp_path / "other.txt", ["elsewhere", "x y"])
    for settings_ in ((other, None), (None, other), ([larger, other], None)):
        with pytest.raises(ValueError, match=r"(only|never): none of the 2 ids in .*other\.txt.*'elsewhere'"):
            limit_samples(shards, *settings_)


def test_ids_of_another_split(tmp_path: Path) -> None:
    from dataclasses import replace

    with ShardWriter(tmp_path / "s") as writer:
        for number, split in enumerate(("train", "val", "train")):
            writer.write(replace(make_sample("audio", number, audio_seconds=0.1), split=split))
    both = ShardSet(tmp_path / "s")
    ids = write(tmp_path / "ids.txt", both.keys[:2])
    found, notes = limit_samples(ShardSet(tmp_path / "s", split="train"), ids, None)
    assert found.keys == both.keys[:1]
    assert "1 of the 2 ids" in notes[0]
    assert "split 'train'" in notes[0]


def test_several_files_are_one_list(shards: ShardSet, tmp_path: Path) -> None:
    files = [write(tmp_path / "a.txt", shards.keys[:3]), write(tmp_path / "b.txt", shards.keys[2:5])]
    assert limit_samples(shards, files, None)[0].keys == shards.keys[:5]
    assert limit_samples(shards, None, files)[0].keys == shards.keys[5:]


@pytest.mark.parametrize(
    ("only", "line"),
    [
        ("absent.txt", r"only: .*absent\.txt: No such file"),
        (".", r"only: \.: Is a directory"),
        ([], "only: is an empty"),
    ],
)
def test_files_that_cannot_be_read(shards: ShardSet, only: str | list[str], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        limit_samples(shards, only, None)
