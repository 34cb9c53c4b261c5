"""The work of one judge behind a server: a queue, workers, and what they find out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from em.api.client import CallFailed, Client, in_words
from em.api.prices import Budget, usd_of
from em.config import ApiJudge
from em.errors import ConfigError, EmError, ServerError
from em.judge.learning import LADDER, LearnRequest, identity, in_reading, judge_by_batch, learnt, parameters, plain_key
from em.judge.readings import body, kept, to_expand
from em.runtime.memory import Calls, Recorder, request_key
from em.types import JudgeRequest, Price

HOPELESS = 20  # calls that fail one after the other, with no success between: the server is down
ENOUGH = 3  # replies that do not show how to read the judge: then they are read as text
OF_THE_PROMPT = ("content_filter", "invalid_prompt", "context_length_exceeded")  # refusals of one request alone


@dataclass
class Outcome:
    """How the judging went.

    readings: how the judge is read, for scores (False) and for labels (True), as far as that is known.
    failures: calls that failed at every attempt, or whose prompt was refused, in words, by `plain_key`.
    refused: which of them are refusals of the prompt: the next run would be refused too.
    keys: under which requests are remembered, as far as that was found out: it takes a third of reading a verdict.
    usd: what was spent, None where no price is known; asked: judgements that were made.
    """

    readings: dict[bool, str] = field(default_factory=dict)
    keys: dict[JudgeRequest, str] = field(default_factory=dict, repr=False)  # asyncio shows what a task returns
    failures: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    usd: float | None = 0.0
    asked: int = 0

    @property
    def reading(self) -> str:
        """How scores are read; how labels are, where there are no scores; empty where neither is known."""
        return self.readings.get(False) or self.readings.get(True) or ""

    def reading_of(self, request: JudgeRequest) -> str:
        """How this request's reply is read; empty while that is not known."""
        return self.readings.get(bool(request.labels), "")


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
        budget: Budget,
        unavailable: EmError | None,
    ) -> None:
        self.judge, self.client, self.calls, self.recorder = judge, client, calls, recorder
        self.price, self.outcome, self.bar, self.grow = price, outcome, bar, grow
        self.budget, self.unavailable = budget, unavailable
        self.queue: asyncio.Queue[JudgeRequest | None] = asyncio.Queue()
        self.settled = asyncio.Event()
        self.learning = asyncio.Lock()
        self.unread: dict[bool, list[tuple[JudgeRequest, dict[str, Any]]]] = {False: [], True: []}
        self.rung = 0
        self.refused_in_a_row = 0
        self.stopped: Exception | None = None
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
        self.keep_rest()
        if self.stopped:
            raise self.stopped

    async def work_by_batch(self, source: AsyncIterator[Iterable[JudgeRequest]]) -> None:
        """Judge by batches, once all answers are there; the first ones at once, until it is known how to read them."""
        wanted = list(dict.fromkeys([request async for part in source for request in part]))
        self.bar.total = len(wanted)
        left = self.missing(wanted)
        self.bar.update(len(wanted) - len(left))
        if left and self.unavailable:
            raise self.unavailable
        unknown = [request for request in left if not self.outcome.reading_of(request)]
        for request in unknown:
            if not self.outcome.reading_of(request):
                await self.judge_one(request)
                left.remove(request)
                self.bar.update()
        self.keep_rest()
        asked = [in_reading(self.judge, request, self.outcome.reading_of(request)) for request in left]
        if any(request.reading == "mass" for request in asked):
            raise ConfigError(
                f"{self.judge.model} is read by several calls a judgement (mass), which no batch can: leave out "
                "judge.batch, or set judge.reading=structured."
            )
        if asked:
            most = sum(self.bound(r.prompt, body(r, self.judge.model)) for r in asked) / 2
            if not self.budget.fits(most):
                raise ConfigError(
                    f"judge.max_usd={self.judge.max_usd:g} might be passed: {len(asked):,} judgements by batch cost "
                    f"${most:.2f} at most. Raise it, or leave out judge.batch."
                )
            failed = await judge_by_batch(self.judge, self.client, asked, self.calls, self.bar)
            plain = {request_key(r): plain_key(r) for r in asked}
            self.outcome.failures |= {plain[key]: words for key, words in failed.items()}
            self.outcome.asked += len(asked) - len(failed)

    def missing(self, requests: Sequence[JudgeRequest]) -> list[JudgeRequest]:
        """Those that are not remembered. Those whose way is not known may be, from a run that did not learn it."""
        ways = [self.outcome.reading_of(r) or LADDER[0] for r in requests]
        keys = [request_key(in_reading(self.judge, r, way)) for r, way in zip(requests, ways, strict=True)]
        known = self.calls.there(keys)
        for kind in (False, True):
            mine = [key for r, key in zip(requests, keys, strict=True) if bool(r.labels) is kind]
            if mine and not self.outcome.readings.get(kind) and known.issuperset(mine):
                self.outcome.readings[kind] = LADDER[0]
        self.outcome.keys.update((r, key) for r, key in zip(requests, keys, strict=True) if self.outcome.reading_of(r))
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
            if missing and self.unavailable:
                raise self.unavailable
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
            except Exception as error:  # told once all that is under way has ended
                self.stopped = self.stopped or error
                self.halt.set()
            self.bar.update()

    async def judge_one(self, request: JudgeRequest) -> None:
        """One judgement: asked, remembered, its price counted. Sets the way of reading if it is not known yet."""
        if not self.outcome.reading_of(request):
            async with self.learning:  # one at a time until it is known
                if not self.outcome.reading_of(request):
                    await self.learn(request)
                    return
        asked = in_reading(self.judge, request, self.outcome.reading_of(request))
        response = await self.ask(asked)
        if response is not None:
            await self.recorder.remember("judge", asked, response)

    async def learn(self, request: JudgeRequest) -> None:
        """Judge in the best way that the server takes, and see from the reply how to read the others."""
        kind = bool(request.labels)
        while True:
            way, last = LADDER[self.rung], self.rung == len(LADDER) - 1
            response = await self.ask(in_reading(self.judge, request, way), last)
            if response is not None or plain_key(request) in self.outcome.failures:
                break
            self.rung += 1
        if response is None:
            return
        unread = self.unread[kind]
        unread.append((request, response))
        if way != LADDER[0]:
            found: tuple[str, str] | None = (way, "the server refuses log-probabilities")
        else:
            found = learnt(response, request.labels)
        if found is None and len(unread) == ENOUGH:
            found = "sampled", f"{ENOUGH} replies began with neither a number nor a label"
        if found is None:
            return
        reading, why = found
        if reading == "mass" and not await self.expand_unread(unread):
            reading, why = "structured", "integers take several tokens, and the server continues no begun reply"
        where = LearnRequest(identity(self.judge), parameters(self.judge, LADDER[0]), kind)
        self.calls.remember("reading", [(where, {"reading": reading, "why": why})])
        self.outcome.readings[kind] = reading
        again = self.keep_unread(kind, reading, way)
        for each in again:
            await self.judge_one(each)

    async def expand_unread(self, unread: list[tuple[JudgeRequest, dict[str, Any]]]) -> bool:
        """Make replies that were read by their first token what `mass` needs; whether the server can."""
        import openai

        try:
            whole = [(r, await self.expanded(in_reading(self.judge, r, "mass"), response)) for r, response in unread]
        except openai.OpenAIError as error:
            raise ServerError(in_words(self.judge.model, error)) from None
        if any(response.get("refused") for _, response in whole):
            return False
        unread[:] = whole
        return True

    def keep_unread(self, kind: bool, reading: str, way: str) -> list[JudgeRequest]:
        """Remember the replies that came before it was known how to read them, as what they now are.

        Returns those that must be asked again: one reply is not the several, or not of the temperature, that the
        settings ask for.
        """
        unread, self.unread[kind] = self.unread[kind], []
        several = self.judge.samples > 1 or self.judge.temperature is not None
        if way == LADDER[0] and reading == "sampled" and several:
            return [r for r, _ in unread]
        # A whole reply to a plain question is text, whatever the others will be.
        as_text = {"as": "sampled"} if way == LADDER[0] and reading == "structured" else {}
        self.calls.remember("judge", [(in_reading(self.judge, r, reading), found | as_text) for r, found in unread])
        return []

    def keep_rest(self) -> None:
        """At the end, remember replies too few to learn from: read as text, and asked for in the way they were."""
        for kind in (False, True):
            if self.unread[kind]:
                self.outcome.readings.setdefault(kind, LADDER[0])
                self.keep_unread(kind, LADDER[0], "")

    async def ask(self, request: JudgeRequest, last: bool = True) -> dict[str, Any] | None:
        """One judgement's response; None when it failed at every attempt, or was refused where more ways are left."""
        import openai

        try:
            response = await self.call(request)
            if request.reading == "mass":
                response = await self.expanded(request, response)
                if response.get("refused"):
                    raise ServerError(
                        f"The server of {self.judge.model} continues no begun reply: set judge.reading=structured."
                    )
        except CallFailed as error:
            if self.client.failed_in_a_row >= HOPELESS:
                raise
            self.outcome.failures[plain_key(request)] = str(error)
            return None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            about_prompt = error.code in OF_THE_PROMPT
            if not last and not about_prompt:
                return None
            self.refused_in_a_row += 1
            if (about_prompt or self.outcome.asked) and self.refused_in_a_row < HOPELESS:
                # This prompt is refused (a content filter, too long), others may not be.
                self.outcome.failures[plain_key(request)] = in_words(self.judge.model, error)
                self.outcome.refused.add(plain_key(request))
                return None
            raise ServerError(in_words(self.judge.model, error)) from None
        except openai.OpenAIError as error:
            raise ServerError(in_words(self.judge.model, error)) from None
        self.outcome.asked += 1
        self.refused_in_a_row = 0
        return response

    async def call(self, request: JudgeRequest, begun: str = "") -> dict[str, Any]:
        """One call, as what is remembered of it; its price is set aside before and counted after."""
        asked = body(request, self.judge.model, begun)
        bound = self.bound(request.prompt + begun, asked)
        await self.afford(bound)
        cost = 0.0
        try:
            reply = await self.client.chat(asked)
            response = kept(reply.body) | {"seconds": round(reply.seconds, 3)}
            counted = usd_of(self.price, response["usage"])
            cost = bound if counted is None else counted  # what it may have cost, where the server counts no tokens
            return response
        finally:
            self.budget.settle(bound, cost)
            if self.outcome.usd is not None:
                self.outcome.usd += cost
                self.bar.set_postfix_str(f"${self.outcome.usd:.4f}", refresh=False)
            self.settled.set()

    async def expanded(self, request: JudgeRequest, response: dict[str, Any]) -> dict[str, Any]:
        """A response with the top tokens behind each likely beginning of a number (`mass`).

        `refused` where the server does not continue a begun reply.
        """
        import openai

        tree: dict[str, Any] = dict(response.get("tree") or {})
        usage = list(response["usage"])
        top = response["choices"][0].get("top") or []
        while top and not request.labels and (beginnings := to_expand({"": top} | tree)):
            for begun in beginnings:
                try:
                    reply = await self.call(request, begun)
                except (openai.BadRequestError, openai.UnprocessableEntityError):
                    return response | {"refused": True}
                if not continued(response["usage"][0], reply["usage"][0], begun):
                    return response | {"refused": True}
                tree[begun] = reply["choices"][0].get("top") or []
                usage = [(a or 0) + (b or 0) for a, b in zip(usage, reply["usage"], strict=True)]
        return response | {"tree": tree, "usage": usage}

    def bound(self, text: str, asked: Mapping[str, Any]) -> float:
        """What a call may cost at most."""
        if self.price is None:
            return 0.0
        return self.price.bound(text, asked["max_completion_tokens"] * asked.get("n", 1))

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
