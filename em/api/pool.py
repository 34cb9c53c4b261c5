"""One pool for all calls of models behind servers: judging, sampling, generating.

Workers call concurrently. Each call reserves its maximum cost in the budget before it starts, and its response is
remembered before its worker starts another. After the first failure that concerns more than one call, calls under way
finish and no new call starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from em.api.client import Client, Reply, explain_error
from em.api.parameters import CHANGES, apply_changes, describe_change, find_change, read_changes, store_changes
from em.api.prices import compute_usd
from em.api.replies import read_usage
from em.errors import ConfigError, ServerError
from em.runtime.memory import Calls, Recorder, request_key
from em.types import Price

TOO_LONG = "context_length_exceeded"
OF_THE_PROMPT = ("content_filter", "invalid_prompt", TOO_LONG)  # codes of refusals that concern a single prompt
LEFT_OUT_BY_OTHER_WAYS = ("no top_p", "no temperature")  # by the next way of a probe, which needs no change
Request = TypeVar("Request")
Item = TypeVar("Item")


class Refused(ServerError):
    """The server refused a request with 400 or 422, which costs nothing. code: the server's error code, if any."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def concerns_prompt_alone(self) -> bool:
        """Whether the refusal concerns this prompt alone, so that the server may accept others."""
        return self.code in OF_THE_PROMPT


class Budget:
    """Dollars spent, and dollars reserved for calls under way. A call that might exceed the limit does not start.

    setting: the option that sets the limit, named in error messages.
    """

    def __init__(self, limit: float | None = None, setting: str = "") -> None:
        self.limit, self.setting = limit, setting
        self.spent = 0.0
        self.flying: list[float] = []
        self.settled = asyncio.Event()

    def has_room_for(self, bound: float) -> bool:
        """Return whether a call that costs at most `bound` dollars may start now."""
        return self.limit is None or self.spent + sum(self.flying) + bound <= self.limit

    async def set_aside(self, bound: float) -> None:
        """Reserve `bound` dollars as soon as they fit. Raises ConfigError if they never will."""
        while not self.has_room_for(bound):
            if not self.flying:
                raise ConfigError(
                    f"{self.setting}={self.limit:g} would be passed: ${self.spent:.4f} are spent, and the next call "
                    "may cost more than is left. All responses so far are kept: raise it and run the same command "
                    "again."
                )
            await self.settled.wait()
        self.flying.append(bound)

    def settle(self, bound: float, cost: float) -> None:
        """Replace the reserved dollars of a call by its actual cost, and wake calls that wait for budget."""
        self.flying.remove(bound)
        self.spent += cost
        self.settled.set()
        self.settled = asyncio.Event()  # an event belongs to one event loop, a budget may outlive several


