"""Tasks of `benchmarks.peers` in fresh processes, with the same environment for all, and what the kernel counted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}
"""Settings of threads, on both sides of each ratio."""


@dataclass(frozen=True)
class Measurement:
    """One training: `seconds` of the training call, `wall` of the process; not `complete` when it was cut short."""

    variant: str
    data: str
    seconds: float
    tokens: int
    steps: int
    losses: list[float]
    peak_mb: float
    wall: float
    folder: str
    complete: bool = True

    @property
    def speed(self) -> float:
        """Real tokens per second."""
        return self.tokens / self.seconds


def environment() -> dict[str, str]:
    """The user's environment without settings of threads and memory, then these; no GPU, no hub."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_", "MALLOC_"))}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    return env | quiet | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(CORES)} | THREADS


class Children:
    """Starts the processes, one after the other, with their files in `scratch`. `failed`: which trainings did."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.number = 0
        self.failed: list[str] = []

    def ask(self, task: str, spec: dict[str, Any]) -> dict[str, Any]:
        """A task that is not measured. Ends the benchmark when it fails."""
        place = self.place(task)
        code, _ = self.run(task, spec, place, None)
        if code != 0:
            sys.exit(f"{task} failed:\n{tail(place)}")
        found: dict[str, Any] = read(place / "out.json")
        return found

    def train(
        self,
        variant: str,
        spec: dict[str, Any],
        tokens: int,
        label: str = "",
        patience: float | None = None,
        keep: bool = False,
    ) -> Measurement | None:
        """A training, measured; prints its line. None when it failed.

        Args:
            tokens: real tokens of its rows.
            patience: seconds after which it is ended, and measured by the steps it did.
            keep: whether the adapter is wanted.
        """
        place = self.place(variant)
        spec = spec | {"folder": str(place / "adapter"), "progress": str(place / "progress.json")}
        begin = time.monotonic()
        code, peak = self.run(spec["task"], spec, place, patience)
        wall = time.monotonic() - begin
        if code == 0:
            found = read(place / "out.json")
            measured = (found["seconds"], found["tokens"], found["steps"], found["losses"])
        elif patience is not None and wall >= patience:
            measured = steps_done(place, wall, tokens)
        else:
            print(f"{label:>6} {spec['data']:9} {variant:13} failed:\n{tail(place)}", flush=True)
            self.failed.append(variant)
            return None
        if not keep:
            shutil.rmtree(place / "adapter", ignore_errors=True)
        result = Measurement(variant, spec["data"], *measured, peak, wall, str(place / "adapter"), complete=code == 0)
        print_line(result, label)
        return result

    def place(self, name: str) -> Path:
        """A new folder for a process."""
        self.number += 1
        folder = self.scratch / f"{self.number:03}-{name}"
        folder.mkdir()
        return folder

    def run(self, task: str, spec: dict[str, Any], place: Path, patience: float | None) -> tuple[int, float]:
        """Exit code of a process, and the peak memory in MB of it and the children that it waited for."""
        (place / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        words = ["-m", "benchmarks.peers", task, str(place / "spec.json"), str(place / "out.json")]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return wait(process, patience)


def wait(process: subprocess.Popen[bytes], patience: float | None) -> tuple[int, float]:
    """Wait for a process by hand, since only so the kernel tells its peak memory; end its group after `patience`."""
    begin, killed = time.monotonic(), False
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_maxrss / 1024
            if patience is not None and not killed and time.monotonic() - begin > patience:
                killed = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.1)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)


def steps_done(place: Path, wall: float, tokens: int) -> tuple[float, int, int, list[float]]:
    """Seconds, tokens, steps and losses of a training that was ended: of its whole steps, if there is one.

    Without one, half of its tokens in all of its time: faster than it was.
    """
    file = place / "progress.json"
    steps = read(file) if file.is_file() else []
    if steps:
        seconds, _, counted = steps[-1]
        return seconds, int(counted or tokens / 2), len(steps), [loss for _, loss, _ in steps]
    return wall, tokens // 2, 0, [float("nan")]


def print_line(found: Measurement, label: str) -> None:
    """A line of the table of measurements."""
    loss = f"{found.losses[0]:.4f} → {found.losses[-1]:.4f}" if found.steps else "no step"
    cut = "" if found.complete else "  ended early"
    numbers = f"{found.seconds:7.1f} s {found.speed:6.0f} tokens/s {found.peak_mb:6.0f} MB"
    print(f"{label:>10} {found.data:9} {found.variant:13} {numbers}  loss {loss}{cut}", flush=True)


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def tail(place: Path) -> str:
    """The last lines of a process, indented."""
    lines = (place / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return "\n".join(f"    {line[:300]}" for line in lines)
