"""Chromium for tests and benchmarks: open pages, evaluate scripts and take screenshots by its protocol, over a pipe.

No port, no library: `--remote-debugging-pipe` reads commands from descriptor 3 and replies on 4, as JSON ended by NUL.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium", path="/usr/bin")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--remote-debugging-pipe")
# Chromium expects the ends of the pipes at descriptors 3 and 4.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One Chromium with one tab. `console`: errors and messages of the page."""

    def __init__(self, profile: Path, seconds: float = 60) -> None:
        assert CHROMIUM is not None
        self.seconds = seconds
        self.console: list[str] = []
        self._number, self._session, self._rest = 0, "", b""
        self._events: list[dict[str, Any]] = []
        browser_read, ours_write = os.pipe()
        ours_read, browser_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (browser_read, browser_write)]
        command = [sys.executable, "-c", START, *map(str, ends), CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for end in (*ends, browser_read, browser_write):
            os.close(end)
        self._write, self._read = ours_write, ours_read
        target = self.call_method("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call_method("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call_method(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._session = ""
            self.call_method("Browser.close")
        except (OSError, TimeoutError):
            self._process.kill()
        self._process.wait(10)
        os.close(self._write)
        os.close(self._read)

    def call_method(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result. Raise RuntimeError if the browser reports an error."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        rest = json.dumps(message).encode() + b"\0"
        while rest:
            rest = rest[os.write(self._write, rest) :]
        while True:
            reply = self._read_message(time.monotonic() + self.seconds)
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return dict(reply["result"])
            self._store_event(reply)

    def open(self, address: str) -> None:
        """Open a page, and wait until the page is loaded."""
        self._events.clear()
        self.call_method("Page.navigate", url=address)
        until = time.monotonic() + self.seconds
        while all(event["method"] != "Page.loadEventFired" for event in self._events):
            self._store_event(self._read_message(until))

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; wait for a promise."""
        reply = self.call_method("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(str(reply["exceptionDetails"].get("exception", reply)))
        return reply["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true; evaluate it every 5 ms."""
        look = f"() => ({expression}) ? done(true) : setTimeout(look, 5)"
        self.evaluate(f"new Promise((done) => {{ const look = {look}; look(); }})")

    def set_window(self, width: int, height: int, dark: bool = False, media: str = "screen") -> None:
        """Set the size of the window, the colour scheme (light or dark) and the medium (screen or print)."""
        self.call_method(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call_method("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def save_screenshot(self, file: Path, full_page: bool = False) -> None:
        """Save a screenshot of the window, or with `full_page` of the page from top to bottom, as PNG."""
        shot = self.call_method("Page.captureScreenshot", format="png", captureBeyondViewport=full_page)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _read_message(self, until: float) -> dict[str, Any]:
        """Return the next message. Raise TimeoutError after `until`, and EOFError if the browser has ended."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser did not reply in time")
            more = os.read(self._read, 1 << 20)
            if not more:
                raise EOFError("the browser has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _store_event(self, message: dict[str, Any]) -> None:
        """Store an event, and the page's errors and messages."""
        if "method" not in message:
            return
        self._events.append(message)
        params = message.get("params", {})
        match message["method"]:
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.console.append(str([each.get("value") for each in params["args"]]))
            case "Log.entryAdded":
                self.console.append(params["entry"]["text"])
