"""Child processes: torch runs in them, so that the parent never holds a GPU and the jobs of a sweep share nothing.

A child is `python -m em.worker TASK SPEC.json`. It inherits the terminal (progress bars), and dies with its parent. If
it fails, it writes its error or traceback to a file, which the parent turns into an exception.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config.paths import CHECKOUT
from em.errors import ChildFailed, EmError, OutOfMemory
from em.runtime.files import is_running
from em.runtime.gpus import GPUS, list_visible_gpus
from em.runtime.records import to_jsonable

FAILURE = "EM_FAILURE"
PARENT = "EM_PARENT"
MEMORY = {
    "train": "trainer.device_tokens",
    "sample": "sampler.batch_size",
    "judge": "judge.batch_size",
    "score": "judge.batch_size",
}
"""The setting that lowers the memory of each task."""


def is_out_of_memory(message: str) -> bool:
    """Return whether an error, with the name of its class, is one of the ways to say that memory is full."""
    full = "out ?of ?memory|ALLOC_FAILED|can't allocate memory|^MemoryError"
    return re.search(full, message, re.IGNORECASE) is not None


def make_python_path() -> str:
    """Return the PYTHONPATH of a child: that of this process, after the checkout that em runs from."""
    paths = [str(CHECKOUT or ""), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(filter(None, paths)))


def make_child_environment(gpu: str | None = None) -> dict[str, str]:
    """Return the environment of a child: that of this process, plus what every child needs."""
    env = dict(os.environ)
    env[PARENT] = str(os.getpid())
    env[GPUS] = str(len(list_visible_gpus()))
    env["TOKENIZERS_PARALLELISM"] = "false"
    env["PYTHONPATH"] = make_python_path()
    # Spinning OpenMP barriers slow small matrix products tenfold as soon as anything else runs on the machine.
    env.setdefault("OMP_WAIT_POLICY", "passive")
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    return env


@dataclass(frozen=True)
class Launch:
    """How to start a task: processes per machine, an Accelerate config file, and the machines to use."""

    processes: int = 1
    accelerate: str = ""
    machines: int = 1
    machine_rank: int = 0
    address: str = ""
    port: int = 0

    @property
    def ranks(self) -> int:
        """Number of processes on all machines."""
        return self.processes * self.machines


def make_worker_command(launch: Launch, on_gpu: bool) -> list[str]:
    """Return a worker's command: plain, or for several ranks by Accelerate's launcher (GPUs) or torchrun (CPU)."""
    if launch.ranks == 1 and not (launch.accelerate and on_gpu):
        return [sys.executable, "-m", "em.worker"]
    options: dict[str, object]
    if on_gpu:
        kind = "accelerate"
        options = {"num_processes": launch.ranks, "num_machines": launch.machines}
        options |= {"machine_rank": launch.machine_rank, "main_process_port": launch.port}
        if launch.accelerate:
            options["config_file"] = launch.accelerate
            options |= {"main_process_ip": launch.address} if launch.address else {}
        else:
            options |= {"multi_gpu": "", "mixed_precision": "no", "dynamo_backend": "no"}
    else:
        # `accelerate launch --cpu --num_processes 2` starts only one process; torchrun starts two.
        kind, options = "torchrun", {"nproc-per-node": launch.processes}
        if launch.machines > 1:
            options |= {"nnodes": launch.machines, "node-rank": launch.machine_rank}
            options |= {"master-addr": launch.address, "master-port": launch.port}
        else:
            options |= {"standalone": ""}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value)) if word]
    return [sys.executable, "-m", "em.runtime.launcher", kind, *arguments, "-m", "em.worker"]


def run_child(task: str, spec: Any, launch: Launch = Launch()) -> None:
    """Run one task to its end. Raises EmError with the child's error message, or ChildFailed with its traceback."""
    gpus = list_visible_gpus()
    # A single process must see a single GPU, or the trainer would spread each batch over all of them.
    run_children(task, [spec], launch, [gpus[0] if gpus and launch.ranks == 1 else None])


def run_children(
    task: str,
    specs: list[Any],
    launch: Launch = Launch(),
    gpus: Sequence[str | None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run one task for several specs in parallel (one GPU each), and wait for all. Raises the first failure.

    The children end when another thread sets `stop`.
    """
    with tempfile.TemporaryDirectory(prefix=f"em-{task}-") as scratch:
        running: list[tuple[subprocess.Popen[bytes], Path]] = []
        try:
            for number, spec in enumerate(specs):
                spec_file, failure = Path(scratch, f"{number}.json"), Path(scratch, f"{number}.failure.json")
                spec_file.write_text(json.dumps(to_jsonable(spec), ensure_ascii=False), encoding="utf-8")
                env = make_child_environment(gpus[number] if gpus else None) | {FAILURE: str(failure)}
                if launch.processes > 1 and not list_visible_gpus():
                    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes)))
                argv = [*make_worker_command(launch, bool(list_visible_gpus())), task, str(spec_file)]
                running.append((subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL), failure))
            waiting = list(running)
            while waiting:
                # Any child may be the first to fail, and the user should not wait for the others to hear of it.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    waiting[0][0].wait(0.2 if stop is not None or len(waiting) > 1 else None)
                if stop is not None and stop.is_set():
                    raise ChildFailed("The run was stopped.")
                for process, failure in waiting:
                    if process.poll():
                        raise read_failure(task, process.returncode, failure)
                waiting = [each for each in waiting if each[0].returncode is None]
        finally:
            for process, _ in running:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def read_failure(task: str, code: int, failure: Path) -> EmError:
    """Make the exception for a child that ended with `code`, from its failure file, or else from its exit code."""
    if failure.is_file():
        report = json.loads(failure.read_text(encoding="utf-8"))
        if report["kind"] == "user":
            return EmError(report["message"])
        if report["kind"] == "memory":
            return OutOfMemory(report["message"], int(report["traceback"]))
        return ChildFailed(f"The {task} step crashed: {report['message']}", report["traceback"])
    if code < 0:
        hint = f" (out of memory? lower {MEMORY[task]})" if code == -9 and task in MEMORY else ""
        return ChildFailed(f"The {task} step was killed by signal {-code}{hint}; run the same command again.")
    return ChildFailed(f"The {task} step ended with exit code {code}; its last lines are above.")


def exit_with_parent() -> None:
    """Watch the parent in a thread, and end this process soon after it, so that kill -9 of a run leaves no children."""
    parent = int(os.environ.get(PARENT, "0"))

    def monitor_parent() -> None:
        state = ""
        while is_running(parent) and state != "Z":
            time.sleep(0.25)
            with contextlib.suppress(OSError):  # a system without /proc
                state = Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[0]
        os._exit(3)

    if parent:
        threading.Thread(target=monitor_parent, daemon=True).start()


def report_failure(message: str, kind: str, details: str = "", at_last: bool = False) -> None:
    """Write the failure file of this process, for the parent.

    If several ranks fail, the file of the first one counts, as it explains the others. With `at_last` the launcher
    replaces that file at the end, because it knows which rank was killed.
    """
    own_file = Path(f"{os.environ[FAILURE]}.{os.getpid()}")
    own_file.write_text(json.dumps({"kind": kind, "message": message, "traceback": details}), encoding="utf-8")
    if at_last:
        own_file.replace(os.environ[FAILURE])
        return
    with contextlib.suppress(FileExistsError):
        os.link(own_file, os.environ[FAILURE])
