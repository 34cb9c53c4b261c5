"""How a judge behind a server can be read, learnt from the first real judgement: no call is made for this alone.

The first judgement is asked with log-probabilities and room for a whole reply. A server that refuses them is asked
for structured output, then for text: refusals cost nothing. From the tokens of the reply it shows whether integers are
single tokens, or whether the first one names a label: scores and labels are learnt apart. Where it does not show (a
word, a single digit), the reply is kept and the next judgement is asked in the same way, three times at most.

The identity of a judge, what is sent besides the prompt, and its way through a server's Batch API (`em.api.batches`)
stand here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from em.api.batches import Found, Work, ask_by_batch
from em.api.client import Client
from em.config import ApiJudge, Reading
from em.config.addresses import server_name
from em.judge.readings import body, is_integer, kept
from em.runtime.memory import Calls, request_key
from em.types import JudgeRequest

LADDER = ("learn", "structured", "sampled")
"""Ways to ask an unknown model, from the best; the next is tried where the server refuses one."""


@dataclass(frozen=True)
class LearnRequest:
    """Under which name it is remembered how a judge is read."""

    judge: str
    parameters: tuple[tuple[str, str], ...]
    labelled: bool
    rule: str = "learning_v2"


def learnt(response: Mapping[str, Any], labels: Sequence[str] = ()) -> tuple[str, str] | None:
    """The way to read scores (with `labels`: labels) that a first reply shows, and why; None where it does not."""
    choice = response["choices"][0]
    top = choice.get("top") or []
    if not top:
        return "sampled", "the server gives no log-probabilities"
    if labels:
        first = max(top, key=lambda pair: pair[1])[0].strip().strip('"*').lower()
        named = [label for label in labels if first and label.lower().startswith(first)]
        return ("logprobs", "the first token names a label") if len(named) == 1 else None
    if any(is_integer(token) and len(token.strip()) > 1 for token, _ in top):
        return "logprobs", "integers of two digits are single tokens"
    tokens = [token.strip() for token in choice["tokens"]]
    tokens = [token for token in tokens if token]
    if len(tokens) > 1 and all(is_digits(token) for token in tokens[:2]):
        return "mass", "an integer takes several tokens"
    return None


def is_digits(token: str) -> bool:
    """Whether a token consists of digits."""
    return token.isascii() and token.isdigit()


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


async def judge_by_batch(
    judge: ApiJudge, client: Client, requests: Sequence[JudgeRequest], calls: Calls, bar: Any
) -> dict[str, str]:
    """Judge all requests by batches; remember the results. Returns what failed, in words, by the request's key."""
    by_key = {request_key(r): r for r in requests}

    def remember(found: Found) -> None:
        calls.remember("judge", [(by_key[key], kept(reply) | {"batch": True}) for key, reply in found])

    bodies = {key: body(request, judge.model) for key, request in by_key.items()}
    work = Work(judge.model, "judgements", "judge.batch", bodies, remember)
    return await ask_by_batch(client, work, calls.folder / "batches", bar)
