"""Claim a single GPU among jobs that share a machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em.runtime.gpu_memory import is_busy
from em.runtime.gpus import find_uuid, list_visible_gpus


@contextmanager
def claim_gpu(folder: Path) -> Iterator[None]:
    """Hold the lock of one visible GPU, and make it the only visible one; wait until a GPU is free.

    A GPU whose memory other programs hold is taken only if all visible ones are like that. Without a GPU, hold nothing.
    The death of a holder releases its lock. `folder`: folder of the locks, the same for all processes, also those of
    other machines with the same home.
    """
    from filelock import FileLock, Timeout

    before, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), list_visible_gpus()
    if not gpus:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    locks = {gpu: FileLock(folder / name_lock(gpu)) for gpu in gpus}
    announced, busy = False, set[str]()
    while True:
        all_busy, busy = len(busy) == len(gpus), set()
        for gpu, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            if not all_busy and is_busy(gpu):
                lock.release()
                busy.add(gpu)
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            print(f"This job uses GPU {gpu}.", flush=True)
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


def name_lock(gpu: str) -> str:
    """Name the lock file of a GPU by host and UUID: its number may mean another GPU in another job of a cluster."""
    return f"{platform.node()}-{find_uuid(gpu).replace('/', '_')}.lock"
