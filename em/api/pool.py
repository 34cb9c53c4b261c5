"""One pool for all calls of models behind servers: judging, sampling, generating.

Calls are made side by side. What a call may cost is set aside from the budget before it is made, and its response is
remembered before its worker begins another. After the first failure that is not one of a call alone, calls under way
are finished and no new one begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from em.api.client import Client, in_words
from em.api.prices import usd_of
from em.errors import ConfigError, ServerError
from em.runtime.memory import Calls, Recorder, request_key
from em.types import Price

TOO_LONG = "context_length_exceeded"
OF_THE_PROMPT = ("content_filter", "invalid_prompt", TOO_LONG)  # codes of refusals that concern one prompt alone
Request = TypeVar("Request")
Item = TypeVar("Item")


class Refused(ServerError):
    """A request that the server refused with 400 or 422, which costs nothing. code: why, where the server says so."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def of_the_prompt(self) -> bool:
        """Whether other prompts may be taken."""
        return self.code in OF_THE_PROMPT


class Budget:
    """Dollars spent, and set aside for calls that are under way. A call that might pass the limit does not start.

    setting: what names the limit.
    """

    def __init__(self, limit: float | None = None, setting: str = "") -> None:
        self.limit, self.setting = limit, setting
        self.spent = 0.0
        self.flying: list[float] = []
        self.settled = asyncio.Event()

    def fits(self, bound: float) -> bool:
        """Whether a call that costs `bound` at most may start now."""
        return self.limit is None or self.spent + sum(self.flying) + bound <= self.limit

    async def reserve(self, bound: float) -> None:
        """Set aside what a call may cost, as soon as it fits. Raises ConfigError where it never will."""
        while not self.fits(bound):
            if not self.flying:
                raise ConfigError(
                    f"{self.setting}={self.limit:g} would be passed: ${self.spent:.4f} are spent, and the next call "
                    "may cost more than is left. What came so far is kept: raise it and run the same command again."
                )
            await self.settled.wait()
        self.flying.append(bound)

    def settle(self, bound: float, cost: float) -> None:
        """Count what a call cost that has ended."""
        self.flying.remove(bound)
        self.spent += cost
        self.settled.set()
        self.settled = asyncio.Event()  # an event belongs to one event loop, a budget may outlive several


@dataclass
class Pool(Generic[Request]):
    """Calls of one model behind a server.

    kind: as what the calls are remembered.
    body: make the chat completion that a request asks for.
    response: take from a chat completion what is remembered.
    """

    kind: str
    model: str
    client: Client
    calls: Calls
    body: Callable[[Request], dict[str, Any]]
    response: Callable[[Mapping[str, Any]], dict[str, Any]]
    price: Price | None
    budget: Budget = field(default_factory=Budget)
    recorder: Recorder = field(init=False)
    bar: Any = field(init=False)

    @asynccontextmanager
    async def open(self, total: int, words: str, unit: str) -> AsyncIterator[None]:
        """Connect to the server, and show a progress bar."""
        from tqdm import tqdm

        with tqdm(total=total, desc=words, unit=unit) as self.bar:
            async with self.client, Recorder(self.calls.folder) as self.recorder:
                yield

    def missing(self, requests: Iterable[Request], key: Callable[[Request], str] = request_key) -> list[Request]:
        """List the requests that are not remembered, each once, in their order."""
        by_key = {key(request): request for request in requests}
        remembered = self.calls.there(list(by_key))
        return [request for name, request in by_key.items() if name not in remembered]

    async def run(self, source: AsyncIterator[Iterable[Item]], work: Callable[[Item], Awaitable[object]]) -> None:
        """Do the work on all items of a source, whose parts come as they become known.

        The first exception that the source or the work raised is raised once all that was under way has ended.
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
        """Return the response to a request: the remembered one, or one that is asked for and remembered now."""
        key = request_key(request)
        if remembered := self.calls.known([key]):
            return remembered[key]
        response = await self.call(self.body(request))
        await self.recorder.remember(self.kind, request, response)
        return response

    async def call(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make one call within the budget. A reply without counted tokens costs as much as it may have cost at most.

        Raises:
            Refused: the server does not take this request; another ServerError: it takes none, or did not answer.
        """
        import openai

        bound = self.bound(body)
        await self.budget.reserve(bound)
        cost = 0.0
        try:
            reply = await self.client.chat(body)
            usd = usd_of(self.price, usage_of(reply.body))
            cost = bound if usd is None else usd
            return self.response(reply.body) | {"seconds": round(reply.seconds, 3)}
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise Refused(in_words(self.model, error), error.code) from None
        except openai.OpenAIError as error:
            raise ServerError(in_words(self.model, error)) from None
        finally:
            self.budget.settle(bound, cost)
            if self.price:
                self.bar.set_postfix_str(f"${self.budget.spent:.4f}", refresh=False)

    def bound(self, body: Mapping[str, Any]) -> float:
        """Return the most dollars that a call may cost."""
        if self.price is None:
            return 0.0
        text = "".join(message["content"] for message in body["messages"])
        return self.price.bound(text, body["max_completion_tokens"] * body.get("n", 1))

    async def probe(self, bodies: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Make one call in the best way that the server takes; return that way and the response.

        bodies: the call by each way, from the best. A refusal costs nothing; the last is raised if it takes none.
        """
        refusals = []
        for way, body in bodies.items():
            try:
                return way, await self.call(body)
            except Refused as refusal:
                refusals.append(refusal)
        raise refusals[-1]


async def once(part: Iterable[Item]) -> AsyncIterator[Iterable[Item]]:
    """Make a source of one part."""
    yield part


def usage_of(completion: Mapping[str, Any]) -> list[int | None]:
    """Count tokens of prompt and reply, None where the server does not, and of the prompt in the server's cache."""
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt, reply, cached = (
        count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
        for count in (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    )
    return [prompt, reply, cached or 0]
