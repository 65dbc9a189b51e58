"""Transfers from a web server that fails in every way it can."""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from avrt.storage.transfers import LEAST_BYTES, Retries, download, file_info
from tests.storage.http_server import (
    Files,
    Handler,
    answer,
    end_after,
    reset_after,
    serve,
    stall_after,
    trickle,
)

CONTENT = bytes(range(256)) * 4096  # 1 MiB
QUICK = Retries(attempts=3, timeout_seconds=0.6, first_wait_seconds=0.01, longest_wait_seconds=0.3)


@pytest.fixture
def files() -> Iterator[Files]:
    with serve(Files({"x.tar": CONTENT})) as files:
        yield files


def fetched(files: Files, path: Path, size: int = len(CONTENT), query: str = "") -> bytes:
    digest = download(files.url("x.tar") + query, path, size, QUICK)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    return path.read_bytes()


@pytest.mark.parametrize("fault", [reset_after(300_000), end_after(300_000), stall_after(300_000, 2.0)])
def test_a_broken_transfer_is_resumed_at_its_byte(files: Files, tmp_path: Path, fault) -> None:
    files.faults["x.tar"] = [fault]
    assert fetched(files, tmp_path / "x") == CONTENT
    assert files.asked("x.tar") == ["", "bytes=300000-"]
    assert files.sent["x.tar"] == len(CONTENT)


def test_bytes_of_an_earlier_process_are_not_fetched_again(files: Files, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT[:123_456])
    assert fetched(files, tmp_path / "x") == CONTENT
    assert files.asked("x.tar") == ["bytes=123456-"]


def test_a_server_without_ranges_is_read_from_the_start(files: Files, tmp_path: Path) -> None:
    files.has_ranges = False
    files.faults["x.tar"] = [end_after(300_000)]
    assert fetched(files, tmp_path / "x") == CONTENT
    assert len(files.asked("x.tar")) == 2


def test_a_file_that_is_replaced_meanwhile_is_read_from_the_start(files: Files, tmp_path: Path) -> None:
    def replaced(handler: Handler, content: bytes, begin: int) -> None:
        end_after(300_000)(handler, content, begin)
        files.content["x.tar"], files.etag = CONTENT[::-1], '"2"'

    files.faults["x.tar"] = [replaced]
    assert fetched(files, tmp_path / "x") == CONTENT[::-1]


def test_a_slow_transfer_is_broken_off(files: Files, tmp_path: Path) -> None:
    files.faults["x.tar"] = [trickle(1000, 0.1, 20.0)]
    started = time.monotonic()
    assert fetched(files, tmp_path / "x") == CONTENT
    assert time.monotonic() - started < 5
    assert files.sent["x.tar"] - len(CONTENT) < LEAST_BYTES


def test_progress_resets_the_count_of_failures(files: Files, tmp_path: Path) -> None:
    files.faults["x.tar"] = [end_after(LEAST_BYTES)] * 8
    assert fetched(files, tmp_path / "x") == CONTENT
    assert len(files.asked("x.tar")) == 9


def test_passing_statuses_are_tried_again(files: Files, tmp_path: Path) -> None:
    files.faults["x.tar"] = [answer(503), answer(429, Retry_After="1")]
    started = time.monotonic()
    assert fetched(files, tmp_path / "x") == CONTENT
    # The server asked for a second; the longest wait is shorter.
    assert 0.3 <= time.monotonic() - started < 1


def test_a_server_that_never_recovers_is_given_up(files: Files, tmp_path: Path) -> None:
    files.faults["x.tar"] = [answer(503)] * 9
    with pytest.raises(OSError, match=r"3 times.*HTTP 503") as raised:
        fetched(files, tmp_path / "x")
    assert raised.value.filename == files.url("x.tar")
    assert len(files.asked("x.tar")) == 3


def test_an_address_without_a_server_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"3 times.*Connect"):
        download("http://127.0.0.1:9/x.tar", tmp_path / "x", 10, QUICK)


@pytest.mark.parametrize(("code", "kind"), [(404, FileNotFoundError), (403, PermissionError), (400, OSError)])
def test_lasting_statuses_are_not_tried_again(files: Files, tmp_path: Path, code: int, kind: type[OSError]) -> None:
    files.faults["x.tar"] = [answer(code)] * 9
    with pytest.raises(kind, match=str(code)):
        fetched(files, tmp_path / "x")
    assert len(files.asked("x.tar")) == 1


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_size_is_refused(files: Files, tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        fetched(files, tmp_path / "x", size)


def test_secrets_of_a_url_are_in_no_message_and_no_log(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    files.address = files.address.replace("://", "://user:pass-word@")
    files.faults["x.tar"] = [answer(503), reset_after(10), answer(403)]
    query = "?X-Signature=se-cret"
    with pytest.raises(PermissionError) as raised:
        fetched(files, tmp_path / "x", query=query)  # this line is in the traceback
    texts = "\n".join([*caplog.messages, str(raised.value), *traceback.format_exception(raised.value)])
    assert "X-Signature=" in texts
    assert not any(secret in texts for secret in ("se-cret", "pass-word"))


@pytest.mark.parametrize("has_head", [True, False])
def test_size_and_version(files: Files, has_head: bool) -> None:
    files.has_head = has_head
    info = file_info(files.url("x.tar"), QUICK)
    assert (info.bytes, info.version) == (len(CONTENT), '"1"')
