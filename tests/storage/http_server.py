"""A web server on this machine that serves files from memory and can be told to fail."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", bytes, int], None]
"""Answers a GET request for a file in its own way: the handler, the file's content, the first byte asked for."""


@dataclass
class Files:
    """What a server has, and what it was asked for.

    Attributes:
        content: the files, by path.
        faults: what happens to the next GET requests for a path, in order; then it is served as it should be.
        has_ranges: whether ranges are honored.
        has_head: whether HEAD requests are answered.
        etag: the version of all files.
        address: the server's, without a slash at the end.
        requests: ``(method, path, Range header)`` in order.
        sent: bytes of bodies sent, by path.
    """

    content: dict[str, bytes]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    has_ranges: bool = True
    has_head: bool = True
    etag: str = '"1"'
    address: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def asked(self, path: str) -> list[str]:
        """The ranges of the GET requests for a file."""
        return [ranges for method, name, ranges in self.requests if method == "GET" and name.split("?")[0] == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Files

    def log_message(self, format: str, *args: object) -> None:
        """No line per request."""

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        path = self.path.split("?")[0].lstrip("/")
        ranges = self.headers.get("Range", "")
        self.files.requests.append((self.command, self.path.lstrip("/"), ranges))
        if is_head and not self.files.has_head:
            return self.status(405)
        content = self.files.content.get(path)
        if content is None:
            return self.status(404)
        if self.headers.get("If-Range", self.files.etag) != self.files.etag:
            ranges = ""
        begin = int(ranges.removeprefix("bytes=").partition("-")[0]) if ranges and self.files.has_ranges else 0
        faults = self.files.faults.get(path)
        if faults and not is_head:
            return faults.pop(0)(self, content, begin)
        return self.serve(content, begin, body=not is_head)

    def serve(self, content: bytes, begin: int = 0, *, most: int | None = None, body: bool = True) -> None:
        """Headers for a file from `begin` on, and its body, or at `most` so many bytes of it."""
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", self.files.etag)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.send(content[begin:] if most is None else content[begin : begin + most])

    def send(self, data: bytes) -> None:
        self.files.sent[self.path.split("?")[0].lstrip("/")] += len(data)
        self.wfile.write(data)

    def status(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reset(self) -> None:
        """Break the connection as a dying server does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def reset_after(count: int) -> Fault:
    """`count` bytes, then a connection reset."""

    def fault(handler: Handler, content: bytes, begin: int) -> None:
        handler.serve(content, begin, most=count)
        time.sleep(0.05)  # a reset overtakes what is on its way
        handler.reset()

    return fault


def end_after(count: int) -> Fault:
    """`count` bytes of a longer body, then the end of the connection."""

    def fault(handler: Handler, content: bytes, begin: int) -> None:
        handler.serve(content, begin, most=count)
        handler.close_connection = True

    return fault


def stall_after(count: int, seconds: float) -> Fault:
    """`count` bytes, then nothing for `seconds`."""

    def fault(handler: Handler, content: bytes, begin: int) -> None:
        handler.serve(content, begin, most=count)
        time.sleep(seconds)
        handler.close_connection = True

    return fault


def trickle(step: int, pause: float, seconds: float) -> Fault:
    """`step` bytes at a time, for `seconds`."""

    def fault(handler: Handler, content: bytes, begin: int) -> None:
        handler.serve(content, begin, body=False)
        stop = time.monotonic() + seconds
        handler.close_connection = True
        while time.monotonic() < stop:
            try:
                handler.send(content[begin : begin + step])
            except OSError:
                return
            begin += step
            time.sleep(pause)

    return fault


def answer(code: int, **headers: str) -> Fault:
    """An empty answer with a status."""
    return lambda handler, content, begin: handler.status(code, {k.replace("_", "-"): v for k, v in headers.items()})


def wrong_bytes(handler: Handler, content: bytes, begin: int) -> None:
    """Bytes of the right number that are not the file's."""
    handler.serve(bytes(len(content)), begin)


@contextmanager
def serve(files: Files) -> Iterator[Files]:
    """A running server; its address is in `files.address`."""
    handler = type("FilesHandler", (Handler,), {"files": files})

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has closed its connection is not reported."""

    server = Server(("127.0.0.1", 0), handler)
    files.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
