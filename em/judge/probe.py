"""Find out how a judge behind a server can be read, by one small call for scores and one for labels.

The probe asks for log-probabilities and allows a full reply. Its tokens show whether integers are single tokens, or
whether the first token names a label. If the server refuses log-probabilities, the probe asks for structured output,
then for text; refusals cost nothing. The result is remembered. If `judge.reading` sets the reading, no probe is sent.

This module also names a judge, and lists the parameters of its requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.config import ApiJudge, Reading
from em.judge.plan import WORDS
from em.judge.readings import is_integer
from em.models.hosted import identify_server
from em.models.served.command import find_version
from em.models.weights import resolve_weights
from em.runtime.memory import Calls, request_key
from em.runtime.records import digest
from em.types import JudgeRequest

WAYS = ("learn", "structured", "sampled")
"""Ways to send the probe, best first; if the server refuses one, the next is tried."""
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
    """The key under which a judge's reading is remembered. Class name and rule must match records of older versions."""

    judge: str
    parameters: tuple[tuple[str, str], ...]
    labelled: bool
    rule: str = "learning_v2"


def make_learn_request(judge: ApiJudge, labelled: bool) -> LearnRequest:
    """Make the key under which the reading of this judge's scores (with `labelled`: labels) is remembered."""
    return LearnRequest(identify_judge(judge), list_parameters(judge, WAYS[0]), labelled)


def make_probe_requests(judge: ApiJudge, labelled: bool) -> dict[str, JudgeRequest]:
    """Make the requests of the probe by way, best first."""
    what: tuple[str, tuple[str, ...], tuple[str, ...]] = (LABEL, LABELS, ()) if labelled else (SCORE, (), WORDS)
    request = JudgeRequest(identify_judge(judge), *what, "")
    return {way: copy_with_reading(judge, request, way) for way in WAYS}


def choose_reading(response: Mapping[str, Any], labels: Sequence[str] = ()) -> tuple[str, str]:
    """Return the reading of scores (with `labels`: of labels) that a probe's response permits, and the reason."""
    choice = response["choices"][0]
    top = choice.get("top") or []
    if not top:
        return "sampled", "the server gives no log-probabilities"
    if not is_visible(choice["tokens"][0]):
        return "sampled", "the reply begins with a token that is no text"
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


def is_visible(token: str) -> bool:
    """Return whether a token has text: it is neither blank nor a mark of the template, such as `<|channel|>`."""
    text = token.strip().strip("▁")
    return bool(text) and not (text.startswith("<") and text.endswith(">"))


def identify_judge(judge: ApiJudge) -> str:
    """Return the judge's identity: the model, and its server unless that is OpenAI's own.

    A judge that em serves is known by its weights and the version of vLLM.
    """
    if judge.serve:
        weights = resolve_weights(judge.model, judge.revision)
        return f"{judge.model}@{digest(weights.identity)[:8]}, vllm {find_version('')}"
    server = identify_server(judge)
    return f"{judge.model} at {server}" if server else judge.model


def list_parameters(judge: ApiJudge, reading: str) -> tuple[tuple[str, str], ...]:
    """List the parameters of a request for this reading, as (name, value) pairs."""
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


def copy_with_reading(judge: ApiJudge, request: JudgeRequest, reading: str) -> JudgeRequest:
    """Return a copy of the request for this reading."""
    # Every verdict that is read needs a copy, and `dataclasses.replace` takes three times as long.
    what = request.judge, request.prompt, request.labels, request.words
    return JudgeRequest(*what, reading, list_parameters(judge, reading), request.precision)


def find_readings(judge: ApiJudge, calls: Calls) -> dict[bool, str]:
    """Return this judge's readings of scores (False) and labels (True): configured, or remembered if probed before."""
    if judge.reading is not Reading.auto:
        return dict.fromkeys((False, True), str(judge.reading.value))
    keys = {request_key(make_learn_request(judge, labelled)): labelled for labelled in (False, True)}
    return {keys[key]: str(response["reading"]) for key, response in calls.read_responses(list(keys)).items()}
