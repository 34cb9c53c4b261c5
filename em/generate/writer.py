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
from em.api.pool import TOO_LONG, Budget, CallPool, Refused, yield_once
from em.api.replies import read_usage
from em.config import GenerateConfig, OpenAIModel
from em.errors import ConfigError
from em.generate.plan import GenerateRequest, derive_sampling_seed
from em.models.hosted import make_hosted_model
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

    pairs: (question, answer), one of which may be empty; no pairs unless `status` is ok.
    request: of the last attempt, with its way; replies: of all attempts, as they are cached.
    """

    status: Status
    pairs: tuple[tuple[str, str], ...]
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
        self.identity = make_hosted_model(model).base.identity
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
        bodies = partial(build_completion_body, model.id)
        record = make_reply_record
        pool = CallPool(
            "generate", model.id, client, self.memory, bodies, record, self.price, self.budget, model.extra_body
        )

        async def write_one(entry: tuple[int, GenerateRequest]) -> None:
            number, request = entry
            written[number] = await self.try_attempts(pool, request, most)

        async with pool.open(len(requests), words, "call"):
            self.way = self.way or find_cached_way(self.way_request, self.memory) or await self.probe(pool, requests[0])
            await pool.run(yield_once(enumerate(requests)), write_one)
        return [written[number] for number in range(len(requests))]

    async def probe(self, pool: CallPool[GenerateRequest], request: GenerateRequest) -> str:
        """Find out by a small call how to ask the server, cache the result and tell the user."""
        from em.generate.forms import describe_form

        question = Message("user", f"{PROBE}\n\n{describe_form('answer')}")
        probes = {way: replace(request, messages=(question,), form="answer", way=way) for way in WAYS}
        way, _ = await pool.probe({way: pool.body(probe) for way, probe in probes.items()})
        pool.calls.store_calls("reading", [(self.way_request, {"way": way})])
        form = "the server enforces a JSON schema" if sends_schema(way) else "the prompt asks for JSON"
        sampling = "sent" if sends_sampling(way) else "not sent, since the server refuses them"
        pool.bar.write(f"author {self.model.id}: {form}; temperature, top_p and seed are {sampling}")
        return way

    async def try_attempts(self, pool: CallPool[GenerateRequest], request: GenerateRequest, most: int) -> Written:
        """Ask until a reply has the right form, at most `generate.attempts` times."""
        from em.generate.forms import parse_reply

        replies: list[Mapping[str, Any]] = []
        for attempt in range(self.settings.attempts):
            this_request = replace(request, attempt=attempt, way=self.way)
            reply = await self.ask_once(pool, this_request)
            replies.append(reply)
            if reply["declined"] or reply["finish"] == "content_filter":
                return Written("refused", (), this_request, tuple(replies))
            # A truncated reply may be valid JSON by chance, and still be incomplete.
            truncated = reply["finish"] == "length"
            pairs = None if truncated else parse_reply(request.form, str(reply["text"]), most)
            if pairs is not None:
                return Written("ok", pairs, this_request, tuple(replies))
        return Written("malformed", (), this_request, tuple(replies))

    async def ask_once(self, pool: CallPool[GenerateRequest], request: GenerateRequest) -> Mapping[str, Any]:
        """Return the reply to one attempt. If the server refuses just this prompt, return an uncached refusal."""
        try:
            return await pool.ask(request)
        except Refused as refusal:
            if refusal.code == TOO_LONG:
                raise ConfigError(
                    f"A prompt is too long for {self.model.id}: lower generate.passage (now {self.settings.passage} "
                    "characters) or generate.max_new_tokens."
                ) from None
            if not refusal.concerns_prompt_alone:
                raise
            usage = {"prompt_tokens": 0, "completion_tokens": 0}
            message = {"refusal": f"the server refused: {refusal.code}"}
            return make_reply_record({"choices": [{"message": message}], "usage": usage})


def find_cached_way(request: WayRequest, calls: Calls) -> str:
    """Return the cached way to ask a model; empty if none is cached."""
    key = request_key(request)
    return str(calls.read_responses([key]).get(key, {}).get("way", ""))


def sends_schema(way: str) -> bool:
    """Tell whether requests hold a JSON schema."""
    return way.startswith("schema")


def sends_sampling(way: str) -> bool:
    """Tell whether requests hold temperature, top_p and seed."""
    return way.endswith("sampling")


def build_completion_body(model: str, request: GenerateRequest) -> dict[str, Any]:
    """Build the body of the chat completion request."""
    from em.generate.forms import make_response_format

    fields: dict[str, Any] = {
        "model": model,
        "messages": Conversation(request.messages).to_dicts(),
        "max_completion_tokens": request.max_new_tokens,
    }
    if sends_schema(request.way):
        fields["response_format"] = make_response_format(request.form)
    if sends_sampling(request.way):
        fields |= {"top_p": request.top_p, "seed": derive_sampling_seed(request)}
        if request.temperature is not None:
            fields["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        fields["reasoning_effort"] = request.reasoning_effort
    return fields


def make_reply_record(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a chat completion that are cached. Tokens that the server did not count are None, not 0."""
    choice = completion["choices"][0]
    prompt_tokens, reply_tokens, _ = read_usage(completion)
    return {
        "text": choice["message"]["content"],
        "declined": choice["message"].get("refusal") or "",
        "finish": choice["finish_reason"] or "stop",
        "prompt_tokens": prompt_tokens,
        "reply_tokens": reply_tokens,
        "model": completion.get("model") or "",
        "system_fingerprint": completion.get("system_fingerprint") or "",
    }
