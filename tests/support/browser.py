"""Headless Chromium by its DevTools protocol over two pipes (--remote-debugging-pipe): JSON messages, each ended by a zero byte."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium-headless-shell"
PATIENCE = 60.0


def find() -> str | None:
    """The browser's path, None where there is none."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """A page in a browser of its own.

    Attributes:
        errors: exceptions and error messages of the page, as the console would show them.
        requests: addresses that were asked for, the page's own included.
    """

    def __init__(self, binary: str, profile: Path, width: int = 1400, height: int = 1000) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run",
            "--disable-dev-shm-usage", f"--user-data-dir={profile}", f"--window-size={width},{height}",
        ]  # fmt: skip

        def arrange() -> None:
            """In the child: the pipes are descriptors 3 and 4."""
            commands, answers = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_read, to_write))
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self._process = subprocess.Popen(
            [binary, *options], preexec_fn=arrange, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank", width=width, height=height)["targetId"]
        self._session = ""
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session = ""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; returns its result. AssertionError when the browser refuses, or says nothing."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            got = self._receive()
            if got.get("id") == self._number:
                assert "error" not in got, got
                result: dict[str, Any] = got["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(self._in, 1 << 20) if ready else b""
            assert more, "the browser says nothing"
            self._buffer += more
        text, _, self._buffer = self._buffer.partition(b"\0")
        got: dict[str, Any] = json.loads(text)
        parameters = got.get("params", {})
        if got.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif got.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert", "warning"):
            self.errors.append(str(parameters["args"]))
        elif got.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
        elif got.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        return got

    def open(self, path: Path) -> None:
        """Shows a file, until it has drawn."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + PATIENCE
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline
        self.drawn()

    def shows(self, path: Path) -> None:
        """Opens a page and asserts that it is well, and alone in the world."""
        self.errors.clear()
        self.requests.clear()
        self.open(path)
        self.alone(path)

    def alone(self, path: Path) -> None:
        """No error until now, and nothing asked for but the page."""
        assert self.errors == []
        assert self.requests == [path.resolve().as_uri()]

    def drawn(self) -> None:
        """Waits until what was asked for is on the screen."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))", True)

    def evaluate(self, expression: str, wait: bool = False) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def key(self, name: str) -> None:
        """Presses a key."""
        text = {"text": name} if len(name) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name)

    def click(self, x: float, y: float) -> None:
        """The left mouse button."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if kind != "mouseMoved" else "none", clickCount=1)

    def wheel(self, x: float, y: float, amount: float) -> None:
        """Turns the wheel."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=amount)

    def scheme(self, name: str) -> None:
        """ "light" or "dark", as the desktop prefers."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path) -> bytes:
        """A PNG of the page, also written to ``path``."""
        self.drawn()
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        path.write_bytes(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