@dataclass
class CallPool(Generic[Request]):
    """Calls of one model behind a server.

    kind: the kind under which calls are remembered (`sample`, `judge`, …).
    body: make the JSON body of a request.
    response: extract the response to remember from a chat completion.
    extra: fields that every body has besides (`model.extra_body`).
    changes: changes of requests for servers that do not take every parameter (`em.api.parameters`).
    """

    kind: str
    model: str
    client: Client
    calls: Calls
    body: Callable[[Request], dict[str, Any]]
    response: Callable[[Mapping[str, Any]], dict[str, Any]]
    price: Price | None
    budget: Budget = field(default_factory=Budget)
    extra: Mapping[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    recorder: Recorder = field(init=False)
    bar: Any = field(init=False)

    @asynccontextmanager
    async def open(self, total: int, words: str, unit: str) -> AsyncIterator[None]:
        """Connect to the server, and show a progress bar."""
        from tqdm import tqdm

        self.changes = read_changes(self.client.base_url, self.model, self.calls)
        with tqdm(total=total, desc=words, unit=unit) as self.bar:
            async with self.client, Recorder(self.calls.folder) as self.recorder:
                yield

    def list_missing(self, requests: Iterable[Request], key: Callable[[Request], str] = request_key) -> list[Request]:
        """List the requests without a remembered response, without duplicates, in their order."""
        by_key = {key(request): request for request in requests}
        remembered = self.calls.find_stored_keys(list(by_key))
        return [request for name, request in by_key.items() if name not in remembered]

    async def run(self, source: AsyncIterator[Iterable[Item]], work: Callable[[Item], Awaitable[object]]) -> None:
        """Do the work on all items of a source, which yields them in parts.

        The first exception of source or work stops the rest; it is raised after the calls under way have finished.
        """
        queue: asyncio.Queue[tuple[Item] | None] = asyncio.Queue()
        failures: list[Exception] = []

        async def feed() -> None:
            try:
                async for part in source:
                    for item in part:
                        queue.put_nowait((item,))
            except Exception as error:
                failures.append(error)

        async def take() -> None:
            while (entry := await queue.get()) and not failures:
                try:
                    await work(*entry)
                except Exception as error:
                    failures.append(error)
                    feeding.cancel()
                self.bar.update()

        feeding = asyncio.create_task(feed())
        workers = [asyncio.create_task(take()) for _ in range(self.client.connections)]
        try:
            await asyncio.wait({feeding})
            for _ in workers:
                queue.put_nowait(None)
            await asyncio.gather(*workers)
        finally:
            for task in (feeding, *workers):
                task.cancel()
            await asyncio.gather(feeding, *workers, return_exceptions=True)
        if failures:
            raise failures[0]

    async def ask(self, request: Request) -> dict[str, Any]:
        """Return the remembered response to a request, or call the model and remember its response."""
        key = request_key(request)
        if remembered := self.calls.read_responses([key]):
            return remembered[key]
        response = await self.call(self.body(request))
        await self.recorder.store_call(self.kind, request, response)
        return response

    async def call(self, body: Mapping[str, Any], exempt: Collection[str] = ()) -> dict[str, Any]:
        """Make one call within the budget. A reply without token counts is charged at its maximum cost.

        Args:
            exempt: changes of the request that may not be learnt from this call.

        Raises:
            Refused: the server refused this request. ServerError: it refuses every request, or did not answer.
        """
        import openai

        bound = self.compute_maximum_cost(body)
        await self.budget.set_aside(bound)
        cost = 0.0
        try:
            reply = await self.complete_chat(body, exempt)
            usd = compute_usd(self.price, read_usage(reply.body))
            cost = bound if usd is None else usd
            return self.make_response(reply.body) | {"seconds": round(reply.seconds, 3)}
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise Refused(explain_error(self.model, error), error.code) from None
        except openai.OpenAIError as error:
            raise ServerError(explain_error(self.model, error)) from None
        finally:
            self.budget.settle(bound, cost)
            if self.price:
                self.bar.set_postfix_str(f"${self.budget.spent:.4f}", refresh=False)

    async def complete_chat(self, body: Mapping[str, Any], exempt: Collection[str]) -> Reply:
        """Request a completion with the parameters that the server takes, as it told so far or tells now."""
        import openai

        new: list[str] = []
        while True:
            sent = apply_changes({**body, **self.extra}, [*self.changes, *new])
            try:
                reply = await self.client.complete_chat(sent)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                change = None
                if error.code not in OF_THE_PROMPT:
                    change = find_change(error, sent, [*self.changes, *new, *exempt])
                if change is None:
                    raise
                new.append(change)
            else:
                self.learn_changes([change for change in new if change not in self.changes])
                return reply

    def learn_changes(self, changes: Collection[str]) -> None:
        """Remember changes with which the server accepted a request, and tell the user."""
        if not changes:
            return
        store_changes(self.client.base_url, self.model, changes, self.calls)
        self.changes = [change for change in CHANGES if change in (*self.changes, *changes)]
        for change in changes:
            self.bar.write(describe_change(self.client.base_url, self.model, change))

    def make_response(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to remember, with the provider that a router chose."""
        provider = completion.get("provider")
        return self.response(completion) | ({"provider": provider} if isinstance(provider, str) else {})

    def compute_maximum_cost(self, body: Mapping[str, Any]) -> float:
        """Return the maximum cost of a call in dollars; 0 without a price."""
        if self.price is None:
            return 0.0
        text = "".join(message["content"] for message in body["messages"])
        return self.price.bound_cost(text, body["max_completion_tokens"] * body.get("n", 1))

    async def probe(self, bodies: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Make one call in the best way that the server accepts; return that way and the response.

        bodies: the body of the call by way, best first. A refusal costs nothing; the last is raised if all are refused.
        """
        refusals = []
        for way, body in bodies.items():
            try:
                return way, await self.call(body, exempt=LEFT_OUT_BY_OTHER_WAYS)
            except Refused as refusal:
                refusals.append(refusal)
        raise refusals[-1]


async def yield_once(part: Iterable[Item]) -> AsyncIterator[Iterable[Item]]:
    """Yield a single part, as a source for `CallPool.run` or `Judge.ask`."""
    yield part
