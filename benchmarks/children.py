"""Run tasks of `benchmarks.peers` in fresh processes with the same environment, and measure time and peak memory."""

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
"""Settings of threads, the same for both sides of each ratio."""


@dataclass(frozen=True)
class Measurement:
    """One training. `seconds`: of the training call; `wall`: of the process; `complete`: False if it was cut short."""

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
        """Return the real tokens (without padding) per second."""
        return self.tokens / self.seconds


def make_environment() -> dict[str, str]:
    """Return the user's environment with the benchmark's settings of threads and memory; no GPU, no hub."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_", "MALLOC_"))}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    return env | quiet | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(CORES)} | THREADS


class Children:
    """Child processes, one after the other, with their files in `scratch`. `failed`: variants whose training failed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.number = 0
        self.failed: list[str] = []

    def run_task(self, task: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Run a task without measuring it, and return its result. Exit if the task fails."""
        place = self.make_folder(task)
        code, _ = self.run_process(task, spec, place, None)
        if code != 0:
            sys.exit(f"{task} failed:\n{read_log_tail(place)}")
        result: dict[str, Any] = read_json_file(place / "out.json")
        return result

    def train(
        self,
        variant: str,
        spec: dict[str, Any],
        tokens: int,
        label: str = "",
        patience: float | None = None,
        keep: bool = False,
    ) -> Measurement | None:
        """Run a training, measure it and print its line. Return None if the training failed.

        Args:
            tokens: real tokens of the rows.
            patience: seconds after which the training is killed, and measured by its finished steps.
            keep: keep the adapter.
        """
        place = self.make_folder(variant)
        spec = spec | {"folder": str(place / "adapter"), "progress": str(place / "progress.json")}
        begin = time.monotonic()
        code, peak = self.run_process(spec["task"], spec, place, patience)
        wall = time.monotonic() - begin
        if code == 0:
            output = read_json_file(place / "out.json")
            measured = (output["seconds"], output["tokens"], output["steps"], output["losses"])
        elif patience is not None and wall >= patience:
            measured = read_finished_steps(place, wall, tokens)
        else:
            print(f"{label:>6} {spec['data']:9} {variant:13} failed:\n{read_log_tail(place)}", flush=True)
            self.failed.append(variant)
            return None
        if not keep:
            shutil.rmtree(place / "adapter", ignore_errors=True)
        result = Measurement(variant, spec["data"], *measured, peak, wall, str(place / "adapter"), complete=code == 0)
        print_line(result, label)
        return result

    def make_folder(self, name: str) -> Path:
        """Make a new folder for a process."""
        self.number += 1
        folder = self.scratch / f"{self.number:03}-{name}"
        folder.mkdir()
        return folder

    def run_process(self, task: str, spec: dict[str, Any], place: Path, patience: float | None) -> tuple[int, float]:
        """Run a process; return its exit code, and the peak memory (MB) of the process and its awaited children."""
        (place / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        words = ["-m", "benchmarks.peers", task, str(place / "spec.json"), str(place / "out.json")]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=make_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return wait_for_process(process, patience)


def wait_for_process(process: subprocess.Popen[bytes], patience: float | None) -> tuple[int, float]:
    """Wait for a process with `wait4`, which reports peak memory; kill the process group after `patience` seconds."""
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


def read_finished_steps(place: Path, wall: float, tokens: int) -> tuple[float, int, int, list[float]]:
    """Return seconds, tokens, steps and losses of the finished steps of a killed training.

    Without any finished step, count half of the tokens in the full time, which overestimates the speed.
    """
    file = place / "progress.json"
    steps = read_json_file(file) if file.is_file() else []
    if steps:
        seconds, _, counted = steps[-1]
        return seconds, int(counted or tokens / 2), len(steps), [loss for _, loss, _ in steps]
    return wall, tokens // 2, 0, [float("nan")]


def print_line(result: Measurement, label: str) -> None:
    """Print a line of the table of measurements."""
    loss = f"{result.losses[0]:.4f} → {result.losses[-1]:.4f}" if result.steps else "no step"
    cut = "" if result.complete else "  ended early"
    numbers = f"{result.seconds:7.1f} s {result.speed:6.0f} tokens/s {result.peak_mb:6.0f} MB"
    print(f"{label:>10} {result.data:9} {result.variant:13} {numbers}  loss {loss}{cut}", flush=True)


def read_json_file(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_log_tail(place: Path) -> str:
    """Return the last lines of a process's log, indented."""
    lines = (place / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return "\n".join(f"    {line[:300]}" for line in lines)
