"""How tests have a server judge: requests, a judge of the server, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from em.api.pool import once
from em.api.prices import load_prices
from em.config import ApiJudge
from em.judge.probe import in_reading
from em.judge.readings import read
from em.judge.remote import ServerJudge
from em.runtime.memory import Calls, request_key
from em.types import Judgement, JudgeRequest, Prices
from tests.support.chat_server import ChatServer

LABELS = ("TRUE", "FALSE", "UNKNOWN")


def judge_at(server: ChatServer, model: str, **changes: Any) -> ApiJudge:
    """A judge of the server."""
    return ApiJudge(**{"name": "judge", "model": model, "base_url": server.base_url} | changes)


def scores(count: int, first: int = 0) -> list[JudgeRequest]:
    """Requests for scores."""
    prompts = [f"Rate answer {i} from 0 to 100, or say CODE or REFUSAL." for i in range(first, first + count)]
    return [JudgeRequest("judge", prompt, (), ("CODE", "REFUSAL"), "") for prompt in prompts]


def judge_all(
    settings: ApiJudge, requests: list[JudgeRequest], calls: Calls, prices: Prices | None = None
) -> ServerJudge:
    """Have all requests judged that are not remembered yet; the judge, with all that it found out."""
    judge = ServerJudge(settings)
    asyncio.run(judge.ask(once(requests), calls, load_prices(None) if prices is None else prices))
    return judge


def said(
    settings: ApiJudge, requests: list[JudgeRequest], calls: Calls, readings: Mapping[bool, str]
) -> list[Judgement]:
    """What is remembered of the requests."""
    asked = [in_reading(settings, request, readings[bool(request.labels)]) for request in requests]
    known = calls.known([request_key(each) for each in asked])
    return [read(each, known[request_key(each)], 0.25) for each in asked]
