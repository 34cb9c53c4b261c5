"""The GPUs that a run may use, asked of the driver and never of torch, and held one by one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

GPUS = "EM_GPUS"


def visible_gpus() -> list[str]:
    """Names (for CUDA_VISIBLE_DEVICES) of the GPUs that a child may use; asks the driver, not torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    return driver_gpus()


@contextmanager
def claimed_gpu(folder: Path) -> Iterator[None]:
    """Hold one of the visible GPUs, which no other process that asks in this way gets; wait until one is free.

    Without a GPU there is nothing to hold. A killed holder lets go. `folder`: of the locks, the same for all processes.
    """
    from filelock import FileLock, Timeout

    before, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), visible_gpus()
    if not gpus:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    locks = {gpu: FileLock(folder / f"{gpu.replace('/', '_')}.lock") for gpu in gpus}
    told = False
    while True:
        for gpu, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            try:
                yield
            finally:
                lock.release()
                if before is None:
                    del os.environ["CUDA_VISIBLE_DEVICES"]
                else:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before
            return
        if not told:
            print(f"Waiting for one of {len(gpus)} GPUs …", flush=True)
            told = True
        time.sleep(1)


@cache
def driver_gpus() -> list[str]:
    """The numbers of all GPUs that the driver lists; none without a driver. Asked once per process."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(x for x in listing.splitlines() if x.startswith("GPU"))]


def where(precision: str) -> str:
    """A number format as a part of a request: `auto` is another one on a GPU than on a CPU."""
    return f"auto:{'gpu' if visible_gpus() else 'cpu'}" if precision == "auto" else precision
