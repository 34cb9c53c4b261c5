"""Answers by an OpenAI-compatible server, each remembered as it comes, or by batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from em.api.batches import Work
from em.api.client import Client
from em.api.pool import Pool, once, usage_of
from em.api.prices import Price, price_of
from em.config import ApiSampler, OpenAIModel
from em.errors import ServerError
from em.runtime.memory import Calls
from em.sample.plan import answer_seed
from em.types import Conversation, SampleRequest


async def sample_all(
    model: OpenAIModel,
    sampler: ApiSampler,
    requests: Sequence[SampleRequest],
    calls: Calls,
    prices: Mapping[str, Price],
) -> None:
    """Answer the requests that are not remembered yet, in order.

    Raises:
        ServerError: the server refused, can't be reached, or a batch did not bring all answers; what came stays.
    """
    client = Client(model.base_url, sampler.connections, sampler.timeout, model.key_env)
    price = price_of(model.id, prices)
    pool = Pool("sample", model.id, client, calls, partial(body, model.id), as_response, price)
    missing = pool.missing(requests)
    if not missing:
        return
    async with pool.open(len(missing), f"answers of {model.id}", "answer"):
        if not sampler.batch:
            await pool.run(once(missing), pool.ask)
        elif failed := await Work(pool, missing, "answers", "sampler.batch").ask():
            raise ServerError(
                f"{len(failed):,} of {len(missing):,} answers of {model.id} did not come: run the same command again "
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
