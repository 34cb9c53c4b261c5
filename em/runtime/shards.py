"""Run one task on all GPUs in parallel: one child process per GPU, each with its share of the batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from em.runtime.gpus import list_visible_gpus
from em.runtime.memory import Calls, request_key
from em.runtime.processes import run_children

Request = TypeVar("Request")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A child's share of a plan: the batches `shard`, `shard + shards`, …, for the model called `label`."""

    label: str
    store: str
    shard: int = 0
    shards: int = 1

    def run_batches(
        self,
        kind: str,
        what: str,
        batches: Sequence[Sequence[Request]],
        answer: Callable[[Sequence[Request]], Sequence[Mapping[str, Any]]],
    ) -> None:
        """Answer the requests of this child's share that are not in the store, and store each batch when it is done.

        `kind`: the kind of the stored calls. `what`: the noun for one call, for the progress bar.
        """
        from tqdm import tqdm

        share = batches[self.shard :: self.shards]
        with Calls(Path(self.store)) as calls:
            stored = calls.find_stored_keys([request_key(request) for batch in share for request in batch])
            with tqdm(total=sum(map(len, share)), desc=f"{what}s of {self.label}", unit=what) as bar:
                for batch in share:
                    if missing := [request for request in batch if request_key(request) not in stored]:
                        calls.store_calls(kind, zip(missing, answer(missing), strict=True))
                    bar.update(len(batch))


async def run_sharded(task: str, spec: Shard, on_gpus: bool = True) -> None:
    """Run one child process per visible GPU, each with its share of the fixed batch plan; one child on the CPU.

    The event loop goes on meanwhile, so that em judges answers as they come. Cancelling the wait ends the children.

    `on_gpus`: without it, one child on the CPU although there are GPUs.
    """
    gpus = list_visible_gpus() if on_gpus else []
    shards = max(1, len(gpus))
    specs = [replace(spec, shard=shard, shards=shards) for shard in range(shards)]
    stop = threading.Event()
    try:
        await asyncio.to_thread(run_children, task, specs, gpus=gpus or None, stop=stop)
    except asyncio.CancelledError:
        stop.set()
        raise
