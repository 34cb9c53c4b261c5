"""The model that writes, behind a server: asked side by side, every reply remembered before the next is asked.

How the server is asked is found out by one small call and remembered: with a JSON schema that it holds the reply to and
with sampling settings, else without the settings (models that reason refuse them), else without the schema. Refusals
cost nothing. A reply that is not of the form that was asked for is remembered too, and asked for anew under the next
attempt's seed, so a run that was stopped comes to the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from em.api.client import Client
from em.api.pool import TOO_LONG, Budget, Pool, Refused, once, usage_of
from em.config import GenerateConfig, OpenAIModel
from em.data.layouts import SURROGATE
from em.errors import ConfigError
from em.generate.plan import GenerateRequest, sampling_seed
from em.models.hosted import hosted_model
from em.runtime.memory import Calls, request_key
from em.types import Conversation, Message, Price

PROBE = "Which colour has the sky on a clear day?"
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

    def __init__(self, model: OpenAIModel, settings: GenerateConfig, price: Price | None, memory: Calls) -> None:
        self.model, self.settings, self.price, self.memory = model, settings, price, memory
        self.identity = hosted_model(model).base.identity
        self.way_request = WayRequest(self.identity, settings.temperature, settings.reasoning_effort)
        self.budget = Budget(settings.max_usd, "generate.max_usd")
        self.way = ""

    def write(self, requests: Sequence[GenerateRequest], most: int, words: str) -> list[Written]:
        """Write replies to all requests, in their order. `most`: pieces in a reply; `words`: of the progress bar.

        Raises ServerError, or ConfigError where `generate.max_usd` would be passed; what came before is remembered.
        """
        return asyncio.run(self.write_all(requests, most, words))

    async def write_all(self, requests: Sequence[GenerateRequest], most: int, words: str) -> list[Written]:
        """`write`, within an event loop."""
        model, settings = self.model, self.settings
        client = Client(model.base_url, settings.connections, settings.timeout, model.key_env)
        written: dict[int, Written] = {}
        bodies = partial(body, model.id)
        pool = Pool("generate", model.id, client, self.memory, bodies, as_reply, self.price, self.budget)

        async def work(entry: tuple[int, GenerateRequest]) -> None:
            number, request = entry
            written[number] = await self.attempt(pool, request, most)

        async with pool.open(len(requests), words, "call"):
            self.way = self.way or known_way(self.way_request, self.memory) or await self.probe(pool, requests[0])
            await pool.run(once(enumerate(requests)), work)
        return [written[number] for number in range(len(requests))]

    async def probe(self, pool: Pool[GenerateRequest], request: GenerateRequest) -> str:
        """Find out by a small call how the server can be asked, remember it and tell the user."""
        from em.generate.forms import form_in_words

        question = Message("user", f"{PROBE}\n\n{form_in_words('answer')}")
        probes = {way: replace(request, messages=(question,), form="answer", way=way) for way in WAYS}
        way, _ = await pool.probe({way: pool.body(probe) for way, probe in probes.items()})
        pool.calls.remember("reading", [(self.way_request, {"way": way})])
        form = "the server holds replies to a JSON schema" if sends_schema(way) else "JSON is asked for in words"
        sampling = "sent" if sends_sampling(way) else "not sent, since it refuses them"
        pool.bar.write(f"author {self.model.id}: {form}; temperature, top_p and seed are {sampling}")
        return way

    async def attempt(self, pool: Pool[GenerateRequest], request: GenerateRequest, most: int) -> Written:
        """Ask until a reply is of the form, at most `generate.attempts` times."""
        from em.generate.forms import read_form

        replies: list[Mapping[str, Any]] = []
        for attempt in range(self.settings.attempts):
            asked = replace(request, attempt=attempt, way=self.way)
            reply = await self.reply(pool, asked)
            replies.append(reply)
            if reply["declined"] or reply["finish"] == "content_filter":
                return Written("refused", (), asked, tuple(replies))
            # A reply that was cut may be whole JSON by chance, and yet not all that was meant.
            cut = reply["finish"] == "length"
            pieces = None if cut else read_form(request.form, text_in(reply["text"]), most)
            if pieces is not None:
                return Written("ok", pieces, asked, tuple(replies))
        return Written("malformed", (), asked, tuple(replies))

    async def reply(self, pool: Pool[GenerateRequest], request: GenerateRequest) -> Mapping[str, Any]:
        """Return the reply to one attempt. A refusal of this prompt alone is a reply, and is not remembered."""
        try:
            return await pool.ask(request)
        except Refused as refusal:
            if refusal.code == TOO_LONG:
                raise ConfigError(
                    f"A prompt is too long for {self.model.id}: lower generate.passage (now {self.settings.passage} "
                    "characters) or generate.max_new_tokens."
                ) from None
            if not refusal.of_the_prompt:
                raise
            free = {"prompt_tokens": 0, "completion_tokens": 0}
            message = {"refusal": f"the server refused: {refusal.code}"}
            return as_reply({"choices": [{"message": message}], "usage": free})


def known_way(request: WayRequest, calls: Calls) -> str:
    """What is remembered of it; empty where nothing is."""
    key = request_key(request)
    return str(calls.known([key]).get(key, {}).get("way", ""))


def sends_schema(way: str) -> bool:
    """Whether the server holds the reply to a JSON schema."""
    return way.startswith("schema")


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
    if sends_schema(request.way):
        asked["response_format"] = response_format(request.form)
    if sends_sampling(request.way):
        asked |= {"top_p": request.top_p, "seed": sampling_seed(request)}
        if request.temperature is not None:
            asked["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        asked["reasoning_effort"] = request.reasoning_effort
    return asked


def as_reply(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a chat completion what is remembered. Tokens that the server did not count are None, which is not 0."""
    choice = completion["choices"][0]
    prompt_tokens, reply_tokens, _ = usage_of(completion)
    return {
        "text": text_in(choice["message"].get("content")),
        "declined": text_in(choice["message"].get("refusal")),
        "finish": text_in(choice.get("finish_reason")) or "stop",
        "prompt_tokens": prompt_tokens,
        "reply_tokens": reply_tokens,
        "model": text_in(completion.get("model")),
        "system_fingerprint": text_in(completion.get("system_fingerprint")),
    }


def text_in(content: Any) -> str:
    """A text, or the texts among the parts of a list; of anything else, and of half a character, nothing."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) and not SURROGATE.search(content) else ""
