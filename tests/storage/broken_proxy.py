"""A TCP proxy that cuts connections in the middle of what a server sends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        address: where it listens.
        cuts: bytes after which the next connections to the server are cut, one each; without one, none is.
        done: the cuts that were made.
    """

    address: str = ""
    cuts: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)


@contextmanager
def proxy_to(server: str) -> Iterator[Proxy]:
    """A proxy to a server such as ``http://127.0.0.1:5000``."""
    host, _, port = server.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def forward(source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if most is not None and passed + len(data) > most:
                    target.sendall(data[: most - passed])
                    proxy.done.append(most)
                    break
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                upstream = socket.create_connection((host, int(port)))
                most = proxy.cuts.pop(0) if proxy.cuts else None
                threading.Thread(target=forward, args=(client, upstream, None), daemon=True).start()
                threading.Thread(target=forward, args=(upstream, client, most), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield proxy
    finally:
        listener.close()
