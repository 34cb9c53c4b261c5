"""Start vLLM servers and end them; load adapters into them.

A server is a child process with a log of its own. What the log says becomes progress, and the reason if the server
fails. em knows its server by a name made for this start, lest another program on the same port be taken for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from em.api.client import Client
from em.errors import ServerError
from em.models.served.command import HOST, ServeSpec, make_command, make_environment
from em.models.served.plan import Group, plan_groups
from em.runtime.gpu_memory import read_gpu_memory
from em.runtime.gpus import list_visible_gpus
from em.runtime.keys import redact_secrets
from em.runtime.processes import make_python_path

T = TypeVar("T")
KEY_ENV = "EM_SERVER_KEY"  # a server of one's own must not get the key of OpenAI
POLL = 0.5  # seconds between two looks at a server
QUIET = 900.0  # seconds without a new line in the log after which a start counts as stuck
TRIES = 3  # ports, if another program takes one first
STEPS = {
    r"Loading safetensors checkpoint shards: +(\d+)%": "loads the weights ({} %)",
    r"torch\.compile|Compiling": "compiles",
    r"Capturing CUDA graphs": "captures CUDA graphs",
    r"KV cache size": "is nearly ready",
}
"""Lines of the log, and what they say of a start."""
CAUSES = {
    r"out of memory|No available memory for the cache blocks|larger than the available KV cache|"
    r"less than desired GPU memory": "memory is full: end other programs on the GPUs, or change sampler.gpu_memory",
    r"ddress already in use": "another program took its port: run the same command again",
    r"not supported for now|no vLLM implementation|architectures .* (not supported|failed)": (
        "this vLLM does not know the model: use a newer vLLM, or sampler=hf"
    ),
    r"Failed to infer device type|no CUDA|CUDA driver": "it found no device: see `make vllm` for a machine without GPU",
    r"LoRA rank \d+ is greater": "an adapter has a higher rank than it was started for",
}
"""Lines of the log, and the likely cause of a failure."""
PREFIX = re.compile(r"^(\([^)]*pid=\d+\) ?)?((ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]*\] ?)?")
FAILED = re.compile(r"\w*(Error|Exception)\b[^:]*: |^(ERROR|error):")


class Server:
    """One vLLM process. `url`: its address; `log`: its output."""

    def __init__(self, spec: ServeSpec, group: Group, name: str, log: Path) -> None:
        self.spec, self.group, self.name, self.log = spec, group, name, log
        self.start()

    def start(self) -> None:
        """Start the process on a free port."""
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        self.url = f"http://{HOST}:{port}/v1"
        command = make_command(self.spec, self.group, port, self.name)
        env = make_environment(self.group) | {"PYTHONPATH": make_python_path()}
        with self.log.open("w") as log:
            # A session of its own: Ctrl-C is for em, which then ends its servers.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "em.models.served.keeper", *command],
                env=env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def read_log(self) -> list[str]:
        """Return the lines of the log, without marks of processes and times."""
        return [PREFIX.sub("", line).strip() for line in self.log.read_text(errors="replace").splitlines()]

    def check_alive(self) -> None:
        """Raise ServerError with the reason if the process has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"The vLLM server of {self.spec.label} has ended: {explain_log(self.read_log())}")

    def find_step(self) -> str:
        """Return what the server does while it starts, by its log; empty if that is not known."""
        for line in reversed(self.read_log()):
            for pattern, step in STEPS.items():
                if match := re.search(pattern, line):
                    return step.format(*match.groups())
        return ""

    def end(self) -> None:
        """End the process and all that it started."""
        if self.process.stdin:
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Fleet:
    """The running servers of one base, which all serve the same. `name`: of the base; `version`: of vLLM."""

    def __init__(self, urls: Sequence[str], name: str, version: str, servers: Sequence[Server] = ()) -> None:
        self.urls, self.name, self.version, self.servers = tuple(urls), name, version, servers

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter into all servers, under a name. Raises ServerError with the server's own words."""
        for url in self.urls:
            status, reply = await send(f"{url}/load_lora_adapter", {"lora_name": name, "lora_path": folder})
            if status == 404 and "Loading lora" not in reply:
                raise ServerError(
                    f"The server at {url} loads no adapters: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, "
                    "--enable-lora and --max-lora-rank."
                )
            if status != 200:
                raise ServerError(f"vLLM can't load the adapter {folder}: {shorten(reply)} Use sampler=hf for it.")

    async def unload_adapter(self, name: str) -> None:
        """Remove an adapter from all servers."""
        for url in self.urls:
            await send(f"{url}/unload_lora_adapter", {"lora_name": name})

    def check_alive(self) -> None:
        """Raise ServerError with the reason if a server has ended."""
        for server in self.servers:
            server.check_alive()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work; end it with the reason if a server ends meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                self.check_alive()
            if task.exception():
                self.check_alive()  # the better reason, if there is one
            return task.result()
        finally:
            task.cancel()


