"""What users may write as a location, and how it is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from avrt.storage.addresses import filesystem, parent_and_name, without_secrets
from avrt.storage.locations import expand, is_folder, is_remote, join, read_bytes, shown
from avrt.storage.transfers import Retries
from tests.storage.http_server import Files, answer, serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("shard-000001.tar", "shard-000000.tar", "odd[1].tar", "a{b}.tar", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "shard-000002.tar").write_bytes(b"deep")
    return tmp_path


def test_local_patterns(folder: Path) -> None:
    def names(*patterns: str) -> list[str]:
        return [str(Path(found).relative_to(folder)) for found in expand([f"{folder}/{name}" for name in patterns])]

    assert names("shard-*.tar") == ["shard-000000.tar", "shard-000001.tar"]
    assert names("**/shard-*.tar") == ["deep/shard-000002.tar", "shard-000000.tar", "shard-000001.tar"]
    assert names("shard-{000000..000002}.tar")[1:] == ["shard-000001.tar", "shard-000002.tar"]
    assert names("{notes.txt,shard-*1.tar}") == ["notes.txt", "shard-000001.tar"]
    # An existing file is meant, whatever its name looks like; what does not exist is the reader's to report.
    assert names("odd[1].tar", "a{b}.tar", "none.tar") == ["odd[1].tar", "a{b}.tar", "none.tar"]
    assert expand(folder) == expand(f"file://{folder}") == [str(folder)]
    with pytest.raises(ValueError, match=r"\*\.zip.*no file matches"):
        expand(f"{folder}/*.zip")
    with pytest.raises(ValueError, match="brace"):
        expand(f"{folder}/shard-{{0..1.tar")


def test_web_patterns() -> None:
    assert expand("https://host/a/shard-{08..11}.tar?key=1") == [
        f"https://host/a/shard-{number}.tar?key=1" for number in ("08", "09", "10", "11")
    ]
    for pattern in ("https://host/a/*.tar?sig=se-cret", "http://host/shard-[0-9].tar"):
        with pytest.raises(ValueError, match=r"shard-\{000000") as raised:
            expand(pattern)
        assert "se-cret" not in str(raised.value)


@pytest.mark.parametrize(
    "location",
    [
        "pipe://cat /etc/passwd",
        "reference://x",
        "simplecache::s3://bucket/x",
        "s3::zip://x",
        "zip://a.tar::https://host/x.zip",
        "file::zip://x",
        "sftp://host/x",
        "local://x",
        "git://x",
        "data://x",
        "github://x",
        "FTP://user:pass-word@host/x",
    ],
)
def test_other_schemes_are_refused(location: str) -> None:
    for use in (is_remote, expand, is_folder, read_bytes):
        with pytest.raises(ValueError, match="are not read") as raised:
            use(location)
        assert "pass-word" not in str(raised.value)


def test_a_command_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("pipe:touch made", "pipe:touch made |"):
        assert expand(command) == [command]
        with pytest.raises(FileNotFoundError):
            read_bytes(command)
    assert not (tmp_path / "made").exists()


def test_remote_or_local() -> None:
    assert [is_remote(name) for name in ("s3://b/x", "HTTPS://h/x", "hf://datasets/o/n/x", "gs://b")] == [True] * 4
    assert [is_remote(name) for name in ("a/b", "file:///a/b", Path("a"), "c:x.tar")] == [False] * 4
    assert [is_folder(name) for name in ("https://h/set", "https://h/set/", "https://h/x.tar?a=b.c")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("folder", "joined"),
    [
        ("s3://bucket/a/", "s3://bucket/a/x.tar"),
        ("https://host/a?sig=1&b=2", "https://host/a/x.tar?sig=1&b=2"),
        ("https://host", "https://host/x.tar"),
        ("/a/b/", "/a/b/x.tar"),
        ("file:///a", "/a/x.tar"),
    ],
)
def test_join(folder: str, joined: str) -> None:
    assert join(folder, "x.tar") == joined
    parent, name = parent_and_name(joined)
    assert (join(parent, name), name) == (joined, "x.tar")


def test_shown() -> None:
    assert shown("https://me:pass@host:8000/a@b?sig=x%3D&e=5") == "https://***@host:8000/a@b?sig=***&e=***"
    assert shown("s3://key:secret@bucket/a?b=c") == "s3://***@bucket/a?b=c"
    assert shown("/a/b?c=d") == "/a/b?c=d"
    location = "https://me:pass@host/a?sig=hidden"
    text = without_secrets(f"cannot read {location}: redirected to https://you:other@else/?t=hidden2", location)
    assert not any(secret in text for secret in ("pass", "hidden", "other"))


def test_small_files_are_retried() -> None:
    quick = Retries(attempts=3, first_wait_seconds=0.01)
    with serve(Files({"manifest.json": b"{}"}, faults={"manifest.json": [answer(503), answer(502)]})) as files:
        assert read_bytes(files.url("manifest.json"), quick) == b"{}"
        with pytest.raises(FileNotFoundError) as raised:
            read_bytes(files.url("none.json"), quick)
        assert raised.value.filename == files.url("none.json")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=r'pip install "avrt\[gs\]"'):
        filesystem("gs://bucket/x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r'pip install "avrt\[s3\]"'):
        read_bytes("s3://bucket-that-nothing-read/x")


def test_hugging_face_needs_no_other_package() -> None:
    fs, path = filesystem("hf://datasets/owner/name/a.parquet")
    assert type(fs).__name__ == "HfFileSystem"
    assert path == "datasets/owner/name/a.parquet"


def test_reading_urls_loads_no_cloud_library() -> None:
    code = "import sys, avrt.storage.shard_cache; print([m for m in ('s3fs', 'botocore', 'gcsfs') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
