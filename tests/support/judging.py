"""Helpers to judge by a server in tests: requests, a judge's settings, and cached judgements."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from em.api.pool import yield_once
from em.api.prices import load_prices
from em.config import ApiJudge
from em.judge.probe import copy_with_reading
from em.judge.readings import read_response
from em.judge.remote import ServerJudge
from em.runtime.memory import Calls, request_key
from em.types import Judgement, JudgeRequest, Prices
from tests.support.chat_server import ChatServer

LABELS = ("TRUE", "FALSE", "UNKNOWN")


def make_judge(server: ChatServer, model: str, **changes: Any) -> ApiJudge:
    """Make the settings of a judge at the server."""
    return ApiJudge(**{"name": "judge", "model": model, "base_url": server.base_url} | changes)


def make_score_requests(count: int, first: int = 0) -> list[JudgeRequest]:
    """Make requests for scores."""
    prompts = [f"Rate answer {i} from 0 to 100, or say CODE or REFUSAL." for i in range(first, first + count)]
    return [JudgeRequest("judge", prompt, (), ("CODE", "REFUSAL"), "") for prompt in prompts]


def judge_all(
    settings: ApiJudge, requests: list[JudgeRequest], calls: Calls, prices: Prices | None = None
) -> ServerJudge:
    """Judge all requests that are not cached, and return the judge."""
    judge = ServerJudge(settings)
    asyncio.run(judge.ask(yield_once(requests), calls, load_prices(None) if prices is None else prices))
    return judge


def read_judgements(
    settings: ApiJudge, requests: list[JudgeRequest], calls: Calls, readings: Mapping[bool, str]
) -> list[Judgement]:
    """Read the cached judgements of the requests."""
    calls_made = [copy_with_reading(settings, request, readings[bool(request.labels)]) for request in requests]
    replies = calls.read_responses([request_key(each) for each in calls_made])
    return [read_response(each, replies[request_key(each)], 0.25) for each in calls_made]
