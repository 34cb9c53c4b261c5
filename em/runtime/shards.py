"""Run one task on all GPUs side by side: a child for each, with its share of the work."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace

from em.runtime.gpus import visible_gpus
from em.runtime.processes import run_children


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a child is asked for besides its task: the batches `shard`, `shard + shards`, … of the plan."""

    shard: int = 0
    shards: int = 1


async def run_sharded(task: str, spec: Shard) -> None:
    """One child per visible GPU, each with its share of the fixed batch plan; one child on the CPU.

    The event loop goes on meanwhile, so that answers are judged as they come. A cancelled wait ends the children.
    """
    gpus = visible_gpus()
    shards = max(1, len(gpus))
    specs = [replace(spec, shard=shard, shards=shards) for shard in range(shards)]
    stop = threading.Event()
    try:
        await asyncio.to_thread(run_children, task, specs, gpus=gpus or None, stop=stop)
    except asyncio.CancelledError:
        stop.set()
        raise
