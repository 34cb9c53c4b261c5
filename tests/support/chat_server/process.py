"""The server as tests and benchmarks use it: start it in its own process, and ask for its counts."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from .options import Options, format_words

ROOT = Path(__file__).parent.parent.parent.parent
# Without a proxy from the environment, since the server's address is on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ChatServer:
    """A running server; a context manager, with the fields of `Options` as arguments.

    base_url: the `base_url` for OpenAI clients.
    """

    def __init__(self, port: int = 0, **options: Any) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.support.chat_server",
            f"--port={port}",
            *format_words(Options(**options)),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first.strip().isdigit():
            self.stop()
            raise RuntimeError("The chat server did not start; its message is above.")
        self.address = f"http://127.0.0.1:{first.strip()}"
        self.base_url = f"{self.address}/v1"

    def read_stats(self, detail: bool = False) -> dict[str, Any]:
        """Return the counts of requests and answers so far (see `record`)."""
        counts: dict[str, Any] = self.ask("/stats?detail=1" if detail else "/stats")
        return counts

    def reset(self, **changes: Any) -> None:
        """Forget all counts, faults and batches, and change some options."""
        self.ask("/reset", changes)

    def ask(self, path: str, body: Any = None) -> Any:
        """Return the JSON reply to a GET request, or to a POST request if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with OPENER.open(request, timeout=60) as response:
            return json.load(response)

    def stop(self) -> None:
        """Stop the server's process."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
