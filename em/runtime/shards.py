"""Run one task on all GPUs side by side: a child for each, with its share of the work."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from em.runtime.gpus import visible_gpus
from em.runtime.processes import run_children


async def run_sharded(task: str, spec: dict[str, Any]) -> None:
    """One child per visible GPU, each with its share of the fixed batch plan; one child on the CPU.

    The event loop goes on meanwhile, so that answers are judged as they come. A cancelled wait ends the children.
    """
    gpus = visible_gpus()
    shards = max(1, len(gpus))
    specs = [spec | {"shard": shard, "shards": shards} for shard in range(shards)]
    stop = threading.Event()
    try:
        await asyncio.to_thread(run_children, task, specs, None, list(gpus) or None, stop)
    except asyncio.CancelledError:
        stop.set()
        raise
