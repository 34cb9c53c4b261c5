"""Chat completions: the reply to a call as text or JSON, with log-probabilities."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

from .authors import write_reply
from .distribution import (
    END,
    GARBLED,
    REFUSAL,
    Opinion,
    hash_values,
    make_opinion,
    pick_reply,
    predict_tokens,
    split_prefill,
    tokenize,
)
from .filling import fill_schema
from .models import AUTHORS, OPEN, Call
from .options import Options

SCORE = {"type": "object", "properties": {"score": {"type": ["integer", "null"]}}}
"""The schema of a judge's reply in JSON mode without a schema."""
SENTENCES = (
    "Start small and see what happens.",
    "It depends on what you want from it.",
    "There are several ways to look at that.",
    "Most people would ask a friend first.",
    "I would take a walk and think again.",
)


def complete_chat(call: Call, options: Options, serial: int) -> dict[str, Any]:
    """Make the body of a chat completion; `serial`: the number in its id."""
    thought = make_opinion(call.prompt, options)
    if call.family in AUTHORS:
        choices = [make_author_choice(call, thought, options)]
    else:
        choices = [make_choice(call, thought, index) for index in range(call.choices)]
    spent = sum(each.pop("tokens") for each in choices)
    snapshot = call.model if call.family in (*OPEN, "plain") else f"{call.model}-2026-01-01"
    body = {
        "id": f"chatcmpl-{serial}",
        "object": "chat.completion",
        "created": 1_780_000_000 + serial,
        "model": snapshot,
        "system_fingerprint": options.fingerprint,
        "choices": choices,
        "usage": {
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": spent,
            "total_tokens": call.prompt_tokens + spent,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": call.reasoning * call.choices},
        },
    }
    if options.provider:
        body["provider"] = options.provider
    if options.uncounted:
        del body["usage"]
    return body


def make_author_choice(call: Call, thought: Opinion, options: Options) -> dict[str, Any]:
    """Make the reply of an author model, or its refusal."""
    if thought.kind == "refusal":
        message = {"role": "assistant", "content": None, "refusal": REFUSAL}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "tokens": 7}
    tokens = tokenize(write_reply(call, options), False)
    cut = call.bound is not None and len(tokens) > call.bound
    content = make_content("".join(tokens[: call.bound]), options.content)
    message = {"role": "assistant", "content": content, "refusal": None}
    result = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length" if cut else "stop"}
    return result | {"tokens": min(len(tokens), call.bound or len(tokens))}


def make_content(text: str, kind: str) -> Any:
    """Return a text as `content` of the type that the options ask for."""
    match kind:
        case "parts":
            half = len(text) // 2
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
            return [thought, {"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]
        case "odd":
            return [{"type": "text", "text": None}, text, 5]
        case _:
            return text


def make_choice(call: Call, thought: Opinion, index: int) -> dict[str, Any]:
    """Make one of the replies, with its number of tokens under `tokens`."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    result = {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
    if thought.kind == "refusal" and thought.hash % 2:
        message["refusal"] = REFUSAL
        return result | {"tokens": 7 + call.reasoning}
    bound = None if call.bound is None else call.bound - call.reasoning
    if bound is not None and bound <= 0:  # the reasoning used all tokens
        message["content"] = ""
        return result | {"tokens": call.bound, "finish_reason": "length"}
    tokens = write_tokens(call, thought, index)
    if bound is not None and len(tokens) > bound:
        tokens = tokens[:bound]
        result["finish_reason"] = "length"
    elif bound is not None and len(tokens) == bound and call.family not in OPEN:
        result["finish_reason"] = "length"  # no token is left for the end
    if call.top is not None:
        result["logprobs"] = {"content": describe_tokens(call, thought, tokens), "refusal": None}
    message["content"] = "".join(token for token in tokens if token != END)
    return result | {"tokens": len(tokens) + call.reasoning}


def write_tokens(call: Call, thought: Opinion, index: int) -> list[str]:
    """Return the tokens of a complete reply; open servers count the end as a token."""
    digits = call.family in OPEN
    end = [END] if digits else []
    share = hash_values(thought.hash, call.seed, index) / 2**64
    if call.family == "writer":
        count = 1 + int(share * 3)
        text = " ".join(SENTENCES[hash_values(share, i) % len(SENTENCES)] for i in range(count))
        return tokenize(text, digits) + end
    if call.schema is not None or call.json_mode:
        text = pick_words(call, thought, share)
        return tokenize(json.dumps(fill_schema(call.schema or SCORE, text, thought.hash)), digits) + end
    begun, text = split_prefill(call.prefill)
    if not call.greedy and not call.prefill:
        return tokenize(pick_words(call, thought, share), digits) + end
    tokens: list[str] = []
    while tokens[-1:] != [END]:
        following = predict_following(thought, digits, begun, text + "".join(tokens))
        step = hash_values(share, len(tokens)) / 2**64
        greedy = following[0][0]
        tokens.append(greedy if call.greedy else pick_reply([(token, math.exp(p)) for token, p in following], step))
    return tokens if digits else tokens[:-1]


def pick_words(call: Call, thought: Opinion, share: float) -> str:
    """Return the judge's reply in words: the most likely, or the one at `share` of the cumulative probability.

    The reply is always a score, a label or the judge's word; fillers appear in log-probabilities alone.
    """
    other = {"refusal": REFUSAL, "garbled": GARBLED, "code": "CODE"}
    if thought.kind in other:
        return other[thought.kind]
    chance = {text: p for text, p in thought.list_chances().items() if text.isdigit() or text in thought.labels}
    if call.greedy:
        return max(chance, key=lambda text: chance[text])
    total = sum(chance.values())
    return pick_reply([(text, p / total) for text, p in chance.items()], share)


def predict_following(thought: Opinion, digits: bool, begun: str, text: str) -> tuple[tuple[str, float], ...]:
    """Return the possible next tokens with log-probabilities."""
    return predict_tokens(thought.kind, thought.center, thought.labels, digits, begun, text)


def describe_tokens(call: Call, thought: Opinion, tokens: list[str]) -> list[dict[str, Any]]:
    """Return the log-probabilities of a reply's tokens, each with its alternatives."""
    begun, text = split_prefill(call.prefill)
    free = call.schema is None and not call.json_mode and call.family != "writer"
    result = []
    for token in tokens:
        following: tuple[tuple[str, float], ...] = ((token, 0.0),)
        if free:
            following = predict_following(thought, call.family in OPEN, begun, text)
        logprob = dict(following).get(token, -20.0)
        result.append(make_entry(token, logprob) | {"top_logprobs": list_entries(following[: call.top])})
        text += token
    return result


@lru_cache(maxsize=4096)
def list_entries(tokens: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    """Return the alternatives as the API shows them; cached, since many replies share them."""
    return [make_entry(*each) for each in tokens]


def make_entry(token: str, logprob: float) -> dict[str, Any]:
    """Return a token as the API shows it."""
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
