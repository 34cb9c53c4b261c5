"""A judge behind a server: calls are concurrent, and each worker remembers a response before its next call.

Killing the run loses no more than the calls in flight. A call that failed at every attempt gives a verdict with status
`error`; it is not remembered, so that the next run retries it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from em.api.batches import BatchedCalls
from em.api.client import CallFailed, Client
from em.api.lifetimes import check_judge
from em.api.pool import Budget, CallPool, Refused
from em.config import ApiJudge
from em.config.addresses import OPENAI, find_server_name
from em.errors import ConfigError, EmError, ServerError
from em.judge.base import Judge, Source
from em.judge.probe import (
    READ_FROM,
    WAYS,
    choose_reading,
    copy_with_reading,
    find_readings,
    identify_judge,
    list_parameters,
    make_learn_request,
    make_probe_requests,
)
from em.judge.readings import build_judge_body, compact_response, list_expandable
from em.models.hosted import identify_server, make_hosted_weights, parse_hosted_name
from em.runtime.memory import Calls, request_key
from em.types import JudgeRequest, ModelRef, Prices

HOPELESS = 20  # failed calls in a row after which the server counts as down


class NotContinued(ServerError):
    """The server does not continue a begun reply: it takes the reply for a finished turn."""


class ServerJudge(Judge):
    """A model behind a server.

    readings: the readings of scores (False) and of labels (True), as far as they are known.
    unavailable: the error of the availability check, raised only if a verdict must still be made.
    asked: number of judgements made.
    """

    here = False
    settings: ApiJudge
    pool: CallPool[JudgeRequest]

    def __init__(self, settings: ApiJudge, hidden: tuple[str, ...] = ()) -> None:
        super().__init__(
            settings, make_hosted_weights(settings), identify_judge(settings), settings.reading.value, hidden
        )
        self.budget = Budget(settings.max_usd, "judge.max_usd")
        self.readings: dict[bool, str] = {}
        self.keys: dict[JudgeRequest, str] = {}
        self.unavailable: EmError | None = None
        self.asked = self.refused_in_a_row = 0

    @property
    def reading(self) -> str:
        """The reading of scores, or of labels if there are no scores; empty if neither is known."""
        return self.readings.get(False) or self.readings.get(True) or ""

    @property
    def label(self) -> str:
        """The judge's name in tables: one model with two readings, or two rules for words, counts as two judges."""
        rule = f", words {self.word_rule}" if self.word_rule else ""
        return f"{self.identity} ({self.reading}{rule})"

    def finalise_request(self, request: JudgeRequest) -> JudgeRequest:
        """Return a copy of a planned request for the reading in use."""
        return copy_with_reading(self.settings, request, self.readings.get(bool(request.labels), ""))

    def find_key(self, request: JudgeRequest) -> str:
        """Return the key of a request, cached, as computing it takes a third of the time of reading a verdict."""
        if request not in self.keys:
            self.keys[request] = request_key(request)
        return self.keys[request]

    def collect_details(self) -> dict[str, Any]:
        """Return the server, and the request's parameters besides the prompt."""
        server = find_server_name(self.settings.base_url) or OPENAI
        return {"server": server, "parameters": dict(list_parameters(self.settings, self.reading))}

    def check(self, spending: bool) -> list[str]:
        """See `Judge.check`."""
        try:
            notes = check_judge(self.settings)
        except EmError as error:
            if spending:
                raise
            self.unavailable = error
            return []
        for note in notes:
            print(f"warning: {note}", flush=True)
        return notes

    def find_relation(self, model: ModelRef) -> str:
        """See `Judge.find_relation`."""
        server, name = identify_server(self.settings), self.settings.model
        if model.base.path:  # open weights, which a local server may serve under this name
            same, trained = model.base.identity.removeprefix("hub:").split("@")[0] == name, bool(model.trained)
        else:
            model_server, hosted = parse_hosted_name(model)
            base = hosted.split(":")[1] if hosted.startswith("ft:") else hosted
            same, trained = model_server == server and name in (hosted, base), hosted != name
        if not same:
            return ""
        return "its base" if trained else "the model"

    def make_client(self) -> Client:
        """Make the client of the judge's server."""
        settings = self.settings
        return Client(settings.base_url, settings.connections, settings.timeout, settings.key_env)

    async def ask(self, source: Source, memory: Calls, prices: Prices, planned: int | None = None) -> None:
        """See `Judge.ask`.

        Raises:
            ServerError: the server can't be reached, or refuses and a retry can't help.
            ConfigError: `judge.max_usd` would be exceeded, or batches can't be used.
        """
        settings = self.settings
        client = self.make_client()
        body_of, price = partial(build_judge_body, model=settings.model), prices.find_price(settings.model)
        self.readings = find_readings(settings, memory)
        self.pool = CallPool("judge", settings.model, client, memory, body_of, compact_response, price, self.budget)
        async with self.pool.open(planned or 0, f"verdicts of {settings.model}", "verdict"):
            missing = self.yield_missing(source, grow=planned is None)
            await (self.judge_by_batch(missing) if settings.batch else self.pool.run(missing, self.judge_one))

    async def yield_missing(self, source: Source, grow: bool) -> AsyncIterator[list[JudgeRequest]]:
        """Yield the requests without a remembered response, as copies for the reading in use.

        grow: raise the total of the progress bar with each part.
        """
        seen = set[JudgeRequest]()
        async for each in source:
            part = list(each)
            fresh = [request for request in dict.fromkeys(part) if request not in seen]  # equal requests share a call
            seen.update(fresh)
            for labelled in {bool(request.labels) for request in fresh} - self.readings.keys():
                unread = [request for request in fresh if bool(request.labels) is labelled]
                try:
                    self.readings[labelled] = await self.probe(labelled)
                except CallFailed as error:  # these verdicts become errors, unless the server seems to be down
                    if len(self.failures) + len(unread) >= HOPELESS:
                        raise
                    self.failures |= {self.find_key(self.finalise_request(request)): str(error) for request in unread}
                    fresh = [request for request in fresh if bool(request.labels) is not labelled]
            missing = self.pool.list_missing(map(self.finalise_request, fresh), self.find_key)
            if missing and self.unavailable:
                raise self.unavailable
            if grow:
                self.pool.bar.total += len(part)
            self.pool.bar.update(len(part) - len(missing))
            yield missing

    async def probe(self, labelled: bool) -> str:
        """Find the reading of scores or labels by a small call, remember it and tell the user."""
        if self.unavailable:
            raise self.unavailable
        pool, requests = self.pool, make_probe_requests(self.settings, labelled)
        way, response = await pool.probe({way: pool.body(request) for way, request in requests.items()})
        reading, why = way, "the server refuses log-probabilities"
        if way == WAYS[0]:
            reading, why = choose_reading(response, requests[way].labels)
        try:
            if reading == "mass":
                await self.expand(requests[way], response)
        except NotContinued:
            reading, why = "structured", "integers take several tokens, and the server continues no begun reply"
        pool.calls.store_calls(
            "reading", [(make_learn_request(self.settings, labelled), {"reading": reading, "why": why})]
        )
        what = "labels" if labelled else "scores"
        pool.bar.write(f"judge {self.identity}: {what} are read from {READ_FROM[reading]} ({why})")
        return reading

    async def judge_one(self, request: JudgeRequest) -> None:
        """Make one judgement and remember it; record a failure that concerns this request alone.

        Raises:
            ServerError: the last `HOPELESS` requests failed, or the server refuses all requests.
        """
        try:
            response = await self.pool.call(self.pool.body(request))
            if request.reading == "mass":
                response = await self.expand(request, response)
        except CallFailed as error:
            if self.pool.client.failed_in_a_row >= HOPELESS:
                raise
            self.failures[self.find_key(request)] = str(error)
        except Refused as error:
            # The server may refuse this prompt alone (content filter, too long).
            self.refused_in_a_row += 1
            if self.refused_in_a_row >= HOPELESS or not (error.concerns_prompt_alone or self.asked):
                raise
            self.failures[self.find_key(request)] = str(error)
            self.refused.add(self.find_key(request))
        else:
            await self.pool.recorder.store_call("judge", request, response)
            self.asked += 1
            self.refused_in_a_row = 0

    async def expand(self, request: JudgeRequest, response: dict[str, Any]) -> dict[str, Any]:
        """Return the response with the top tokens behind each likely beginning of a number (`mass`).

        Raises:
            NotContinued: the server does not continue a begun reply.
        """
        name = self.settings.model
        refusal = NotContinued(f"The server of {name} can't continue a begun reply: set judge.reading=structured.")
        tree: dict[str, Any] = {}
        usage = response["usage"]
        top = response["choices"][0].get("top") or []
        request = copy_with_reading(self.settings, request, "mass")
        while top and not request.labels and (beginnings := list_expandable({"": top} | tree)):
            for begun in beginnings:
                try:
                    reply = await self.pool.call(build_judge_body(request, name, begun))
                except Refused:
                    raise refusal from None
                before, after = response["usage"][0], reply["usage"][0]
                # A continued reply adds its own tokens to the prompt, but no header of a new turn.
                if before is not None and after is not None and after - before > len(begun):
                    raise refusal
                tree[begun] = reply["choices"][0].get("top") or []
                usage = [(a or 0) + (b or 0) for a, b in zip(usage, reply["usage"], strict=True)]
        return response | {"tree": tree, "usage": usage}

    async def judge_by_batch(self, missing: AsyncIterator[list[JudgeRequest]]) -> None:
        """Judge by batches, after all answers have arrived."""
        requests = [request async for part in missing for request in part]
        if any(request.reading == "mass" for request in requests):
            raise ConfigError(
                f"{self.settings.model} needs several calls for a judgement (reading mass), which batches can't do: "
                "leave out judge.batch, or set judge.reading=structured."
            )
        most = sum(self.pool.compute_maximum_cost(self.pool.body(request)) for request in requests) / 2
        if not self.budget.has_room_for(most):
            raise ConfigError(
                f"judge.max_usd={self.settings.max_usd:g} might be passed: {len(requests):,} judgements by batch cost "
                f"${most:.2f} at most. Raise judge.max_usd, or leave out judge.batch."
            )
        if requests:
            failures = await BatchedCalls(self.pool, requests, "judgements", "judge.batch").ask()
            self.failures |= failures
            self.asked += len(requests) - len(failures)
