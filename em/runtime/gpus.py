"""List the GPUs that a run may use, by the driver and never by torch."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache

GPUS = "EM_GPUS"
AMPERE = 8.0
"""Compute capability from which GPUs compute in bfloat16."""


def list_visible_gpus() -> list[str]:
    """Return the names (for CUDA_VISIBLE_DEVICES) of the GPUs that a child process may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    return list(list_driver_gpus())


def find_uuid(gpu: str) -> str:
    """Find the UUID of a GPU by its name in CUDA_VISIBLE_DEVICES: its number, or the beginning of its UUID.

    Without a driver that knows the GPU, return the name.
    """
    uuids = list_driver_gpus()
    return uuids.get(gpu) or next((uuid for uuid in uuids.values() if uuid.startswith(gpu)), gpu)


@cache
def list_driver_gpus() -> dict[str, str]:
    """Return the UUIDs of all GPUs that the driver lists, by number; none without a driver. Cached for the process."""
    return dict(re.findall(r"^GPU (\d+):(?:.*\(UUID: ([^)\n]+)\))?", ask_driver("-L"), re.MULTILINE))


@cache
def list_capabilities() -> dict[str, float]:
    """Return the CUDA compute capability of each GPU by UUID; none if the driver does not tell. Cached."""
    table = ask_driver("--query-gpu=uuid,compute_cap", "--format=csv,noheader")
    return {uuid: float(number) for uuid, number in re.findall(r"^(\S+), (\d+\.\d+)$", table, re.MULTILINE)}


def ask_driver(*words: str) -> str:
    """Return what `nvidia-smi` prints; nothing without a driver."""
    try:
        return subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def precision_key(precision: str) -> str:
    """Return a number format for fingerprints and request keys: `auto` means another format on a GPU than on a CPU.

    GPUs older than Ampere, which don't compute in bfloat16, have float32 and so the key of a CPU.
    """
    if precision != "auto":
        return precision
    gpus = list_visible_gpus()
    if gpus and all(list_capabilities().get(find_uuid(gpu), AMPERE) >= AMPERE for gpu in gpus):
        return "auto:gpu"
    return "auto:cpu"
