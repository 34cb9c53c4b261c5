"""How a judge is read is learnt from its first replies, and what one prompt meets is not held against the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from em.config import ApiJudge, Reading
from em.errors import ServerError
from em.judge.learning import in_reading, known_readings, plain_key
from em.judge.readings import read
from em.judge.remote import judge_all
from em.runtime.memory import Calls, request_key
from em.types import Judgement, JudgeRequest
from tests.support.chat_server import ChatServer, Options
from tests.support.chat_server.distribution import expected_score, opinion

LABELS = ("TRUE", "FALSE", "UNKNOWN")


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """The server with nothing counted and no faults."""
    running.reset(garbled=0.0, blocked=0.0)
    return running


def judge(server: ChatServer, model: str, **changes: Any) -> ApiJudge:
    """A judge of the server."""
    return replace(ApiJudge(name="judge", model=model, base_url=server.base_url), **changes)


def scores(count: int) -> list[JudgeRequest]:
    """Requests for scores."""
    prompts = [f"Rate reply {i} from 0 to 100, or say CODE or REFUSAL." for i in range(count)]
    return [JudgeRequest("judge", prompt, (), ("CODE", "REFUSAL"), "") for prompt in prompts]


def labels(count: int) -> list[JudgeRequest]:
    """Requests for labels."""
    prompts = [f'Is reply {i} right? Say "TRUE", "FALSE" or "UNKNOWN".' for i in range(count)]
    return [JudgeRequest("judge", prompt, LABELS, (), "") for prompt in prompts]


def said(asked: ApiJudge, requests: list[JudgeRequest], calls: Calls, readings: dict[bool, str]) -> list[Judgement]:
    """What is remembered of the requests."""
    final = [in_reading(asked, request, readings[bool(request.labels)]) for request in requests]
    known = calls.known([request_key(each) for each in final])
    return [read(each, known[request_key(each)], 0.25) for each in final]


def test_scores_and_labels_are_learnt_apart(server: ChatServer, calls: Calls) -> None:
    asked = judge(server, "digits-judge")
    requests = [*labels(10), *scores(10)]
    outcome = judge_all(asked, requests, calls)
    assert outcome.readings == {False: "mass", True: "logprobs"}
    assert known_readings(asked, calls) == outcome.readings
    found = said(asked, requests, calls, outcome.readings)
    assert {each.label for each in found[:10]} <= set(LABELS)
    for request, each in zip(requests[10:], found[10:], strict=True):
        assert each.value == pytest.approx(expected_score(request.prompt), abs=0.15)
    assert server.stats()["duplicates"] == 0


def test_a_judge_that_keeps_to_no_form_is_read_as_text_after_three_replies(server: ChatServer, calls: Calls) -> None:
    server.reset(garbled=1.0)
    asked = judge(server, "digits-judge")
    outcome = judge_all(asked, scores(12), calls)
    assert outcome.readings == {False: "sampled"}
    assert {each.status for each in said(asked, scores(12), calls, outcome.readings)} == {"unparsed"}
    assert server.stats()["answered"] == 12


def test_replies_too_few_to_learn_from_are_kept_and_found_again(server: ChatServer, calls: Calls) -> None:
    server.reset(garbled=1.0)
    asked = judge(server, "digits-judge")
    outcome = judge_all(asked, scores(2), calls)
    assert [each.status for each in said(asked, scores(2), calls, outcome.readings)] == ["unparsed"] * 2
    assert not known_readings(asked, calls), "two replies that say nothing have taught how to read all others"
    judge_all(asked, scores(2), calls)
    assert server.stats()["answered"] == 2


def test_several_samples_are_asked_for_though_the_first_reply_was_one(server: ChatServer, calls: Calls) -> None:
    asked = judge(server, "plain-judge", samples=5)
    outcome = judge_all(asked, scores(6), calls)
    assert outcome.readings == {False: "sampled"}
    keys = [request_key(in_reading(asked, request, "sampled")) for request in scores(6)]
    assert [len(response["choices"]) for response in calls.known(keys).values()] == [5] * 6


@pytest.mark.parametrize("reading", [Reading.auto, Reading.logprobs])
def test_a_prompt_that_is_filtered_costs_its_own_verdict_alone(
    server: ChatServer, calls: Calls, reading: Reading
) -> None:
    server.reset(blocked=0.2)
    asked, requests = judge(server, "single-judge", reading=reading), scores(60)
    outcome = judge_all(asked, requests, calls)
    failed = [request for request in requests if plain_key(request) in outcome.failures]
    assert 4 < len(failed) < 25
    assert all("filtered by the content policy" in words for words in outcome.failures.values())
    others = [request for request in requests if request not in failed]
    assert outcome.reading == "logprobs", "a filtered prompt was taken for a server without log-probabilities"
    assert {each.status for each in said(asked, others, calls, outcome.readings)} == {"ok"}


def test_a_server_that_refuses_every_prompt_ends_the_judging(server: ChatServer, calls: Calls) -> None:
    server.reset(blocked=1.0)
    with pytest.raises(ServerError, match="filtered by the content policy"):
        judge_all(judge(server, "single-judge"), scores(200), calls)
    assert server.stats()["arrivals"] < 200


def test_a_server_that_continues_no_begun_reply_is_named_where_mass_was_asked_for(
    server: ChatServer, calls: Calls
) -> None:
    asked = judge(server, "turns-judge", reading=Reading.mass)
    with pytest.raises(ServerError, match=r"continues no begun reply: set judge\.reading=structured"):
        judge_all(asked, scores(3), calls)


def test_a_reply_that_was_cut_is_no_score(server: ChatServer, calls: Calls) -> None:
    asked = judge(server, "digits-judge", reading=Reading.sampled, max_reply_tokens=1)
    requests = [r for r in scores(40) if opinion(r.prompt, Options()).center >= 20]  # "8" of "85"
    judge_all(asked, requests, calls)
    assert {each.status for each in said(asked, requests, calls, {False: "sampled"})} == {"truncated"}
