"""An open-weight judge behind vLLM servers, which em starts after the answers, on the same GPUs, and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from em.api.client import Client
from em.config import ApiJudge
from em.judge.base import Source
from em.judge.probe import find_readings
from em.judge.remote import ServerJudge
from em.models.served.command import ServeSpec, find_length
from em.models.served.plan import plan_groups
from em.models.served.server import Fleet, make_client, serve
from em.models.weights import resolve_weights
from em.runtime.gpu_memory import read_gpu_memory
from em.runtime.gpus import list_visible_gpus, precision_key
from em.runtime.memory import Calls
from em.types import JudgeRequest, ModelRef, Prices

PROMPT = 8192  # tokens of a prompt, at most
SHARE = 0.9  # of a GPU's memory


class ServedJudge(ServerJudge):
    """A judge with open weights, known by these and the engine's version. `fleet`: its servers, while they run."""

    here = True
    fleet: Fleet

    def __init__(self, settings: ApiJudge, hidden: tuple[str, ...] = ()) -> None:
        super().__init__(settings, hidden)
        self.weights = resolve_weights(settings.model, settings.revision)

    def check(self, spending: bool) -> list[str]:
        """Refuse weights that the GPUs can't hold; see `Judge.check`."""
        if spending:
            gpus = list_visible_gpus()
            plan_groups(Path(self.weights.path), precision_key("auto"), SHARE, gpus, read_gpu_memory(gpus))
        return []

    def collect_details(self) -> dict[str, Any]:
        """Return the full checksum of the weights; no server, whose calls would cost money."""
        return super().collect_details() | {"server": "", "weights": self.weights.identity}

    def find_relation(self, model: ModelRef) -> str:
        """See `Judge.find_relation`."""
        if not model.base.path or model.base.identity != self.weights.identity:
            return ""
        return "its base" if model.trained else "the model"

    def make_client(self) -> Client:
        """Make the one client for all servers."""
        return make_client(self.fleet, self.settings.connections, self.settings.timeout)

    async def ask(self, source: Source, memory: Calls, prices: Prices, planned: int | None = None) -> None:
        """See `Judge.ask`. The servers start once all answers are there, and only if a verdict is missing."""
        requests = list(dict.fromkeys([request async for part in source for request in part]))
        self.readings = find_readings(self.settings, memory)
        keys = {self.find_key(self.finalise_request(request)) for request in requests}
        has_readings = all(bool(request.labels) in self.readings for request in requests)
        if has_readings and memory.find_stored_keys(list(keys)) == keys:
            return
        spec = ServeSpec(
            base=self.weights.path,
            label=self.settings.model,
            precision=precision_key("auto"),
            max_length=find_length(Path(self.weights.path), PROMPT + self.settings.max_reply_tokens),
            names=(self.settings.model,),
            gpu_memory=SHARE,
        )
        async with serve(spec) as self.fleet:
            await self.fleet.run(super().ask(yield_parts(requests), memory, prices, len(requests)))


async def yield_parts(requests: list[JudgeRequest]) -> AsyncIterator[Iterable[JudgeRequest]]:
    """Yield requests as one part."""
    yield requests
