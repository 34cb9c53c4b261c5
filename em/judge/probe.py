"""How a judge behind a server can be read, found out by one small call for scores and one for labels.

The call asks for log-probabilities and room for a whole reply. Its tokens show whether integers are single tokens, or
whether the first one names a label. A server that refuses log-probabilities is asked for structured output, then for
text: refusals cost nothing. What was found is remembered, and no call is made where `judge.reading` says it.

The identity of a judge, and what is sent besides the prompt, stand here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.config import ApiJudge, Reading
from em.config.addresses import server_name
from em.judge.plan import WORDS
from em.judge.readings import is_integer
from em.runtime.memory import Calls, request_key
from em.types import JudgeRequest

WAYS = ("learn", "structured", "sampled")
"""Ways to ask an unknown model, from the best; the next is tried where the server refuses one."""
SCORE = "How many minutes are three quarters of an hour? Answer with one number from 0 to 100, and with nothing else."
LABEL = 'Is two and two four? Say "TRUE", "FALSE" or "UNKNOWN", and nothing else.'
LABELS = ("TRUE", "FALSE", "UNKNOWN")
READ_FROM = {
    "logprobs": "log-probabilities",
    "mass": "log-probabilities, by several calls each",
    "structured": "structured output",
    "sampled": "text",
}


@dataclass(frozen=True)
class LearnRequest:
    """Under which name it is remembered how a judge is read. Name and rule are those of older versions' records."""

    judge: str
    parameters: tuple[tuple[str, str], ...]
    labelled: bool
    rule: str = "learning_v2"


def learn_request(judge: ApiJudge, labelled: bool) -> LearnRequest:
    """Name the record of how this judge's scores (with `labelled`: labels) are read."""
    return LearnRequest(identity(judge), parameters(judge, WAYS[0]), labelled)


def probe_requests(judge: ApiJudge, labelled: bool) -> dict[str, JudgeRequest]:
    """Make the small call in all ways, from the best."""
    what: tuple[str, tuple[str, ...], tuple[str, ...]] = (LABEL, LABELS, ()) if labelled else (SCORE, (), WORDS)
    request = JudgeRequest(identity(judge), *what, "")
    return {way: in_reading(judge, request, way) for way in WAYS}


def reading_shown(response: Mapping[str, Any], labels: Sequence[str] = ()) -> tuple[str, str]:
    """Return the way to read scores (with `labels`: labels) that a probe's response shows, and why."""
    choice = response["choices"][0]
    top = choice.get("top") or []
    if not top:
        return "sampled", "the server gives no log-probabilities"
    if labels:
        first = max(top, key=lambda pair: pair[1])[0].strip().strip('"*').lower()
        named = [label for label in labels if first and label.lower().startswith(first)]
        if len(named) == 1:
            return "logprobs", "the first token names a label"
        return "sampled", "the reply began with no label"
    if any(is_integer(token) and len(token.strip()) > 1 for token, _ in top):
        return "logprobs", "integers of two digits are single tokens"
    tokens = [token.strip() for token in choice["tokens"] if token.strip()]
    if len(tokens) > 1 and all(token.isascii() and token.isdigit() for token in tokens[:2]):
        return "mass", "an integer takes several tokens"
    return "sampled", "the reply began with no number"


def identity(judge: ApiJudge) -> str:
    """Name what judges: the model, and its server where that is not OpenAI's own."""
    server = server_name(judge.base_url)
    return f"{judge.model} at {server}" if server else judge.model


def parameters(judge: ApiJudge, reading: str) -> tuple[tuple[str, str], ...]:
    """List what a request depends on besides the prompt, by the way of reading."""
    pairs: dict[str, str] = {}
    if judge.reasoning_effort is not None:
        pairs["reasoning_effort"] = judge.reasoning_effort
    if reading in WAYS:
        pairs["max_reply_tokens"] = str(judge.max_reply_tokens)
        if judge.temperature is not None and reading != "learn":
            pairs["temperature"] = str(judge.temperature)
    if reading == "sampled":
        pairs["samples"] = str(judge.samples)
    return tuple(pairs.items())


def in_reading(judge: ApiJudge, request: JudgeRequest, reading: str) -> JudgeRequest:
    """Return the same judgement, asked in this way."""
    # In full, for `replace` takes three times as long, and this is done for every verdict that is read.
    what = request.judge, request.prompt, request.labels, request.words
    return JudgeRequest(*what, reading, parameters(judge, reading), request.precision)


def known_readings(judge: ApiJudge, calls: Calls) -> dict[bool, str]:
    """How this judge is read, for scores (False) and labels (True): as configured, or as remembered, where it is."""
    if judge.reading is not Reading.auto:
        return dict.fromkeys((False, True), str(judge.reading.value))
    keys = {request_key(learn_request(judge, labelled)): labelled for labelled in (False, True)}
    return {keys[key]: str(response["reading"]) for key, response in calls.known(list(keys)).items()}
