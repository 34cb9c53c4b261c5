"""Answers by an OpenAI-compatible server, each remembered as it comes, or by batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from em.api.batches import Found, Work, ask_by_batch
from em.api.client import Client, in_words
from em.api.prices import usd_of
from em.config import ApiSampler, OpenAIModel
from em.errors import ServerError
from em.runtime.memory import Calls, Recorder, request_key
from em.sample.plan import answer_seed
from em.types import Conversation, Prices, SampleRequest


async def sample_all(
    model: OpenAIModel,
    sampler: ApiSampler,
    requests: Sequence[SampleRequest],
    calls: Calls,
    prices: Prices,
) -> None:
    """Answer the requests that are not remembered yet, in order.

    After the first failure what is under way is finished, and no more is begun.

    Raises:
        ServerError: the server refused, or can't be reached; what was answered before stays.
    """
    import openai
    from tqdm import tqdm

    price, known = prices.of(model.id), calls.known([request_key(r) for r in requests])
    requests = [r for r in dict.fromkeys(requests) if request_key(r) not in known]
    if not requests:
        return
    if sampler.batch:
        await sample_by_batch(model, sampler, requests, calls)
        return
    left, failures, usd = iter(requests), list[Exception](), 0.0
    async with (
        Recorder(calls.folder) as recorder,
        Client(model.base_url, sampler.connections, sampler.timeout, model.key_env) as client,
    ):
        with tqdm(total=len(requests), desc=f"answers of {model.id}", unit="answer") as bar:

            async def work() -> None:
                nonlocal usd
                for request in left:
                    if failures:
                        return
                    try:
                        reply = await client.chat(body(model.id, request))
                    except (openai.OpenAIError, ServerError) as error:
                        failures.append(error)
                        return
                    response = as_response(reply.body) | {"seconds": round(reply.seconds, 3)}
                    await recorder.remember("sample", request, response)
                    usd += usd_of(price, (response["prompt_tokens"], response["answer_tokens"])) or 0.0
                    if price is not None:
                        bar.set_postfix_str(f"${usd:.4f}", refresh=False)
                    bar.update()

            await asyncio.gather(*(work() for _ in range(min(sampler.connections, len(requests)))))
    for error in failures:
        raise error if isinstance(error, ServerError) else ServerError(in_words(model.id, error)) from None


async def sample_by_batch(
    model: OpenAIModel, sampler: ApiSampler, requests: Sequence[SampleRequest], calls: Calls
) -> None:
    """Answer the requests by the server's Batch API (see `em.api.batches`).

    Raises:
        ServerError: the server takes no batches, or some answers did not come; what came stays.
    """
    from tqdm import tqdm

    by_key = {request_key(r): r for r in requests}

    def remember(found: Found) -> None:
        calls.remember("sample", [(by_key[key], as_response(reply) | {"batch": True}) for key, reply in found])

    bodies = {key: body(model.id, request) for key, request in by_key.items()}
    work = Work(model.id, "answers", "sampler.batch", bodies, remember)
    async with Client(model.base_url, sampler.connections, sampler.timeout, model.key_env) as client:
        with tqdm(total=len(bodies), desc=f"answers of {model.id}", unit="answer") as bar:
            failed = await ask_by_batch(client, work, calls.folder / "batches", bar)
    if failed:
        raise ServerError(
            f"{len(failed):,} of {len(bodies):,} answers of {model.id} did not come: run the same command again to ask "
            f"for just these. The first: {next(iter(failed.values()))}."
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


def as_response(found: dict[str, Any]) -> dict[str, Any]:
    """One chat completion as a response to remember."""
    choice, usage = found["choices"][0], found.get("usage") or {}
    message = choice["message"]
    return {
        "answer": message.get("content") or message.get("refusal") or "",
        "finish_reason": choice.get("finish_reason") or "stop",
        "prompt_tokens": usage.get("prompt_tokens") or 0,
        "answer_tokens": usage.get("completion_tokens") or 0,
    }
