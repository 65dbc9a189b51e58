"""``export --push-to-hub`` with the Hub's own client, against a server that answers as the Hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from avrt.cli import main
from avrt.model.student_folder import MARKER

REPOSITORY, TOKEN = "owner/student", "hf_" + "a" * 34
COMMIT = "c" * 40


class Hub:
    """Repositories with the files of their newest commit; large files go through LFS's basic transfer."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads = 0
        self.messages: list[str] = []
        self.refuse_commits = False


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """No line per request."""

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer(self, content: object, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            data = self.body()
            assert self.path.removeprefix("/objects/") == hashlib.sha256(data).hexdigest()
            hub.objects[self.path.removeprefix("/objects/")] = data
            hub.uploads += 1
            self.answer({})

        def do_GET(self) -> None:
            self.answer({"error": "not found"}, 404)

        def do_POST(self) -> None:
            data = self.body()
            if self.path.startswith("/verify"):
                return self.answer({})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid credentials"}, 401)
            if self.path == "/api/repos/create":
                wanted = json.loads(data)
                name = f"{wanted['organization']}/{wanted['name']}"
                if name in hub.repositories:
                    return self.answer({"error": "exists", "url": f"{self.origin()}/{name}"}, 409)
                hub.repositories[name] = {}
                hub.private[name] = wanted.get("visibility") == "private"
                return self.answer({"url": f"{self.origin()}/{name}", "name": name})
            if self.path.startswith(f"/api/models/{REPOSITORY}/preupload/"):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in json.loads(data)["files"]
                ]
                return self.answer({"files": files})
            if self.path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
                return self.answer({"transfer": "basic", "objects": [self.lfs(o) for o in json.loads(data)["objects"]]})
            if self.path.startswith(f"/api/models/{REPOSITORY}/commit/"):
                if hub.refuse_commits:
                    return self.answer({"error": "quota exceeded"}, 403)
                return self.commit([json.loads(line) for line in data.decode().splitlines()])
            return self.answer({"error": self.path}, 404)

        def origin(self) -> str:
            return f"http://{self.headers['Host']}"

        def lfs(self, wanted: dict[str, object]) -> dict[str, object]:
            if wanted["oid"] in hub.objects:
                return wanted
            actions = {
                "upload": {"href": f"{self.origin()}/objects/{wanted['oid']}", "header": {}},
                "verify": {"href": f"{self.origin()}/verify", "header": {}},
            }
            return {**wanted, "actions": actions}

        def commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "file":
                    hub.repositories[REPOSITORY][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repositories[REPOSITORY][value["path"]] = hub.objects[value["oid"]]
            self.answer(
                {"commitUrl": f"{self.origin()}/{REPOSITORY}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The client reads its environment once, when it is imported.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # a binary protocol of the real Hub
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield state
    server.shutdown()
    server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARKER
    }


def test_an_exported_student_is_uploaded(layout_folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(layout_folder), "--push-to-hub", REPOSITORY]
    assert main([*words, "--private"]) == 0
    assert hub.repositories[REPOSITORY] == files_of(layout_folder)
    assert hub.private[REPOSITORY]
    assert len(hub.messages) == 1
    printed = "".join(capsys.readouterr())
    assert f"{REPOSITORY}/commit/{COMMIT}" in printed
    assert TOKEN not in printed
    sent = hub.uploads
    assert sent
    assert main(words) == 0  # the repository exists: one more commit, and no weights are sent again
    assert (len(hub.messages), hub.uploads) == (2, sent)


def test_refusals(
    layout_folder: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one line, and the token is in none of them."""

    def refused(words: list[str], *parts: str, status: int = 1) -> None:
        assert main(["export", *words]) == status
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(part in line for part in parts), line
        assert TOKEN not in line

    refused([str(layout_folder)], "--out", "--push-to-hub", status=2)
    refused([str(layout_folder), "--out", str(tmp_path / "out"), "--private"], "--private", status=2)
    for name in ("student", "owner/name/more", "owner/--student", "owner/st udent"):
        refused([str(layout_folder), "--push-to-hub", name], f"--push-to-hub {name}")
    (tmp_path / "empty").mkdir()
    refused([str(tmp_path / "empty"), "--push-to-hub", REPOSITORY], "is not an exported student")
    hub.refuse_commits = True
    refused([str(layout_folder), "--push-to-hub", REPOSITORY], "quota exceeded", "uploads it again")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)
    refused([str(layout_folder), "--push-to-hub", REPOSITORY], "401", "HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused([str(layout_folder), "--push-to-hub", REPOSITORY], f"--push-to-hub {REPOSITORY}", "127.0.0.1:9")
