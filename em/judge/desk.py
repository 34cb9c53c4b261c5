"""The work of one judge behind a server: a queue, workers, and what they find out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from em.client import CallFailed, Client, in_words
from em.config import ApiJudge
from em.errors import ConfigError, EmError, ServerError
from em.judge.asking import identity, in_reading, parameters, plain_key
from em.judge.batch import judge_by_batch
from em.judge.learning import LADDER, LearnRequest, learnt
from em.judge.readings import body, kept, to_expand
from em.prices import Budget, Price, usd_of
from em.store import Calls, Recorder, request_key
from em.types import JudgeRequest

HOPELESS = 20  # calls that fail one after the other, with no success between: the server is down


@dataclass
class Outcome:
    """How the judging went.

    reading: how the judge is read.
    failures: calls that failed at every attempt, in words, by `plain_key`.
    keys: under which requests are remembered, as far as that was found out: it takes a third of reading a verdict.
    """

    reading: str
    keys: dict[JudgeRequest, str] = field(default_factory=dict, repr=False)  # asyncio shows what a task returns
    failures: dict[str, str] = field(default_factory=dict)
    usd: float | None = 0.0
    asked: int = 0


class Desk:
    """The work of one judge: a queue, workers, and what they found out."""

    def __init__(
        self,
        judge: ApiJudge,
        client: Client,
        calls: Calls,
        recorder: Recorder,
        price: Price | None,
        outcome: Outcome,
        bar: Any,
        grow: bool,
    ) -> None:
        self.judge, self.client, self.calls, self.recorder = judge, client, calls, recorder
        self.price, self.outcome, self.bar, self.grow = price, outcome, bar, grow
        self.budget = Budget(judge.max_usd)
        self.queue: asyncio.Queue[JudgeRequest | None] = asyncio.Queue()
        self.settled = asyncio.Event()
        self.learning = asyncio.Lock()
        self.unread: list[tuple[JudgeRequest, dict[str, Any]]] = []
        self.rung = 0
        self.stopped: EmError | None = None
        self.halt = asyncio.Event()

    async def work(self, source: AsyncIterator[Iterable[JudgeRequest]]) -> None:
        """Judge until the source ends; what was begun when the work must stop is finished and remembered."""
        workers = [asyncio.create_task(self.worker()) for _ in range(self.judge.connections)]
        feeding, halted = asyncio.create_task(self.feed(source)), asyncio.create_task(self.halt.wait())
        try:
            await asyncio.wait({feeding, halted}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            for _ in workers:
                self.queue.put_nowait(None)
            await asyncio.gather(*workers)
        finally:
            for task in (feeding, halted, *workers):
                task.cancel()
            await asyncio.gather(feeding, halted, *workers, return_exceptions=True)
        if self.unread:
            self.keep_unread("sampled")
        if self.stopped:
            raise self.stopped

    async def work_by_batch(self, source: AsyncIterator[Iterable[JudgeRequest]]) -> None:
        """Judge by batches, once all answers are there; the first ones at once, until it is known how to read them."""
        wanted = list(dict.fromkeys([request async for part in source for request in part]))
        self.bar.total = len(wanted)
        left = self.missing(wanted)
        self.bar.update(len(wanted) - len(left))
        while left and not self.outcome.reading:
            await self.judge_one(left.pop())
            self.bar.update()
        if self.unread:
            self.keep_unread("sampled")
        asked = [in_reading(self.judge, request, self.outcome.reading) for request in left]
        if self.outcome.reading == "mass" and asked:
            raise ConfigError(
                f"{self.judge.model} is read by several calls a judgement (mass), which no batch can: leave out "
                "judge.batch, or set judge.reading=structured."
            )
        if asked:
            most = sum(self.bound(r, body(r, self.judge.model)) for r in asked) / 2
            if not self.budget.fits(most):
                raise ConfigError(
                    f"judge.max_usd={self.judge.max_usd:g} might be passed: {len(asked):,} judgements by batch cost "
                    f"${most:.2f} at most. Raise it, or leave out judge.batch."
                )
            failed = await judge_by_batch(
                self.judge, self.client, asked, self.calls, self.calls.folder / "batches", self.bar
            )
            plain = {request_key(r): plain_key(r) for r in asked}
            self.outcome.failures |= {plain[key]: words for key, words in failed.items()}
            self.outcome.asked += len(asked) - len(failed)

    def missing(self, requests: Sequence[JudgeRequest]) -> list[JudgeRequest]:
        """Those that are not remembered; all of them while it is not known how this judge is read."""
        if not self.outcome.reading:
            return list(requests)
        keys = [request_key(in_reading(self.judge, r, self.outcome.reading)) for r in requests]
        self.outcome.keys.update(zip(requests, keys, strict=True))
        known = self.calls.there(keys)
        return [r for r, key in zip(requests, keys, strict=True) if key not in known]

    async def feed(self, source: AsyncIterator[Iterable[JudgeRequest]]) -> None:
        """Put what is not remembered into the queue."""
        seen = set[JudgeRequest]()
        async for part in source:
            wanted = list(part)
            fresh = []
            for request in wanted:
                before = len(seen)
                seen.add(request)
                if len(seen) > before:
                    fresh.append(request)
            if self.grow:
                self.bar.total += len(wanted)
            self.bar.update(len(wanted) - len(fresh))  # the same text is judged once
            missing = self.missing(fresh)
            self.bar.update(len(fresh) - len(missing))
            for request in missing:
                self.queue.put_nowait(request)

    async def worker(self) -> None:
        """Take one request after the other."""
        while (request := await self.queue.get()) is not None:
            if self.stopped:
                continue
            try:
                await self.judge_one(request)
            except EmError as error:
                self.stopped = self.stopped or error
                self.halt.set()
            self.bar.update()

    async def judge_one(self, request: JudgeRequest) -> None:
        """One judgement: asked, remembered, its price counted. Sets the way of reading if it is not known yet."""
        if not self.outcome.reading:
            async with self.learning:  # one at a time until it is known
                if not self.outcome.reading:
                    await self.learn(request)
                    return
        asked = in_reading(self.judge, request, self.outcome.reading)
        response = await self.ask(asked)
        if response is not None:
            await self.recorder.remember("judge", asked, response)

    async def learn(self, request: JudgeRequest) -> None:
        """Judge in the best way that the server takes, and see from the reply how to read the others."""
        while True:
            way, last = LADDER[self.rung], self.rung == len(LADDER) - 1
            response = await self.ask(in_reading(self.judge, request, way), last)
            if response is not None or plain_key(request) in self.outcome.failures:
                break
            self.rung += 1
        if response is None:
            return
        found = learnt(response) if way == "learn" else (way, "the server refuses log-probabilities")
        self.unread.append((request, response))
        if found is None:
            return
        reading, why = found
        if reading == "mass":
            expanded = [(r, await self.expanded(in_reading(self.judge, r, reading), kept)) for r, kept in self.unread]
            if any(response.get("refused") for _, response in expanded):
                reading, why = "structured", "integers take several tokens, and the server continues no begun reply"
            else:
                self.unread = expanded
        where = LearnRequest(identity(self.judge), parameters(self.judge, "learn"))
        self.calls.remember("reading", [(where, {"reading": reading, "why": why})])
        self.keep_unread(reading)

    def keep_unread(self, reading: str) -> None:
        """Remember the replies that came before it was known how to read them, as what they now are."""
        self.outcome.reading = self.outcome.reading or reading
        # A whole reply to a plain question is text, whatever the others will be.
        as_text = {"as": "sampled"} if reading == "structured" else {}
        whole = [
            (in_reading(self.judge, r, reading), kept | (as_text if "tokens" in kept["choices"][0] else {}))
            for r, kept in self.unread
        ]
        self.calls.remember("judge", whole)
        self.unread = []

    async def ask(self, request: JudgeRequest, last: bool = True) -> dict[str, Any] | None:
        """One judgement's response; None when it failed at every attempt, or was refused where more ways are left."""
        import openai

        asked = body(request, self.judge.model)
        bound = self.bound(request, asked)
        await self.afford(bound)
        cost = 0.0
        try:
            reply = await self.client.chat(asked)
            response: dict[str, Any] = kept(reply.body) | {"seconds": round(reply.seconds, 3)}
            if request.reading == "mass":
                response = await self.expanded(request, response)
            cost = usd_of(self.price, response["usage"]) or 0.0
            self.outcome.asked += 1
            return response
        except CallFailed as error:
            if self.client.failed_in_a_row >= HOPELESS:
                raise
            self.outcome.failures[plain_key(request)] = str(error)
            return None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not last:
                return None
            raise ServerError(in_words(self.judge.model, error)) from None
        except openai.OpenAIError as error:
            raise ServerError(in_words(self.judge.model, error)) from None
        finally:
            self.budget.settle(bound, cost)
            if self.outcome.usd is not None:
                self.outcome.usd += cost
                self.bar.set_postfix_str(f"${self.outcome.usd:.4f}", refresh=False)
            self.settled.set()

    async def expanded(self, request: JudgeRequest, response: Mapping[str, Any]) -> dict[str, Any]:
        """A response with the top tokens behind each likely beginning of a number (`mass`)."""
        import openai

        tree: dict[str, Any] = dict(response.get("tree") or {})
        usage = list(response["usage"])
        top = response["choices"][0].get("top") or []
        while top and not request.labels and (beginnings := to_expand({"": top} | tree)):
            for begun in beginnings:
                try:
                    reply = kept((await self.client.chat(body(request, self.judge.model, begun))).body)
                except (openai.BadRequestError, openai.UnprocessableEntityError):
                    return {**response, "refused": True}
                if not continued(response["usage"][0], reply["usage"][0], begun):
                    return {**response, "refused": True}
                tree[begun] = reply["choices"][0].get("top") or []
                usage = [(a or 0) + (b or 0) for a, b in zip(usage, reply["usage"], strict=True)]
        return {**response, "tree": tree, "usage": usage}

    def bound(self, request: JudgeRequest, asked: Mapping[str, Any]) -> float:
        """What a judgement may cost at most."""
        if self.price is None:
            return 0.0
        calls = 11 if request.reading == "mass" else 1
        return calls * self.price.bound(request.prompt, asked["max_completion_tokens"] * asked.get("n", 1))

    async def afford(self, bound: float) -> None:
        """Wait until a call fits into what is left of `judge.max_usd`; stop when it never will."""
        while not self.budget.fits(bound):
            if not self.budget.flying:
                raise ConfigError(
                    f"judge.max_usd={self.judge.max_usd:g} would be passed: ${self.budget.spent:.4f} are spent, and "
                    "the next judgement may cost more than is left. What was judged is kept: raise it and run the "
                    "same command again."
                )
            self.settled.clear()
            await self.settled.wait()
        self.budget.reserve(bound)


def continued(before: int | None, after: int | None, begun: str) -> bool:
    """Whether a begun reply was taken as one: it makes the prompt longer by its own tokens and no turn's header."""
    return before is None or after is None or after - before <= len(begun)
