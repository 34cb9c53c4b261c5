"""List the GPUs that a run may use, by the driver and never by torch, and claim single GPUs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

GPUS = "EM_GPUS"


def list_visible_gpus() -> list[str]:
    """Return the names (for CUDA_VISIBLE_DEVICES) of the GPUs that a child process may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    return list_driver_gpus()


@contextmanager
def claim_gpu(folder: Path) -> Iterator[None]:
    """Hold the lock of one visible GPU, and make it the only visible one; wait until a GPU is free.

    Without a GPU, hold nothing. The death of a holder releases its lock. `folder`: folder of the locks, the same for
    all processes.
    """
    from filelock import FileLock, Timeout

    before, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), list_visible_gpus()
    if not gpus:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    locks = {gpu: FileLock(folder / f"{gpu.replace('/', '_')}.lock") for gpu in gpus}
    announced = False
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
        if not announced:
            print(f"Waiting for one of {len(gpus)} GPUs …", flush=True)
            announced = True
        time.sleep(1)


@cache
def list_driver_gpus() -> list[str]:
    """Return the numbers of all GPUs that the driver lists; none without a driver. Cached for the process."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listing.splitlines() if line.startswith("GPU")]
    return [str(number) for number in range(len(lines))]


def precision_key(precision: str) -> str:
    """Return a number format for fingerprints and request keys: `auto` means another format on a GPU than on a CPU."""
    if precision != "auto":
        return precision
    return "auto:gpu" if list_visible_gpus() else "auto:cpu"
