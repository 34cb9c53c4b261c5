"""The life of vLLM servers that em starts: they answer, fail with a reason, and never outlive em."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from em.errors import ServerError
from em.models.served.command import ServeSpec
from em.models.served.server import serve
from em.runtime.files import is_running
from tests.support.made_vllm import COMMAND, FAULT, VERSION

SPEC = ServeSpec("/nowhere", "a model", "auto:cpu", 16, 100, command=COMMAND)


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which servers write the ids of their processes."""
    monkeypatch.setenv("EM_MADE_VLLM_PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


def count_left(pids: Path) -> int:
    """Count the processes of servers that still run, after a moment of grace."""
    numbers = [int(number) for number in pids.read_text().split()]
    for _ in range(60):
        left = sum(is_running(number) and not is_zombie(number) for number in numbers)
        if not left:
            return 0
        time.sleep(0.05)
    return left


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended, and only its parent has not heard of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


async def use_fleet(*adapters: str) -> tuple[str, int]:
    """Start a fleet, load adapters, and end it; return its version and the number of servers."""
    async with serve(SPEC) as fleet:
        for adapter in adapters:
            await fleet.load_adapter("x", adapter)
        return fleet.version, len(fleet.urls)


def test_a_server_starts_and_leaves_nothing(pids: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert asyncio.run(use_fleet()) == (VERSION, 1)
    assert count_left(pids) == 0
    assert "vLLM starts for a model on the CPU." in capfd.readouterr().out


def test_progress_of_a_slow_start(
    pids: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAULT, "slow=0.6")
    asyncio.run(use_fleet())
    assert "loads the weights (50 %)" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash_start", "this vLLM does not know the model.*ValueError: Model architectures"),
        ("oom", "memory is full.*sampler.gpu_memory.*CUDA out of memory"),
    ],
)
def test_a_failed_start_says_why(pids: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str) -> None:
    monkeypatch.setenv(FAULT, fault)
    with pytest.raises(ServerError, match=words) as raised:
        asyncio.run(use_fleet())
    assert "File" not in str(raised.value)
    assert count_left(pids) == 0


def test_a_port_that_is_taken_is_changed(pids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT, f"port={tmp_path / 'tried'}")
    assert asyncio.run(use_fleet()) == (VERSION, 1)
    assert len(pids.read_text().splitlines()) == 2
    assert count_left(pids) == 0


def test_an_adapter_that_is_refused(pids: Path) -> None:
    with pytest.raises(ServerError, match=r"can't load the adapter /no/adapter: .*Use sampler=hf"):
        asyncio.run(use_fleet("/no/adapter"))
    assert count_left(pids) == 0


def test_a_server_that_ends_in_the_middle(pids: Path) -> None:
    async def kill_in_the_middle() -> None:
        async with serve(SPEC) as fleet:
            os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
            await fleet.run(asyncio.sleep(60))

    with pytest.raises(ServerError, match="has ended: its log ends"):
        asyncio.run(kill_in_the_middle())
    assert count_left(pids) == 0


def test_two_fleets_at_once(pids: Path) -> None:
    async def start_two() -> set[str]:
        async with serve(SPEC) as one, serve(SPEC) as other:
            return {*one.urls, *other.urls, one.name, other.name}

    assert len(asyncio.run(start_two())) == 4
    assert count_left(pids) == 0


@pytest.mark.parametrize("victim", ["em", "keeper"])
def test_nothing_outlives_a_kill(pids: Path, tmp_path: Path, victim: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\nfrom tests.models.test_served_server import SPEC, serve\n"
        "async def main():\n    async with serve(SPEC) as fleet:\n"
        "        print(fleet.servers[0].process.pid, flush=True)\n        await fleet.run(asyncio.sleep(60))\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    keeper = next(int(line) for line in process.stdout if line.strip().isdigit())
    os.kill(process.pid if victim == "em" else keeper, signal.SIGKILL)
    process.wait(30)
    assert count_left(pids) == 0
