"""The one door for chat completions: every reply is checked and brought into one form before anything else reads it.

Servers give a text as parts, leave fields out, or put an error into a reply with status 200. What can't be a reply
raises ValueError, so that the call counts as failed and is made again; nothing of it is remembered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")
REASONING = ("thinking", "reasoning", "redacted_thinking", "reasoning_text")
"""Types of parts that are no part of the answer."""
FINISHES = {
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("max_tokens", "max_length", "max_output_tokens", "token_limit"), "length"),
    **dict.fromkeys(("safety", "blocked", "blocklist", "recitation", "prohibited_content"), "content_filter"),
}
"""Other words for the reasons of OpenAI's protocol, in lower case."""
BROKEN = (
    "error",
    "abort",
    "aborted",
    "cancelled",
    "canceled",
    "interrupted",
    "timeout",
    "insufficient_system_resource",
)
"""Reasons that tell of a reply that broke off, in lower case."""


def check_completion(reply: Any) -> None:
    """Bring a chat completion into em's form, in place. Raises ValueError for what is none, or broke off."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("no chat completion")
    for choice in choices:
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise ValueError("no chat completion")
        message, finish = choice["message"], choice.get("finish_reason")
        word = finish.lower() if isinstance(finish, str) else ""
        if word in BROKEN:
            raise ValueError(f"a reply that broke off ({word})")
        choice["finish_reason"] = FINISHES.get(word, finish if word else None)
        message["content"] = join_content(message.get("content"))
        if message.get("refusal") is not None:
            message["refusal"] = join_content(message["refusal"])
        choice["logprobs"] = clean_logprobs(choice.get("logprobs"))
    for name in ("model", "system_fingerprint"):
        if name in reply and not isinstance(reply[name], str):
            reply[name] = ""


def join_content(content: Any) -> str:
    """Return the text of a message: a text, nothing, or a list of parts, of which reasoning is left out."""
    if content is None:
        return ""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else read_part(part) for part in content]
        content = "".join(texts)
    if not isinstance(content, str):
        raise ValueError("a message whose content is no text")
    return SURROGATE.sub("\ufffd", content)


def read_part(part: Any) -> str:
    """Return the text of a part of a message."""
    if isinstance(part, dict) and part.get("type") in REASONING:
        return ""
    text = part.get("text") if isinstance(part, dict) else None
    if isinstance(text, dict):  # {"text": {"value": …}}
        text = text.get("value")
    if not isinstance(text, str):
        raise ValueError("a message with a part that is no text")
    return text


def clean_logprobs(logprobs: Any) -> dict[str, Any] | None:
    """Return log-probabilities without entries that are no numbers; None if there are none of the usual form."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = []
    for token in content if isinstance(content, list) else ():
        if not isinstance(token, dict) or not isinstance(token.get("token"), str):
            return None
        top = token.get("top_logprobs")
        pairs = [each for each in top if is_token(each)] if isinstance(top, list) else []
        tokens.append({**token, "token": SURROGATE.sub("\ufffd", token["token"]), "top_logprobs": pairs})
    return {"content": tokens} if tokens else None


def is_token(value: Any) -> bool:
    """Return whether a value is a token with a log-probability; minus infinity is one, a probability of zero."""
    if not isinstance(value, dict) or not isinstance(value.get("token"), str) or SURROGATE.search(value["token"]):
        return False
    logprob = value.get("logprob")
    return (
        isinstance(logprob, int | float) and not isinstance(logprob, bool) and not math.isnan(logprob) and logprob < 1
    )


def find_error_status(reply: Any) -> int | None:
    """Return the status that an error object in a reply with status 200 stands for; None for any other reply."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if not error or (isinstance(reply, dict) and reply.get("choices")):
        return None
    code = error.get("code") if isinstance(error, dict) else None
    words = str(error).lower()
    if isinstance(code, int | str) and re.fullmatch(r"[45]\d\d", str(code)):
        return int(code)
    return 429 if "rate limit" in words or "rate_limit" in words or "too many requests" in words else 502


def read_count(value: Any) -> int | None:
    """Return a count of tokens, None if the server gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def read_usage(completion: Mapping[str, Any]) -> list[int | None]:
    """Read the token counts of prompt and reply (None if not counted), and of the prompt's part in the cache (or 0)."""
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = read_count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return [read_count(usage.get("prompt_tokens")), read_count(usage.get("completion_tokens")), cached or 0]


def read_total_tokens(reply: Any) -> int:
    """Read the total number of tokens that the server counted; 0 if it counts none."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    return (read_count(usage.get("total_tokens")) or 0) if isinstance(usage, dict) else 0
