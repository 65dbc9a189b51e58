"""A real browser for tests: headless Chromium, driven through the DevTools protocol over a pair of pipes.

``--remote-debugging-pipe`` speaks JSON messages ended by a zero byte on file descriptors 3 and 4: no network
port, no web socket, only the standard library.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 30.0


def find_chromium() -> str | None:
    """The browser's program: ``$AVRT_CHROMIUM``, or the first that is installed; None where there is none."""
    return os.environ.get("AVRT_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless Chromium.

    Attributes:
        log: errors of the page: exceptions, console errors, violations of its security policy.
        requests: addresses that the page loaded or tried to load.
    """

    def __init__(self, program: str, profile: Path, *, width: int = 1280, height: int = 800) -> None:
        self.log: list[str] = []
        self.requests: list[str] = []
        self._sequence = 0
        self._buffer = b""
        self._session: str | None = None
        arguments = [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        arguments += ["--disable-gpu", "--disable-dev-shm-usage", "--mute-audio", f"--window-size={width},{height}"]
        arguments += ["--autoplay-policy=no-user-gesture-required", "--no-first-run", "--disable-background-networking"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium's sandbox refuses to run as root, as in most containers
        commands, self._output = os.pipe()
        self._input, answers = os.pipe()
        # Copies with high numbers, so that neither has a number that the other one needs.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, answers)]
        silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)]
        self._pid = os.posix_spawn(program, [*arguments, "about:blank"], os.environ, file_actions=[*silent, *pipes])
        for end in (commands, answers, *high):
            os.close(end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result.

        Raises:
            RuntimeError: the browser refused it, or has ended.
            TimeoutError: no answer.
        """
        self._sequence += 1
        message: dict[str, Any] = {"id": self._sequence, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._output, data) :]
        end = time.monotonic() + TIMEOUT
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == self._sequence:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page (a promise is awaited) and return its JSON value.

        Raises:
            RuntimeError: the script threw an exception.
        """
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file, as a double click would, and wait until it is loaded."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.resolve().as_uri() + fragment)
        self.wait(f"location.href.startsWith({json.dumps(page.resolve().as_uri())}) && document.readyState=='complete'")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page.

        Raises:
            TimeoutError: it never is.
        """
        end = time.monotonic() + TIMEOUT
        # As a boolean: an element by value would be an empty object.
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true in the page: {condition}; it says: {self.log}")
            time.sleep(0.01)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        """Type into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the middle of the first element that matches, with the mouse."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def emulate(self, *, width: int = 1280, height: int = 800, dark: bool = False, media: str = "") -> None:
        """Set the window's size, the color scheme, and the medium (``print``)."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save the window (or the whole page) as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        with suppress(RuntimeError, TimeoutError, BrokenPipeError):
            self.call("Browser.close")
        self._wait(10)
        os.close(self._input)
        os.close(self._output)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, seconds: float) -> None:
        """Wait for the process, and kill it after a timeout."""
        end = time.monotonic() + seconds
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(0.01)

    def _receive(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._input], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{method}: the browser did not answer in {TIMEOUT:g} s")
            data = os.read(self._input, 1 << 20)
            if not data:
                raise RuntimeError(f"{method}: the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.log.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.log.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.log.append(str([argument.get("value") for argument in parameters["args"]]))
