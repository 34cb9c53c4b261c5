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
    # In full, for `replace` takes three times as long, and this is done for every verdict that is read.
    asked_with = parameters(judge, reading)
    return JudgeRequest(
        request.judge, request.prompt, request.labels, request.words, reading, asked_with, request.precision
    )


def plain_key(request: JudgeRequest) -> str:
    """The name of a judgement, however it is asked."""
    return request_key(replace(request, reading="", parameters=()))


def known_readings(judge: ApiJudge, calls: Calls) -> dict[bool, str]:
    """How this judge is read, for scores (False) and labels (True): as configured, or as learnt before, where known."""
    if judge.reading is not Reading.auto:
        return dict.fromkeys((False, True), str(judge.reading.value))
    readings = {}
    for labelled in (False, True):
        key = request_key(LearnRequest(identity(judge), parameters(judge, "learn"), labelled))
        if found := calls.known([key]):
            readings[labelled] = str(found[key]["reading"])
    return readings
