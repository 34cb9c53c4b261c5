"""How a judge behind a server is asked: who it is, what is sent besides the prompt, and how its reply will be read."""

from __future__ import annotations

from dataclasses import replace

from em.client import server_name
from em.config import ApiJudge, Reading
from em.judge.learning import LearnRequest
from em.store import Calls, request_key
from em.types import JudgeRequest


def identity(judge: ApiJudge) -> str:
    """What judges: the model's name, and its server where that is not OpenAI's own."""
    server = server_name(judge.base_url)
    return f"{judge.model} at {server}" if server else judge.model


def parameters(judge: ApiJudge, reading: str) -> tuple[tuple[str, str], ...]:
    """What a request depends on besides the prompt, by the way of reading."""
    found: dict[str, str] = {}
    if judge.reasoning_effort is not None:
        found["reasoning_effort"] = judge.reasoning_effort
    if reading in ("structured", "sampled", "learn"):
        found["max_reply_tokens"] = str(judge.max_reply_tokens)
        if judge.temperature is not None and reading != "learn":
            found["temperature"] = str(judge.temperature)
    if reading == "sampled":
        found["samples"] = str(judge.samples)
    return tuple(found.items())


def in_reading(judge: ApiJudge, request: JudgeRequest, reading: str) -> JudgeRequest:
    """The same judgement, asked in this way."""
    return replace(request, reading=reading, parameters=parameters(judge, reading))


def plain_key(request: JudgeRequest) -> str:
    """The name of a judgement, however it is asked."""
    return request_key(replace(request, reading="", parameters=()))


def known_reading(judge: ApiJudge, calls: Calls) -> str:
    """The way in which this judge is read: as configured, or as learnt before; empty when it is not known yet."""
    if judge.reading is not Reading.auto:
        return str(judge.reading.value)
    request = LearnRequest(identity(judge), parameters(judge, "learn"))
    found = calls.known([request_key(request)])
    return str(next(iter(found.values()))["reading"]) if found else ""
