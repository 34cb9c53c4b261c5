"""Child processes: where torch runs, so that the parent never holds a GPU and the jobs of a sweep share nothing.

A child is `python -m em.worker TASK SPEC.json`. It inherits the terminal (progress bars), dies with its parent,
and when it fails leaves its sentence or its traceback in a file that the parent turns into an exception.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from em.errors import ChildFailed, EmError
from em.runtime.files import is_running
from em.runtime.gpus import GPUS, visible_gpus
from em.runtime.records import plain

FAILURE = "EM_FAILURE"
PARENT = "EM_PARENT"


def import_path() -> str:
    """Say by PYTHONPATH where a child finds em: as this process does, and in the checkout that it is run from."""
    paths = [str(CHECKOUT or ""), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(filter(None, paths)))


def child_environment(gpu: str | None = None) -> dict[str, str]:
    """The parent's environment plus what every child needs."""
    env = dict(os.environ)
    env[PARENT] = str(os.getpid())
    env[GPUS] = str(len(visible_gpus()))
    env["TOKENIZERS_PARALLELISM"] = "false"
    env["PYTHONPATH"] = import_path()
    # Spinning OpenMP barriers slow small matrix products tenfold as soon as anything else runs on the machine.
    env.setdefault("OMP_WAIT_POLICY", "passive")
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    return env


@dataclass(frozen=True)
class Launch:
    """How a task is started: so many processes here; with an Accelerate config, perhaps on several machines."""

    processes: int = 1
    accelerate: str = ""
    machines: int = 1
    machine_rank: int = 0
    address: str = ""
    port: int = 0

    @property
    def ranks(self) -> int:
        """All processes, on all machines."""
        return self.processes * self.machines


def command(launch: Launch, on_gpu: bool) -> list[str]:
    """How a worker is started: plain, or by Accelerate's launcher (GPUs) or torchrun (CPU) for several processes."""
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
        # accelerate launch --cpu --num_processes 2 starts one process; torchrun starts two.
        kind, options = "torchrun", {"nproc-per-node": launch.processes}
        if launch.machines > 1:
            options |= {"nnodes": launch.machines, "node-rank": launch.machine_rank}
            options |= {"master-addr": launch.address, "master-port": launch.port}
        else:
            options |= {"standalone": ""}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value)) if word]
    return [sys.executable, "-m", "em.runtime.launcher", kind, *words, "-m", "em.worker"]


def run_child(task: str, spec: Any, launch: Launch = Launch()) -> None:
    """Run one task to its end. Raises EmError with the child's own sentence, or ChildFailed with its traceback."""
    gpus = visible_gpus()
    # A single process must see a single GPU, or the trainer would spread each batch over all of them.
    run_children(task, [spec], launch, [gpus[0] if gpus and launch.ranks == 1 else None])


def run_children(
    task: str,
    specs: list[Any],
    launch: Launch = Launch(),
    gpus: Sequence[str | None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run one task for several specs side by side (one GPU each), and wait for all; the first failure is raised.

    `stop`, once set by another thread, ends the children.
    """
    with tempfile.TemporaryDirectory(prefix=f"em-{task}-") as scratch:
        running: list[tuple[subprocess.Popen[bytes], Path]] = []
        try:
            for number, spec in enumerate(specs):
                spec_file, failure = Path(scratch, f"{number}.json"), Path(scratch, f"{number}.failure.json")
                spec_file.write_text(json.dumps(plain(spec), ensure_ascii=False), encoding="utf-8")
                env = child_environment(gpus[number] if gpus else None) | {FAILURE: str(failure)}
                if launch.processes > 1 and not visible_gpus():
                    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes)))
                argv = [*command(launch, bool(visible_gpus())), task, str(spec_file)]
                running.append((subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL), failure))
            for process, failure in running:
                if wait_for(process, stop) != 0:
                    raise failure_of(task, process.returncode, failure)
        finally:
            for process, _ in running:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def wait_for(process: subprocess.Popen[bytes], stop: threading.Event | None) -> int:
    """A child's exit code once it has ended. Raises ChildFailed when `stop` is set before."""
    while True:
        try:
            return process.wait(None if stop is None else 0.2)
        except subprocess.TimeoutExpired:
            if stop is not None and stop.is_set():
                raise ChildFailed("The run was stopped.") from None


def failure_of(task: str, code: int, failure: Path) -> EmError:
    """The exception for a child that ended with `code`: what it wrote down, or how it was killed."""
    if failure.is_file():
        said = json.loads(failure.read_text(encoding="utf-8"))
        if said["kind"] == "user":
            return EmError(said["message"])
        return ChildFailed(f"The {task} step crashed: {said['message']}", said["traceback"])
    if code < 0:
        hint = " (out of memory? lower trainer.device_tokens or sampler.batch_size)" if code == -9 else ""
        return ChildFailed(f"The {task} step was killed by signal {-code}{hint}; run the same command again.")
    return ChildFailed(f"The {task} step ended with exit code {code}; its last lines are above.")


def die_with_parent() -> None:
    """End this process soon after the parent has gone, so that kill -9 of a run leaves nothing running."""
    parent = int(os.environ.get(PARENT, "0"))

    def watch() -> None:
        state = ""
        while is_running(parent) and state != "Z":
            time.sleep(0.25)
            with contextlib.suppress(OSError):  # a system without /proc
                state = Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[0]
        os._exit(3)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def tell_failure(message: str, kind: str, details: str = "", at_last: bool = False) -> None:
    """Write down for the parent why this process fails.

    Several ranks may fail, and the first to fail tells why: its file takes the name, whole, and keeps it, unless the
    launcher knows better at last.
    """
    own = Path(f"{os.environ[FAILURE]}.{os.getpid()}")
    own.write_text(json.dumps({"kind": kind, "message": message, "traceback": details}), encoding="utf-8")
    if at_last:
        own.replace(os.environ[FAILURE])
        return
    with contextlib.suppress(FileExistsError):
        os.link(own, os.environ[FAILURE])
