"""A web server with shards that fails at random: ``python -m tests.soak.storage_server FOLDER PORT SEED``.

Half of its answers to GET are wrong: 500, 503 with Retry-After, a reset, half a body, a stall, or a trickle. The soak
kills it and starts it again on its port.
"""

from __future__ import annotations

import random
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.storage.http_server import Fault, Files, Handler, answer, end_after, reset_after, stall_after, trickle

FAULTY_SHARE = 0.5

LONG_STALL_SECONDS = 40.0
"""Longer than a client waits (30 s)."""


def draw_fault(rng: random.Random, size: int) -> Fault:
    """One of the faults; `size` is the file's."""
    sent = rng.randrange(size)
    stall = LONG_STALL_SECONDS if rng.random() < 0.05 else rng.uniform(0.5, 4)
    return rng.choice(
        (
            answer(500),
            answer(503, Retry_After="1"),
            answer(429),
            reset_after(sent),
            end_after(sent),
            stall_after(sent, stall),
            trickle(1 << 14, 0.05, rng.uniform(0.5, 2)),
        )
    )


def main() -> None:
    folder, port, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    content = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lock = threading.Lock()

    class FaultyHandler(Handler):
        files = Files(content)

        def do_GET(self) -> None:
            path = self.path.split("?")[0].lstrip("/")
            with lock:
                if path in content and rng.random() < FAULTY_SHARE:
                    self.files.faults.setdefault(path, []).append(draw_fault(rng, len(content[path])))
            super().do_GET()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has closed its connection is not reported."""

    with Server(("127.0.0.1", port), FaultyHandler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
