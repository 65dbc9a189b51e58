"""Durability, one writer, incomplete lines, full disks."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.files.folder_lock import FolderInUseError, FolderLock
from avrt.servers.outcome import Status
from avrt.traces.call_records import CallRecord, decode_record, encode_record
from avrt.traces.ledger import LedgerError, LedgerIndex, LedgerWriter


def record(key: str, status: Status = Status.OK, text: str = "x") -> CallRecord:
    return CallRecord(key=key, stage="vision", sample=key, status=status, text=text, model="m", revision="r")


def write(folder: Path, *records: CallRecord, name: str = "calls") -> None:
    async def main() -> None:
        async with LedgerWriter(folder, name) as writer:
            await asyncio.gather(*(writer.append(item) for item in records))

    asyncio.run(main())


def test_a_record_survives_encoding_and_decoding() -> None:
    text = 'a "quote", a line\nend, ◁think▷, \u2028 and \U0001f600'
    original = CallRecord(
        key="k",
        stage="audio",
        sample="s",
        status=Status.LENGTH,
        text=text,
        reasoning="t",
        finish_reason="length",
        usage={"prompt_tokens": 3},
        latency=0.25,
        attempts=2,
        model="m",
        revision="r",
        error="e",
    )
    line = encode_record(original)
    assert line.count(b"\n") == 1
    assert decode_record(line) == original


def test_the_bytes_of_a_line_are_those_of_earlier_versions() -> None:
    """Ledgers are shared between versions: names, order and checksum must not change."""
    line = encode_record(record("k"))
    assert line == (
        b'{"key":"k","stage":"vision","sample":"k","status":"ok","text":"x","reasoning":"","finish_reason":"",'
        b'"usage":{},"latency":0.0,"attempts":1,"model":"m","revision":"r","error":"","crc32":3605002647}\n'
    )


@pytest.mark.parametrize("position", [0, 10, 40, -3, -10])
def test_a_changed_byte_is_noticed(position: int) -> None:
    line = bytearray(encode_record(record("k")))
    line[position] ^= 4
    with pytest.raises(ValueError):
        decode_record(bytes(line))


def test_records_are_found_again_by_key(tmp_path: Path) -> None:
    write(tmp_path, *(record(f"k{i}", text=f"text {i}") for i in range(200)))
    index = LedgerIndex(tmp_path)
    assert len(index) == 200
    assert index.status("k7") is Status.OK
    assert (found := index.get("k123")) is not None
    assert found.text == "text 123"
    assert index.status("other") is None
    assert index.get("other") is None


def test_every_confirmed_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    async def main() -> None:
        async with LedgerWriter(tmp_path) as writer:
            for i in range(5):
                await writer.append(record(f"k{i}"))
                assert (tmp_path / "calls.jsonl").read_bytes().count(b"\n") == i + 1

    asyncio.run(main())


@pytest.mark.parametrize("incomplete", [b"{", b'{"key":"half","stage":"vi', encode_record(record("whole"))[:-1]])
def test_an_incomplete_last_line_was_never_written(tmp_path: Path, incomplete: bytes) -> None:
    write(tmp_path, record("a"))
    with open(tmp_path / "calls.jsonl", "ab") as file:
        file.write(incomplete)
    assert len(LedgerIndex(tmp_path)) == 1
    write(tmp_path, record("b"))
    index = LedgerIndex(tmp_path)
    assert index.status("a") is Status.OK
    assert index.status("b") is Status.OK
    assert len(index) == 2


def test_a_file_with_only_an_incomplete_line_starts_over(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_bytes(b"x" * 200_000)
    write(tmp_path, record("a"))
    assert len(LedgerIndex(tmp_path)) == 1


def test_damage_inside_the_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, record("a"), record("b"), record("c"))
    path = tmp_path / "calls.jsonl"
    data = bytearray(path.read_bytes())
    second = data.index(b"\n") + 1
    data[second + 5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(LedgerError, match=rf"calls\.jsonl: the record at byte {second} is damaged"):
        LedgerIndex(tmp_path)


def test_the_first_reply_counts_and_giving_up_does_not(tmp_path: Path) -> None:
    write(tmp_path, record("k", Status.GAVE_UP), record("k", Status.OK, "first"), record("k", Status.OK, "second"))
    write(tmp_path, record("r", Status.REJECTED), record("r", Status.OK, "later"), record("r", Status.GAVE_UP))
    index = LedgerIndex(tmp_path)
    assert (found := index.get("k")) is not None
    assert found.text == "first"
    assert index.status("r") is Status.OK


def test_several_files_are_one_ledger(tmp_path: Path) -> None:
    write(tmp_path, record("a"), name="vision-1")
    write(tmp_path, record("b"), name="vision-0")
    assert {key for key in "ab" if LedgerIndex(tmp_path).status(key)} == {"a", "b"}


@pytest.mark.timeout(40)
def test_a_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    """Another process holds the lock; the refusal must not wait for it."""
    code = (
        "import asyncio, sys, time\n"
        "from avrt.files.folder_lock import FolderLock\n"
        "from avrt.traces.ledger import LedgerWriter\n"
        "from pathlib import Path\n"
        "async def main():\n"
        "    with FolderLock(sys.argv[1], 'traces'):\n"
        "        async with LedgerWriter(sys.argv[1]):\n"
        "            print('locked', flush=True)\n"
        "            time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with (
            pytest.raises(FolderInUseError, match=f"traces.*process {holder.pid}"),
            FolderLock(tmp_path, "traces"),
        ):
            pass
        with pytest.raises(FolderInUseError, match=f"process {holder.pid}"):
            write(tmp_path, record("a"))
    finally:
        holder.kill()
        holder.wait()
    with FolderLock(tmp_path, "traces"):
        write(tmp_path, record("a"))


def test_a_full_disk_stops_with_a_clear_error_and_nothing_half_written(tmp_path: Path) -> None:
    """The file may grow to 2000 bytes, as on a full disk; afterwards there is room again.

    With `-B`, for Python would write truncated bytecode of what it imports under that limit.
    """
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tests.traces.test_ledger import record, write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    for i in range(100): write(Path(sys.argv[1]), record(f'k{i}', text='y' * 100))\n"
        "except OSError as error:\n"
        "    print(error); sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "make room and run the same command again" in done.stdout
    assert "calls.jsonl" in done.stdout
    path = tmp_path / "calls.jsonl"
    data = path.read_bytes()
    assert 0 < len(data) <= 2000
    assert data.endswith(b"\n"), "half a record was left in the file"
    written = len(LedgerIndex(tmp_path))
    write(tmp_path, *(record(f"k{i}") for i in range(written, 100)))
    assert len(LedgerIndex(tmp_path)) == 100


def test_all_waiting_calls_fail_on_a_full_disk(tmp_path: Path) -> None:
    async def main() -> list[BaseException | None]:
        async with LedgerWriter(tmp_path) as writer:
            await writer.append(record("fits"))
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            size = os.path.getsize(tmp_path / "calls.jsonl")
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
            try:
                return await asyncio.gather(*(writer.append(record(f"k{i}")) for i in range(8)), return_exceptions=True)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    results = asyncio.run(main())
    assert all(isinstance(result, OSError) for result in results)
    assert len(LedgerIndex(tmp_path)) == 1
