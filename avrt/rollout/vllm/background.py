"""A coroutine that runs beside the process's main thread, with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs a coroutine in a thread.

    Args:
        coroutine: what to run; it begins at once.
        name: of the thread.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], name: str) -> None:
        self._outcome: Future[T] = Future()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(coroutine)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._loop.run_until_complete(self._task))
        except asyncio.CancelledError:
            self._outcome.set_exception(CancelledError())
        except BaseException as error:  # noqa: BLE001 (raised where the result is asked for)
            self._outcome.set_exception(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def result(self) -> T:
        """Wait for the coroutine's result, or raise what it raised; as often as it is called."""
        return self._outcome.result()

    def ready(self, seconds: float) -> bool:
        """Wait at most so long; whether it has ended."""
        return bool(wait([self._outcome], seconds).done)

    def cancel(self) -> None:
        """Cancel the coroutine, and wait until its thread has ended."""
        with contextlib.suppress(RuntimeError):  # its loop is closed already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
