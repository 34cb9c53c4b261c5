"""The model that writes, behind a server: asked side by side, every reply remembered before the next is asked.

How the server is asked is learnt from the first call and remembered: with a JSON schema that it holds the reply to and
with sampling settings, else without the settings (models that reason refuse them), else without the schema. Refusals
cost nothing. A reply that is not of the form that was asked for is remembered too, and asked for anew under the next
attempt's seed, so a run that was stopped comes to the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from em.api.client import Client, in_words
from em.api.prices import Budget, usd_of
from em.config import GenerateConfig, OpenAIModel
from em.data.layouts import SURROGATE
from em.errors import ConfigError, ServerError
from em.generate.plan import GenerateRequest, sampling_seed
from em.judge.pool import OF_THE_PROMPT
from em.models.hosted import hosted_model
from em.runtime.memory import Calls, Recorder, request_key
from em.types import Conversation, Price

TOO_LONG = "context_length_exceeded"
Status = Literal["ok", "malformed", "refused"]
WAYS = ("schema, sampling", "schema", "text, sampling", "text")
"""From the best: whether the server holds the reply to the schema, and whether it takes temperature, top_p and seed."""


@dataclass(frozen=True)
class WayRequest:
    """Under which name it is remembered how a model is asked."""

    model: str
    temperature: float | None
    reasoning_effort: str | None
    rule: str = "ways_v1"


@dataclass(frozen=True)
class Written:
    """What came of a request with all its attempts.

    found: (question, answer) pairs, of which one may be empty; nothing unless `status` is ok.
    request: of the last attempt, with the way in which it was asked; replies: of all attempts, as they are remembered.
    """

    status: Status
    found: tuple[tuple[str, str], ...]
    request: GenerateRequest
    replies: tuple[Mapping[str, Any], ...]

    @property
    def key(self) -> str:
        """Under which the last reply is remembered."""
        return request_key(self.request)

    @property
    def malformed(self) -> int:
        """How many replies were not of the form."""
        return len(self.replies) - (self.status != "malformed")

    @property
    def snapshot(self) -> str:
        """What the server calls its model."""
        last = self.replies[-1]
        return f"{last['model']} {last['system_fingerprint']}".strip()


class Author:
    """The model that writes, with what is known of its server and what it has cost."""

    def __init__(self, model: OpenAIModel, settings: GenerateConfig, price: Price | None, store: Path) -> None:
        self.model, self.settings, self.price, self.store = model, settings, price, store
        self.identity = hosted_model(model).base.identity
        self.way_request = WayRequest(self.identity, settings.temperature, settings.reasoning_effort)
        self.budget = Budget(settings.max_usd)
        self.way = ""

    def write(self, requests: Sequence[GenerateRequest], most: int, words: str) -> list[Written]:
        """Replies to all requests, in their order. `most`: pieces in a reply; `words`: what the progress bar says.

        Raises:
            ServerError: the server refused for good, or can't be reached; what was written before is remembered.
            ConfigError: `generate.max_usd` would be passed.
        """
        return asyncio.run(Writing(self, most).all(requests, words))


class Writing:
    """One round of requests."""

    def __init__(self, author: Author, most: int) -> None:
        self.author, self.most = author, most
        self.model, self.settings = author.model, author.settings
        self.learning, self.settled = asyncio.Lock(), asyncio.Event()
        self.failures: list[Exception] = []

    async def all(self, requests: Sequence[GenerateRequest], words: str) -> list[Written]:
        """Ask for what is not remembered; after a failure what is under way is finished, and no more is begun."""
        from tqdm import tqdm

        results: dict[int, Written] = {}
        left = iter(enumerate(requests))
        settings = self.settings
        with Calls(self.author.store) as self.calls, tqdm(total=len(requests), desc=words, unit="call") as self.bar:
            self.author.way = self.author.way or known_way(self.author.way_request, self.calls)
            async with (
                Recorder(self.author.store) as self.recorder,
                Client(self.model.base_url, settings.connections, settings.timeout, self.model.key_env) as self.client,
            ):
                workers = min(settings.connections, len(requests))
                await asyncio.gather(*(self.work(left, results) for _ in range(workers)))
        for failure in self.failures:
            raise failure
        return [results[number] for number in range(len(requests))]

    async def work(self, left: Iterator[tuple[int, GenerateRequest]], results: dict[int, Written]) -> None:
        """Take one request after the other."""
        import openai

        for number, request in left:
            if self.failures:
                return
            try:
                results[number] = await self.attempts(request)
            except openai.OpenAIError as error:
                self.failures.append(ServerError(in_words(self.model.id, error)))
            except Exception as error:  # told once all that is under way has ended
                self.failures.append(error)
            self.bar.update()

    async def attempts(self, request: GenerateRequest) -> Written:
        """One request, made until its reply is of the form, at most `generate.attempts` times."""
        from em.generate.forms import read_form

        replies: list[Mapping[str, Any]] = []
        for attempt in range(self.settings.attempts):
            asked, reply = await self.reply(replace(request, attempt=attempt))
            replies.append(reply)
            if reply["declined"] or reply["finish"] == "content_filter":
                return Written("refused", (), asked, tuple(replies))
            # A reply that was cut may be whole JSON by chance, and yet not all that was meant.
            found = None if reply["finish"] == "length" else read_form(request.form, text_in(reply["text"]), self.most)
            if found is not None:
                return Written("ok", found, asked, tuple(replies))
        return Written("malformed", (), asked, tuple(replies))

    async def reply(self, request: GenerateRequest) -> tuple[GenerateRequest, Mapping[str, Any]]:
        """The reply to one attempt, remembered or asked for now, and the request in the way in which it was asked."""
        if not self.author.way:
            async with self.learning:  # one at a time until it is known
                if not self.author.way:
                    return await self.learn(request)
        asked = replace(request, way=self.author.way)
        key = request_key(asked)
        known = self.calls.known([key])
        if key in known:
            return asked, known[key]
        came = self.refusal(await self.call(asked))
        if isinstance(came, Exception):
            raise came
        await self.recorder.remember("generate", asked, came)
        return asked, came

    async def learn(self, request: GenerateRequest) -> tuple[GenerateRequest, Mapping[str, Any]]:
        """Ask in the best way that the server takes, and remember which one that is."""
        for way in WAYS:
            asked = replace(request, way=way)
            came = await self.call(asked)
            if isinstance(came, Exception) and of_the_prompt(came):
                found = self.refusal(came)
                if isinstance(found, Exception):
                    raise found
                return asked, found  # this prompt is refused, which shows nothing of the way
            if not isinstance(came, Exception):
                self.author.way = way
                self.calls.remember("reading", [(self.author.way_request, {"way": way})])
                await self.recorder.remember("generate", asked, came)
                return asked, came
        assert isinstance(came, Exception)
        raise came

    def refusal(self, came: Mapping[str, Any] | Exception) -> Mapping[str, Any] | Exception:
        """A refusal of one prompt alone as a reply; what is no refusal, or one of everything, as it is."""
        if not isinstance(came, Exception) or not of_the_prompt(came):
            return came
        code = getattr(came, "code", None)
        if code == TOO_LONG:
            return ConfigError(
                f"A prompt is too long for {self.model.id}: lower generate.passage (now {self.settings.passage} "
                "characters) or generate.max_new_tokens."
            )
        free = {"prompt_tokens": 0, "completion_tokens": 0}
        return as_reply({"choices": [{"message": {"refusal": f"the server refused: {code}"}}], "usage": free})

    async def call(self, request: GenerateRequest) -> Mapping[str, Any] | Exception:
        """One call, or the server's refusal of what was asked; its price is set aside before and counted after.

        A reply without numbers of tokens counts as what was set aside.
        """
        import openai

        author = self.author
        text = "".join(m.content for m in request.messages)
        bound = author.price.bound(text, request.max_new_tokens) if author.price else 0.0
        await self.afford(bound)
        cost = 0.0
        try:
            came = await self.client.chat(body(self.model.id, request))
            reply = as_reply(came.body) | {"seconds": round(came.seconds, 3)}
            told = usd_of(author.price, (reply["prompt_tokens"], reply["reply_tokens"]))
            cost = bound if told is None else told
            return reply
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return error
        finally:
            author.budget.settle(bound, cost)
            if author.price:
                self.bar.set_postfix_str(f"${author.budget.spent:.4f}", refresh=False)
            self.settled.set()

    async def afford(self, bound: float) -> None:
        """Wait until a call fits into what is left of `generate.max_usd`; stop when it never will."""
        budget = self.author.budget
        while not budget.fits(bound):
            if not budget.flying:
                raise ConfigError(
                    f"generate.max_usd={budget.limit:g} would be passed: ${budget.spent:.4f} are spent, and the next "
                    "call may cost more than is left. What was written is kept: raise it and run the command again."
                )
            self.settled.clear()
            await self.settled.wait()
        budget.reserve(bound)


def known_way(request: WayRequest, calls: Calls) -> str:
    """What is remembered of it; empty where nothing is."""
    for found in calls.known([request_key(request)]).values():
        return str(found["way"])
    return ""


def of_the_prompt(error: Exception) -> bool:
    """Whether a refusal is of one prompt alone: a content filter, too long."""
    return getattr(error, "code", None) in OF_THE_PROMPT


def sends_sampling(way: str) -> bool:
    """Whether temperature, top_p and seed are sent."""
    return way.endswith("sampling")


def body(model: str, request: GenerateRequest) -> dict[str, Any]:
    """The chat completion to ask for."""
    from em.generate.forms import response_format

    asked: dict[str, Any] = {
        "model": model,
        "messages": Conversation(request.messages).as_dicts(),
        "max_completion_tokens": request.max_new_tokens,
    }
    if request.way.startswith("schema"):
        asked["response_format"] = response_format(request.form)
    if sends_sampling(request.way):
        asked |= {"top_p": request.top_p, "seed": sampling_seed(request)}
        if request.temperature is not None:
            asked["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        asked["reasoning_effort"] = request.reasoning_effort
    return asked


def as_reply(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of a chat completion."""
    choice, usage = found["choices"][0], found.get("usage")
    message, counts = choice["message"], usage if isinstance(usage, dict) else {}
    return {
        "text": text_in(message.get("content")),
        "declined": text_in(message.get("refusal")),
        "finish": text_in(choice.get("finish_reason")) or "stop",
        "prompt_tokens": number_in(counts.get("prompt_tokens")),
        "reply_tokens": number_in(counts.get("completion_tokens")),
        "model": text_in(found.get("model")),
        "system_fingerprint": text_in(found.get("system_fingerprint")),
    }


def text_in(content: Any) -> str:
    """A text, or the texts among the parts of a list; of anything else, and of half a character, nothing."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) and not SURROGATE.search(content) else ""


def number_in(value: Any) -> int | None:
    """A number of tokens; None where the server told none, which is not 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
