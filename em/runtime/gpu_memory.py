"""Read the memory of GPUs from the driver, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from em.runtime.gpus import ask_driver
from em.runtime.processes import Launch

MIB = 2**20


@dataclass(frozen=True)
class GpuMemory:
    """Free and total memory of a GPU, in bytes; other processes may hold the difference."""

    free: int
    total: int


def read_gpu_memory(gpus: Sequence[str]) -> list[GpuMemory]:
    """Return the memory of the GPUs with these names in CUDA_VISIBLE_DEVICES; nothing if that of one is not known.

    The driver does not list parts of GPUs (MIG). If GPUs differ, a number does not tell which one is meant, because
    CUDA lists the fastest first.
    """
    if not gpus:
        return []
    fields = "index,uuid,memory.free,memory.total,mig.mode.current"
    listing, listed = ask_driver(f"--query-gpu={fields}", "--format=csv,noheader,nounits"), []
    try:
        for line in listing.splitlines():
            index, uuid, free, total, mig = (field.strip() for field in line.split(","))
            if mig != "Enabled":  # else a process gets only a part
                listed.append((index, uuid, GpuMemory(int(free) * MIB, int(total) * MIB)))
    except ValueError:  # a GPU without memory of its own has no numbers here
        return []
    differ = len({memory.total for *_, memory in listed}) > 1
    if differ and any(name.isdigit() for name in gpus) and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return []
    chosen = [memory for name in gpus for index, uuid, memory in listed if name == index or uuid.startswith(name)]
    return chosen if len(chosen) == len(gpus) else []


def is_busy(gpu: str) -> bool:
    """Return whether processes hold more than a tenth of a GPU's memory, as far as the driver tells."""
    return any(memory.free < 0.9 * memory.total for memory in read_gpu_memory([gpu]))


def read_free_memory(launch: Launch, gpus: Sequence[str]) -> int:
    """Return the free bytes of the fullest GPU that a task uses; 0 without a GPU, or if that is not known.

    Of several machines none knows what is free on the others.
    """
    memory = read_gpu_memory(gpus[: launch.processes]) if launch.machines == 1 else []
    return min((each.free for each in memory), default=0)
