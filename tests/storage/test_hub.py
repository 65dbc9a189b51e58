"""``hf://`` through the Hub's own client, from a server that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONTENT = bytes(range(256)) * 200
COMMIT, BLOB = "a" * 40, "b" * 40
REPOSITORY = "datasets/owner/name"

PROGRAM = """
import hashlib, json, sys
from avrt.storage.locations import expand, is_folder, read_bytes
from avrt.storage.shard_cache import ShardCache, ShardFile
from avrt.storage.transfers import Retries, file_info

folder, place = sys.argv[1], "hf://datasets/owner/name"
cache = ShardCache(folder, retries=Retries(attempts=2, first_wait_seconds=0.01))
try:
    read_bytes(f"{place}/none.json")
    missing = None
except FileNotFoundError as error:
    missing = error.filename
found = cache.local_path(ShardFile(f"{place}/a.tar")).read_bytes()
print(json.dumps([
    hashlib.sha256(read_bytes(f"{place}/a.tar")).hexdigest(), expand(f"{place}/*.tar"), is_folder(place), missing,
    hashlib.sha256(found).hexdigest(), file_info(f"{place}/a.tar").version,
]))
"""


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """No line per request."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        if path == f"api/{REPOSITORY}/tree/main":
            self.answer(json.dumps([{"type": "file", "oid": BLOB, "size": len(CONTENT), "path": "a.tar"}]).encode())
        elif path == f"api/{REPOSITORY}":
            self.answer(json.dumps({"id": "owner/name", "sha": COMMIT}).encode())
        elif path == f"{REPOSITORY}/resolve/main/a.tar":
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            self.answer(CONTENT[int(first) : int(last or len(CONTENT)) + 1])
        else:
            self.answer(b"", 404)

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_repository_is_listed_and_read(hub: str, tmp_path: Path) -> None:
    # The client reads its settings when it is imported.
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "cache")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(CONTENT).hexdigest()
    place = f"hf://{REPOSITORY}"
    assert json.loads(done.stdout) == [digest, [f"{place}/a.tar"], True, f"{place}/none.json", digest, BLOB]
