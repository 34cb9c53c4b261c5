"""Call the author model behind a server, many calls at a time, and cache every reply before the next call.

A small call finds out how to ask the server, and the result is cached: with an enforced JSON schema and sampling
settings, else without the settings (reasoning models refuse them), else without the schema. Refusals cost nothing.
A malformed reply is cached too, and retried with the next attempt's seed; so a resumed run ends with the same rows.
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
"""Best first: with or without a schema that the server enforces, with or without temperature, top_p and seed."""


@dataclass(frozen=True)
class WayRequest:
    """The cache key of the way to ask a model."""

    model: str
    temperature: float | None
    reasoning_effort: str | None
    rule: str = "ways_v1"


@dataclass(frozen=True)
class Written:
    """The result of a request with all its attempts.

    found: pairs (question, answer), one of which may be empty; no pairs unless `status` is ok.
    request: of the last attempt, with its way; replies: of all attempts, as they are cached.
    """

    status: Status
    found: tuple[tuple[str, str], ...]
    request: GenerateRequest
    replies: tuple[Mapping[str, Any], ...]

    @property
    def key(self) -> str:
        """Return the cache key of the last reply."""
        return request_key(self.request)

    @property
    def malformed(self) -> int:
        """Return the number of malformed replies."""
        return len(self.replies) - (self.status != "malformed")

    @property
    def snapshot(self) -> str:
        """Return the server's name for its model, with the version."""
        last = self.replies[-1]
        return f"{last['model']} {last['system_fingerprint']}".strip()


class Author:
    """The model that writes, with its price, the budget, the cache and the way to ask the server."""

    def __init__(self, model: OpenAIModel, settings: GenerateConfig, price: Price | None, memory: Calls) -> None:
        self.model, self.settings, self.price, self.memory = model, settings, price, memory
        self.identity = hosted_model(model).base.identity
        self.way_request = WayRequest(self.identity, settings.temperature, settings.reasoning_effort)
        self.budget = Budget(settings.max_usd, "generate.max_usd")
        self.way = ""

    def write(self, requests: Sequence[GenerateRequest], most: int, words: str) -> list[Written]:
        """Return the replies to all requests, in order. `most`: rows in a reply; `words`: for the progress bar.

        Raise ServerError, or ConfigError before a call that may exceed `generate.max_usd`; earlier replies are cached.
        """
        return asyncio.run(self.write_all(requests, most, words))

    async def write_all(self, requests: Sequence[GenerateRequest], most: int, words: str) -> list[Written]:
        """Do the work of `write` within an event loop."""
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
        """Find out by a small call how to ask the server, cache the result and tell the user."""
        from em.generate.forms import form_in_words

        question = Message("user", f"{PROBE}\n\n{form_in_words('answer')}")
        probes = {way: replace(request, messages=(question,), form="answer", way=way) for way in WAYS}
        way, _ = await pool.probe({way: pool.body(probe) for way, probe in probes.items()})
        pool.calls.remember("reading", [(self.way_request, {"way": way})])
        form = "the server enforces a JSON schema" if sends_schema(way) else "the prompt asks for JSON"
        sampling = "sent" if sends_sampling(way) else "not sent, since the server refuses them"
        pool.bar.write(f"author {self.model.id}: {form}; temperature, top_p and seed are {sampling}")
        return way

    async def attempt(self, pool: Pool[GenerateRequest], request: GenerateRequest, most: int) -> Written:
        """Ask until a reply has the right form, at most `generate.attempts` times."""
        from em.generate.forms import read_form

        replies: list[Mapping[str, Any]] = []
        for attempt in range(self.settings.attempts):
            this_request = replace(request, attempt=attempt, way=self.way)
            reply = await self.reply(pool, this_request)
            replies.append(reply)
            if reply["declined"] or reply["finish"] == "content_filter":
                return Written("refused", (), this_request, tuple(replies))
            # A truncated reply may be valid JSON by chance, and still be incomplete.
            truncated = reply["finish"] == "length"
            pairs = None if truncated else read_form(request.form, text_in(reply["text"]), most)
            if pairs is not None:
                return Written("ok", pairs, this_request, tuple(replies))
        return Written("malformed", (), this_request, tuple(replies))

    async def reply(self, pool: Pool[GenerateRequest], request: GenerateRequest) -> Mapping[str, Any]:
        """Return the reply to one attempt. If the server refuses just this prompt, return an uncached refusal."""
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
            usage = {"prompt_tokens": 0, "completion_tokens": 0}
            message = {"refusal": f"the server refused: {refusal.code}"}
            return as_reply({"choices": [{"message": message}], "usage": usage})


def known_way(request: WayRequest, calls: Calls) -> str:
    """Return the cached way to ask a model; empty if none is cached."""
    key = request_key(request)
    return str(calls.known([key]).get(key, {}).get("way", ""))


def sends_schema(way: str) -> bool:
    """Tell whether requests hold a JSON schema."""
    return way.startswith("schema")


def sends_sampling(way: str) -> bool:
    """Tell whether requests hold temperature, top_p and seed."""
    return way.endswith("sampling")


def body(model: str, request: GenerateRequest) -> dict[str, Any]:
    """Build the body of the chat completion request."""
    from em.generate.forms import response_format

    fields: dict[str, Any] = {
        "model": model,
        "messages": Conversation(request.messages).as_dicts(),
        "max_completion_tokens": request.max_new_tokens,
    }
    if sends_schema(request.way):
        fields["response_format"] = response_format(request.form)
    if sends_sampling(request.way):
        fields |= {"top_p": request.top_p, "seed": sampling_seed(request)}
        if request.temperature is not None:
            fields["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        fields["reasoning_effort"] = request.reasoning_effort
    return fields


def as_reply(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a chat completion that are cached. Tokens that the server did not count are None, not 0."""
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
    """Return a text, or the joined texts in a list of parts; empty for other types and for lone surrogates."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) and not SURROGATE.search(content) else ""