@asynccontextmanager
async def serve(spec: ServeSpec) -> AsyncIterator[Fleet]:
    """Start the servers of a base, one a group of GPUs, and end them; or connect to the one that `base_url` names.

    Raises:
        ServerError: a server fails to start, or can't be reached. ConfigError: the weights fit no group of GPUs.
    """
    if spec.base_url:
        yield await connect(spec.base_url)
        return
    gpus = list_visible_gpus()
    groups = plan_groups(Path(spec.base), spec.precision, spec.gpu_memory, gpus, read_gpu_memory(gpus))
    name = f"em-{uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="em-vllm-") as folder:
        servers = list[Server]()
        try:
            for number, group in enumerate(groups):
                servers.append(Server(spec, group, name, Path(folder, f"{number}.log")))
            where = f"{len(groups)} × {groups[0].degree} GPU" if groups[0].gpus else "the CPU"
            print(f"vLLM starts for {spec.label} on {where}.", flush=True)
            for server in servers:
                await wait_until_ready(server)
            version = str((await fetch(servers[0].url.removesuffix("/v1") + "/version")).get("version", ""))
            yield Fleet([server.url for server in servers], name, version, servers)
        finally:
            await asyncio.gather(*(asyncio.to_thread(server.end) for server in servers))


async def wait_until_ready(server: Server) -> None:
    """Wait until a server answers under its name; show what it does. Raises ServerError if it ends or is stuck."""
    began, tries, shown, size, moved = time.monotonic(), 1, "", 0, time.monotonic()
    while True:
        if server.process.poll() is not None:
            if tries < TRIES and any("ddress already in use" in line for line in server.read_log()):
                tries += 1
                server.end()
                server.start()
            server.check_alive()
        if server.name in await list_models(server.url):
            print(f"vLLM of {server.spec.label} is ready after {time.monotonic() - began:.0f} s.", flush=True)
            return
        now, grown = time.monotonic(), server.log.stat().st_size
        if grown != size:
            size, moved = grown, now
        elif now - moved > QUIET:
            raise ServerError(
                f"The vLLM server of {server.spec.label} has said nothing for {QUIET / 60:.0f} minutes: "
                f"{explain_log(server.read_log())}"
            )
        if (step := server.find_step()) and step != shown:
            shown = step
            print(f"vLLM of {server.spec.label} {step}.", flush=True)
        await asyncio.sleep(POLL)


async def connect(base_url: str) -> Fleet:
    """Connect to a running server, which must be a vLLM. Raises ServerError if it can't be reached or is another."""
    root = base_url.rstrip("/").removesuffix("/v1")
    names = await list_models(f"{root}/v1")
    version = (await fetch(f"{root}/version")).get("version")
    if not names or not version:
        raise ServerError(f"sampler.base_url={base_url} is no running vLLM: check the address (http://HOST:8000/v1).")
    return Fleet([f"{root}/v1"], names[0], str(version))


def make_client(fleet: Fleet, connections: int, timeout: float) -> Client:
    """Make the one client for all servers of a fleet."""
    first, *others = fleet.urls
    return Client(first, connections * len(fleet.urls), timeout, KEY_ENV, others)


async def list_models(url: str) -> list[str]:
    """List the names that a server serves, bases first; none if it does not answer."""
    listed = (await fetch(f"{url}/models")).get("data")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [str(entry.get("id")) for entry in sorted(entries, key=lambda entry: entry.get("parent") is not None)]


async def fetch(url: str) -> dict[str, Any]:
    """Return the JSON object at an address; empty if there is none."""
    import httpx2

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # else each look at a server is a line on the terminal
    try:
        async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
            reply = (await client.get(url)).json()
    except (httpx2.HTTPError, ValueError):
        return {}
    return reply if isinstance(reply, dict) else {}


async def send(url: str, body: dict[str, str]) -> tuple[int, str]:
    """Post JSON; return the status and the text of the reply (status 0 if there is none)."""
    import httpx2

    try:
        async with httpx2.AsyncClient(timeout=600, trust_env=False) as client:
            reply = await client.post(url, json=body)
    except httpx2.HTTPError as error:
        return 0, type(error).__name__
    return reply.status_code, reply.text


def shorten(text: str) -> str:
    """Return a text for a message: on one line, without keys, at most 300 characters."""
    return " ".join(redact_secrets(text).split())[:300]


def explain_log(lines: Sequence[str]) -> str:
    """Return the likely cause that a log gives, and its last lines that tell of an error (else its last lines)."""
    failures = [line for line in lines if FAILED.search(line)] or [line for line in lines if line]
    cause = next((cause for pattern, cause in CAUSES.items() if any(re.search(pattern, line) for line in lines)), "")
    quoted = " / ".join(dict.fromkeys(shorten(line) for line in failures[-3:])) or "(its log is empty)"
    return f"{cause}. Its log ends: {quoted}" if cause else f"its log ends: {quoted}"
