"""How a server is asked to write: with what settings, in what form, and what is remembered of its reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from em.data.layouts import SURROGATE
from em.generate.plan import GenerateRequest, sampling_seed
from em.judge.desk import OF_THE_PROMPT
from em.store import Calls, request_key
from em.types import Conversation

WAYS = ("schema, sampling", "schema", "text, sampling", "text")
"""From the best: whether the server holds the reply to the schema, and whether it takes temperature, top_p and seed."""


@dataclass(frozen=True)
class WayRequest:
    """Under which name it is remembered how a model is asked."""

    model: str
    temperature: float | None
    reasoning_effort: str | None
    rule: str = "ways_v1"


def known_way(request: WayRequest, calls: Calls) -> str:
    """What is remembered of it; empty where nothing is."""
    for found in calls.known([request_key(request)]).values():
        return str(found["way"])
    return ""


def of_the_prompt(error: Exception) -> bool:
    """Whether a refusal is of one prompt alone: a content filter, too long."""
    return getattr(error, "code", None) in OF_THE_PROMPT


def sends_sampling(way: str) -> bool:
    """Whether temperature, top_p and seed are sent."""
    return way.endswith("sampling")


def body(model: str, request: GenerateRequest) -> dict[str, Any]:
    """The chat completion to ask for."""
    from em.generate.forms import response_format

    asked: dict[str, Any] = {
        "model": model,
        "messages": Conversation(request.messages).as_dicts(),
        "max_completion_tokens": request.max_new_tokens,
    }
    if request.way.startswith("schema"):
        asked["response_format"] = response_format(request.form)
    if sends_sampling(request.way):
        asked |= {"top_p": request.top_p, "seed": sampling_seed(request)}
        if request.temperature is not None:
            asked["temperature"] = request.temperature
    if request.reasoning_effort is not None:
        asked["reasoning_effort"] = request.reasoning_effort
    return asked


def as_reply(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of a chat completion."""
    choice, usage = found["choices"][0], found.get("usage")
    message, counts = choice["message"], usage if isinstance(usage, dict) else {}
    return {
        "text": text_in(message.get("content")),
        "declined": text_in(message.get("refusal")),
        "finish": text_in(choice.get("finish_reason")) or "stop",
        "prompt_tokens": number_in(counts.get("prompt_tokens")),
        "reply_tokens": number_in(counts.get("completion_tokens")),
        "model": text_in(found.get("model")),
        "system_fingerprint": text_in(found.get("system_fingerprint")),
    }


def text_in(content: Any) -> str:
    """A text, or the texts among the parts of a list; of anything else, and of half a character, nothing."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) and not SURROGATE.search(content) else ""


def number_in(value: Any) -> int | None:
    """A number of tokens; None where the server told none, which is not 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
