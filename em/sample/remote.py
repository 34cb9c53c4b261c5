"""Answers by an OpenAI-compatible server, each remembered as it comes, or by batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from em.api.batches import Work
from em.api.client import Client
from em.api.lifetimes import check_asked
from em.api.pool import Pool, once, usage_of
from em.config import ApiSampler, OpenAIModel
from em.errors import ServerError
from em.models.hosted import hosted_name
from em.runtime.manifest import Manifest
from em.runtime.memory import Calls
from em.sample.plan import answer_seed
from em.types import Conversation, ModelRef, Prices, SampleRequest


class ServerSampler:
    """Has models of a server answer."""

    name, precision = "api", ""

    def __init__(self, model: OpenAIModel, settings: ApiSampler) -> None:
        self.model, self.settings, self.together = model, settings, settings.batch

    def check(self, models: Sequence[ModelRef], store: Path, manifest: Manifest) -> None:
        """Look whether the server still has these models."""
        asyncio.run(check_asked(self.model, [hosted_name(model)[1] for model in models], store, manifest))

    async def sample(self, model: ModelRef, requests: Sequence[SampleRequest], calls: Calls, prices: Prices) -> None:
        """Answer the requests that are not remembered yet, in order.

        Raises:
            ServerError: the server refused, can't be reached, or a batch did not bring all answers; what came stays.
        """
        settings, name = self.settings, hosted_name(model)[1]
        client = Client(self.model.base_url, settings.connections, settings.timeout, self.model.key_env)
        pool = Pool("sample", name, client, calls, partial(body, name), as_response, prices.of(name))
        missing = pool.missing(requests)
        async with pool.open(len(missing), f"answers of {name}", "answer"):
            if not settings.batch:
                await pool.run(once(missing), pool.ask)
            elif failed := await Work(pool, missing, "answers", "sampler.batch").ask():
                raise ServerError(
                    f"{len(failed):,} of {len(missing):,} answers of {name} did not come: run the same command again "
                    f"to ask for just these. The first: {next(iter(failed.values()))}."
                )


def body(model: str, request: SampleRequest) -> dict[str, Any]:
    """The chat completion to ask for."""
    return {
        "model": model,
        "messages": Conversation(request.messages).as_dicts(),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_new_tokens,
        "seed": answer_seed(request),
    }


def as_response(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a chat completion what is remembered."""
    choice = completion["choices"][0]
    prompt_tokens, answer_tokens, _ = usage_of(completion)
    return {
        "answer": choice["message"].get("content") or choice["message"].get("refusal") or "",
        "finish_reason": choice.get("finish_reason") or "stop",
        "prompt_tokens": prompt_tokens or 0,
        "answer_tokens": answer_tokens or 0,
    }
