"""Answers by an OpenAI-compatible server. Retries are the openai package's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from em.check import check_key
from em.errors import ServerError
from em.sample.plan import answer_seed
from em.store import Calls, request_key
from em.types import Conversation, SampleRequest


def sample(model: str, base_url: str | None, requests: Sequence[SampleRequest], connections: int, calls: Calls) -> None:
    """Answer the requests that are not remembered yet; each answer is remembered as it comes.

    Raises:
        ConfigError: no key is set.
        ServerError: the server refused, or can't be reached; what was answered before stays.
    """
    check_key()
    known = calls.known([request_key(r) for r in requests])
    missing = {key: r for r in requests if (key := request_key(r)) not in known}
    if missing:
        asyncio.run(sample_all(model, base_url, list(missing.values()), connections, calls))


async def sample_all(
    model: str, base_url: str | None, requests: Sequence[SampleRequest], connections: int, calls: Calls
) -> None:
    """Ask for all, `connections` at a time; the first failure ends the rest."""
    import openai
    from tqdm import tqdm

    gate = asyncio.Semaphore(connections)
    try:
        with tqdm(total=len(requests), desc=f"answers of {model}", unit="answer") as bar:
            async with openai.AsyncOpenAI(base_url=base_url) as client, asyncio.TaskGroup() as group:

                async def one(request: SampleRequest) -> None:
                    async with gate:
                        response = await ask(client, model, request)
                    calls.remember("sample", [(request, response)])
                    bar.update()

                for request in requests:
                    group.create_task(one(request))
    except* (openai.OpenAIError, json.JSONDecodeError) as errors:
        raise ServerError(in_words(model, errors.exceptions[0])) from None


def in_words(model: str, error: BaseException) -> str:
    """What the server's refusal means for the user. The text of a refused key is never repeated: it holds the key."""
    import openai

    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return f"The server refused the key for {model}: check OPENAI_API_KEY."
        case openai.NotFoundError():
            return f"The server has no model {model}: check model.id and model.base_url (it may have been retired)."
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return (
                f"The server refused the request for {model} ({error.status_code}): this model may not take "
                "eval.temperature, eval.top_p or a seed, or eval.max_new_tokens is too large for it."
            )
        case openai.RateLimitError() if "insufficient_quota" in str(error.code):
            return f"The account has no credit left for {model}: top it up, then run the same command again."
        case openai.APIStatusError():
            return f"The server answered {error.status_code} for {model}: run the same command again later."
        case openai.APIConnectionError():
            return "The server can't be reached: check the network and model.base_url, then run the same command again."
        case _:
            return f"The server's answer for {model} can't be used ({type(error).__name__})."


async def ask(client: Any, model: str, request: SampleRequest) -> dict[str, Any]:
    """One chat completion as a response to remember."""
    import openai

    completion = await client.chat.completions.create(
        model=model,
        messages=Conversation(request.messages).as_dicts(),
        temperature=request.temperature,
        top_p=request.top_p,
        max_completion_tokens=request.max_new_tokens,
        seed=answer_seed(request),
    )
    if not isinstance(completion, openai.types.chat.ChatCompletion) or not completion.choices:
        raise openai.OpenAIError("no chat completion")
    choice, usage = completion.choices[0], completion.usage
    return {
        "answer": choice.message.content or choice.message.refusal or "",
        "finish_reason": choice.finish_reason,
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "answer_tokens": usage.completion_tokens if usage else 0,
    }
