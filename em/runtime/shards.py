"""Run one task on all GPUs side by side: a child for each, with its share of the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from em.runtime.gpus import visible_gpus
from em.runtime.memory import Calls, request_key
from em.runtime.processes import run_children

Request = TypeVar("Request")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a child is asked for: the batches `shard`, `shard + shards`, … of a plan, of the model called `label`."""

    label: str
    store: str
    shard: int = 0
    shards: int = 1

    def work_off(
        self,
        kind: str,
        what: str,
        batches: Sequence[Sequence[Request]],
        answer: Callable[[Sequence[Request]], Sequence[Mapping[str, Any]]],
    ) -> None:
        """Have this child's share answered but for what is remembered, and remember each batch as it is done.

        `kind`: as what the calls are remembered; `what`: one of them, for the progress bar.
        """
        from tqdm import tqdm

        mine = batches[self.shard :: self.shards]
        with Calls(Path(self.store)) as calls:
            remembered = calls.there([request_key(request) for batch in mine for request in batch])
            with tqdm(total=sum(map(len, mine)), desc=f"{what}s of {self.label}", unit=what) as bar:
                for batch in mine:
                    if missing := [request for request in batch if request_key(request) not in remembered]:
                        calls.remember(kind, zip(missing, answer(missing), strict=True))
                    bar.update(len(batch))


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
