"""A probe finds a judge's reading, and the refusal of one prompt does not affect others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from em.config import Reading
from em.errors import ServerError
from em.judge.probe import copy_with_reading, find_readings
from em.judge.remote import ServerJudge
from em.runtime.memory import Calls, request_key
from em.types import JudgeRequest, Prices
from tests.support.chat_server import ChatServer, Options
from tests.support.chat_server.distribution import compute_expected_score, make_opinion
from tests.support.judging import LABELS, judge_all, make_judge, make_score_requests, read_judgements


def make_label_requests(count: int) -> list[JudgeRequest]:
    """Make requests for labels."""
    prompts = [f'Is reply {i} right? Say "TRUE", "FALSE" or "UNKNOWN".' for i in range(count)]
    return [JudgeRequest("judge", prompt, LABELS, (), "") for prompt in prompts]


def test_scores_and_labels_are_learnt_apart(server: ChatServer, calls: Calls) -> None:
    settings = make_judge(server, "digits-judge")
    requests = [*make_label_requests(10), *make_score_requests(10)]
    judge = judge_all(settings, requests, calls)
    assert judge.readings == {False: "mass", True: "logprobs"}
    assert find_readings(settings, calls) == judge.readings
    judgements = read_judgements(settings, requests, calls, judge.readings)
    assert {each.label for each in judgements[:10]} <= set(LABELS)
    for request, each in zip(requests[10:], judgements[10:], strict=True):
        assert each.value == pytest.approx(compute_expected_score(request.prompt), abs=0.15)
    assert server.read_stats()["duplicates"] == 0


def test_a_judge_that_keeps_to_no_form_is_read_as_text(server: ChatServer, calls: Calls) -> None:
    server.reset(garbled=1.0)
    settings = make_judge(server, "digits-judge")
    judge = judge_all(settings, make_score_requests(12), calls)
    assert judge.readings == {False: "sampled"}
    assert {each.status for each in read_judgements(settings, make_score_requests(12), calls, judge.readings)} == {
        "unparsed"
    }
    assert server.read_stats()["answered"] == 12 + 1


def test_one_probe_is_made_told_and_remembered_and_none_where_the_setting_says_it(
    server: ChatServer, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_judge(server, "single-judge")
    judge_all(settings, make_score_requests(4), calls)
    judge_all(settings, make_score_requests(6), calls)
    assert capsys.readouterr().out == (
        "judge single-judge at 127.0.0.1: scores are read from log-probabilities "
        "(integers of two digits are single tokens)\n"
    )
    assert server.read_stats()["answered"] == 6 + 1
    judge_all(
        replace(settings, reading=Reading.logprobs, model="another-judge"), make_score_requests(4, first=50), calls
    )
    assert server.read_stats()["answered"] == 6 + 1 + 4


def test_what_an_older_version_learnt_is_taken(server: ChatServer, calls: Calls) -> None:
    key = "02b8b44df8361cd8498c38195405b10dc934665cc5f34d72508f830dff8b4f44"
    settings = make_judge(server, "single-judge")
    calls.db.execute(
        'insert into calls values (?, \'reading\', \'{}\', \'{"reading": "structured", "why": "so"}\', 0)', (key,)
    )
    assert judge_all(settings, make_score_requests(2), calls).readings == {False: "structured"}
    assert server.read_stats()["answered"] == 2


def test_several_samples_are_asked_for_though_the_first_reply_was_one(server: ChatServer, calls: Calls) -> None:
    settings = make_judge(server, "plain-judge", samples=5)
    judge = judge_all(settings, make_score_requests(6), calls)
    assert judge.readings == {False: "sampled"}
    keys = [request_key(copy_with_reading(settings, request, "sampled")) for request in make_score_requests(6)]
    assert [len(response["choices"]) for response in calls.read_responses(keys).values()] == [5] * 6


@pytest.mark.parametrize("reading", [Reading.auto, Reading.logprobs])
def test_a_prompt_that_is_filtered_costs_its_own_verdict_alone(
    server: ChatServer, calls: Calls, reading: Reading
) -> None:
    server.reset(blocked=0.2)
    settings, requests = make_judge(server, "single-judge", reading=reading), make_score_requests(60)
    judge = judge_all(settings, requests, calls)
    failed = [request for request in requests if judge.find_key(judge.finalise_request(request)) in judge.failures]
    assert 4 < len(failed) < 25
    assert all("filtered by the content policy" in words for words in judge.failures.values())
    others = [request for request in requests if request not in failed]
    assert judge.reading == "logprobs", "a filtered prompt was taken for a server without log-probabilities"
    assert {each.status for each in read_judgements(settings, others, calls, judge.readings)} == {"ok"}


def test_what_was_begun_is_finished_and_kept_though_no_more_answers_can_come(server: ChatServer, calls: Calls) -> None:
    async def yield_requests() -> AsyncIterator[list[JudgeRequest]]:
        yield make_score_requests(8)
        await asyncio.sleep(0.1)
        raise OSError("no more answers")

    server.reset(latency=0.5)
    judge = ServerJudge(make_judge(server, "single-judge", reading=Reading.logprobs, connections=5))
    with pytest.raises(OSError, match="no more answers"):
        asyncio.run(judge.ask(yield_requests(), calls, Prices()))
    keys = [judge.find_key(judge.finalise_request(request)) for request in make_score_requests(8)]
    assert len(calls.find_stored_keys(keys)) == server.read_stats()["answered"] == 5


def test_a_server_that_refuses_every_prompt_ends_the_judging(server: ChatServer, calls: Calls) -> None:
    server.reset(blocked=1.0)
    with pytest.raises(ServerError, match="filtered by the content policy"):
        judge_all(make_judge(server, "single-judge"), make_score_requests(200), calls)
    assert server.read_stats()["arrivals"] < 200


def test_a_server_that_continues_no_begun_reply_is_named_where_mass_was_asked_for(
    server: ChatServer, calls: Calls
) -> None:
    settings = make_judge(server, "turns-judge", reading=Reading.mass)
    with pytest.raises(ServerError, match=r"can.t continue a begun reply: set judge\.reading=structured"):
        judge_all(settings, make_score_requests(3), calls)


def test_a_reply_that_was_cut_is_no_score(server: ChatServer, calls: Calls) -> None:
    settings = make_judge(server, "digits-judge", reading=Reading.sampled, max_reply_tokens=1)
    requests = [r for r in make_score_requests(40) if make_opinion(r.prompt, Options()).center >= 20]  # "8" of "85"
    judge_all(settings, requests, calls)
    assert {each.status for each in read_judgements(settings, requests, calls, {False: "sampled"})} == {"truncated"}
