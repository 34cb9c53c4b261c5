"""The one door for chat completions: what servers send is brought into one form, or counts as a failed call."""

from __future__ import annotations

import math
from typing import Any

import pytest

from em.api.replies import check_completion, find_error_status, read_usage
from em.judge.readings import compact_response


def make_reply(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """Make a chat completion."""
    return {"choices": [{"message": message, "finish_reason": finish, **more}]}


def make_tokens(*tokens: Any) -> dict[str, Any]:
    """Make log-probabilities whose first token has these likeliest tokens."""
    return {"content": [{"token": "8", "logprob": -0.1, "top_logprobs": list(tokens)}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "85"}], "85"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "85"}], "85"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "a"}, {"text": "b"}], "ab"),
        (["a", "b"], "ab"),
        ([{"type": "text", "text": {"value": "a"}}], "a"),
        ([], ""),
        ("half an emoji \ud83d", "half an emoji \ufffd"),
    ],
)
def test_content_becomes_a_text(content: Any, text: str) -> None:
    reply = make_reply({"content": content})
    check_completion(reply)
    assert reply["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("content", [5, {"text": "a"}, True, [5], [{"type": "image_url", "image_url": {}}], [None]])
def test_content_that_is_no_text_is_a_failed_call(content: Any) -> None:
    with pytest.raises(ValueError, match=r"content|part"):
        check_completion(make_reply({"content": content}))


@pytest.mark.parametrize(
    "reply", [[], "x", {}, {"choices": []}, {"choices": [5]}, {"choices": [{"message": None}]}, None]
)
def test_what_is_no_completion_is_a_failed_call(reply: Any) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        check_completion(reply)


@pytest.mark.parametrize("finish", ["error", "abort", "ERROR", "cancelled", "insufficient_system_resource"])
def test_a_reply_that_broke_off_is_a_failed_call(finish: str) -> None:
    with pytest.raises(ValueError, match="broke off"):
        check_completion(make_reply({"content": "Half an ans"}, finish))


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        (None, None),
        ("tool_calls", "tool_calls"),
        (7, None),
    ],
)
def test_reasons_of_the_end_are_those_of_the_protocol(finish: Any, reason: str | None) -> None:
    reply = make_reply({"content": "a"}, finish)
    check_completion(reply)
    assert reply["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    "logprobs",
    [
        make_tokens({"token": "85", "logprob": -0.1}, {"token": "90", "logprob": None}),
        make_tokens({"token": "85", "logprob": -0.1}, {"token": "9", "logprob": math.nan}, {"token": 7, "logprob": -1}),
        make_tokens({"token": "85", "logprob": -0.1}, "odd", {"token": "9"}, {"token": "8", "logprob": "x"}, None),
        make_tokens({"token": "85", "logprob": -0.1}, {"token": "90", "logprob": True}),
    ],
)
def test_tokens_without_a_probability_are_left_out(logprobs: Any) -> None:
    reply = make_reply({"content": "85"}, logprobs=logprobs)
    check_completion(reply)
    assert compact_response(reply)["choices"][0]["top"] == [["85", -0.1]]


@pytest.mark.parametrize(
    "logprobs", [None, 5, {"content": []}, {"content": None}, {"content": [5]}, {"content": [{}]}, []]
)
def test_log_probabilities_of_no_form_are_none(logprobs: Any) -> None:
    reply = make_reply({"content": "85"}, logprobs=logprobs)
    check_completion(reply)
    assert "top" not in compact_response(reply)["choices"][0]


@pytest.mark.parametrize(
    "usage", [None, "x", 5, [], {"prompt_tokens": "x"}, {"prompt_tokens": math.nan}, {"prompt_tokens": -1}]
)
def test_counts_that_are_none_are_not_counted(usage: Any) -> None:
    assert read_usage({"usage": usage}) == [None, None, 0]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ({"error": {"code": 429, "message": "Provider returned error: rate limited upstream"}}, 429),
        ({"error": {"code": "503", "message": "overloaded"}}, 503),
        ({"error": {"message": "Too many requests"}}, 429),
        ({"error": "upstream failed"}, 502),
        ({"error": {"code": "context_length_exceeded"}}, 502),
        ({"error": None}, None),
        ({"error": {"code": 500}, "choices": [{}]}, None),
        ({"choices": []}, None),
        ([], None),
    ],
)
def test_an_error_in_a_reply_of_status_200_has_a_status(reply: Any, status: int | None) -> None:
    assert find_error_status(reply) == status
