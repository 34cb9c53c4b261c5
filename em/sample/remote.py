"""Generate answers by an OpenAI-compatible server: by single calls, each remembered at once, or by batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from em.api.batches import BatchedCalls
from em.api.client import Client
from em.api.lifetimes import check_served
from em.api.pool import CallPool, yield_once
from em.api.replies import read_usage
from em.config import ApiSampler, OpenAIModel
from em.errors import ServerError
from em.models.hosted import parse_hosted_name
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls
from em.sample.plan import derive_answer_seed
from em.types import Conversation, ModelRef, Prices, SampleRequest


class ServerSampler:
    """A sampler for models behind a server."""

    name, precision = "api", ""

    def __init__(self, model: OpenAIModel, settings: ApiSampler) -> None:
        self.model, self.settings, self.together = model, settings, settings.batch

    def check(self, models: Sequence[ModelRef], store: Path, manifest: ManifestWriter) -> None:
        """Check that the server still serves these models."""
        asyncio.run(check_served(self.model, [parse_hosted_name(model)[1] for model in models], store, manifest))

    def open(self, models: Sequence[ModelRef], calls: Calls) -> AbstractAsyncContextManager[None]:
        """Do nothing: there is nothing to start."""
        return nullcontext()

    async def sample(self, model: ModelRef, requests: Sequence[SampleRequest], calls: Calls, prices: Prices) -> None:
        """Generate the answers that are not remembered yet, in order.

        Raises:
            ServerError: the server refused, can't be reached, or a batch lacks answers; received answers are kept.
        """
        settings, name = self.settings, parse_hosted_name(model)[1]
        client = Client(self.model.base_url, settings.connections, settings.timeout, self.model.key_env)
        pool = CallPool(
            "sample",
            name,
            client,
            calls,
            partial(build_sample_body, name),
            make_server_response,
            prices.find_price(name),
            extra=self.model.extra_body,
        )
        missing = pool.list_missing(requests)
        async with pool.open(len(missing), f"answers of {name}", "answer"):
            if not settings.batch:
                await pool.run(yield_once(missing), pool.ask)
            elif failures := await BatchedCalls(pool, missing, "answers", "sampler.batch").ask():
                raise ServerError(
                    f"{len(failures):,} of {len(missing):,} answers of {name} failed: run the same command again to "
                    f"retry these alone. The first failure: {next(iter(failures.values()))}."
                )


def build_sample_body(model: str, request: SampleRequest) -> dict[str, Any]:
    """Make the JSON body of a request."""
    return {
        "model": model,
        "messages": Conversation(request.messages).to_dicts(),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_new_tokens,
        "seed": derive_answer_seed(request),
    }


def make_server_response(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the response to remember from a chat completion."""
    choice = completion["choices"][0]
    prompt_tokens, answer_tokens, _ = read_usage(completion)
    return {
        "answer": choice["message"].get("content") or choice["message"].get("refusal") or "",
        "finish_reason": choice.get("finish_reason") or "stop",
        "prompt_tokens": prompt_tokens or 0,
        "answer_tokens": answer_tokens or 0,
    }
