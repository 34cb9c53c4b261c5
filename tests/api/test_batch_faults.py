"""Faults of the Batch API, by call: brief ones are retried, lasting ones reported; no batch is doubled or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em.api import batches
from em.config import ApiSampler, OpenAIModel, Reading
from em.errors import ServerError
from em.judge.probe import copy_with_reading
from em.models.hosted import make_hosted_model
from em.runtime.memory import Calls, request_key
from em.sample.remote import ServerSampler
from em.types import Message, Prices, SampleRequest
from tests.support.chat_server import ChatServer
from tests.support.judging import judge_all, make_judge, make_score_requests
from tests.support.remote_runs import PLAIN, change_tuning

CALLS = ("batch_list", "upload", "batches", "batch", "content")
SENTENCES = {
    "401": "The server refused the key for .*: check OPENAI_API_KEY",
    "quota": "The account has no credit left for .*: top it up, then run the same command again",
    "500": "The server answered 500 for .*: run the same command again later",
    "drop": "The server can't be reached: check the network",
    "malformed": "The server's answer for .* can't be used",
    "html": "The server answers for .* with a web page: check base_url",
}
COUNT = 6
Work = Callable[[ChatServer, Calls], int]


@pytest.fixture
def server(running: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """The server without batches and faults; waits between attempts and polls are short."""
    monkeypatch.setattr("em.api.client.LONGEST", 0.01)
    monkeypatch.setattr(batches, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(batches, "SETTLE", 0.05)
    running.reset(**PLAIN, batch_seconds=0.1)
    return running


def sample(server: ChatServer, calls: Calls) -> int:
    """Generate answers by a batch; return how many are remembered."""
    messages = (Message("user", "Why?"),)
    requests = [SampleRequest("openai:127.0.0.1|m", messages, i, 7, 1.0, 1.0, 40, "api") for i in range(COUNT)]
    model = OpenAIModel(name="m", id="writer-model", base_url=server.base_url)
    sampler = ServerSampler(model, ApiSampler(name="api", timeout=0.4, batch=True))
    asyncio.run(sampler.sample(make_hosted_model(model), requests, calls, Prices()))
    return len(calls.read_responses([request_key(each) for each in requests]))


def score(server: ChatServer, calls: Calls, count: int = COUNT, may_fail: bool = False) -> int:
    """Make judgements by a batch; return how many are remembered."""
    judge, requests = make_judge(server, "single-judge", batch=True, timeout=0.4), make_score_requests(count)
    judge.reading = Reading.logprobs
    assert judge_all(judge, requests, calls).failures == {} or may_fail
    return len(calls.read_responses([request_key(copy_with_reading(judge, each, "logprobs")) for each in requests]))


def count_batches(server: ChatServer) -> int:
    """Count the batches that were created."""
    return len(server.ask("/v1/batches")["data"])


@pytest.mark.parametrize("fault", ["hang", "lost", "500", "drop", "malformed", "html"])
@pytest.mark.parametrize("work", [sample, score])
def test_calls_that_fail_once_are_made_again(server: ChatServer, calls: Calls, work: Work, fault: str) -> None:
    change_tuning(server, tuning_fault=",".join(f"{call}:{fault}:1" for call in CALLS))
    assert work(server, calls) == COUNT
    assert count_batches(server) == 1


@pytest.mark.parametrize("fault", SENTENCES)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("work", [sample, score])
def test_what_stays_broken_is_told_and_the_batch_is_gone_on_with(
    server: ChatServer, calls: Calls, work: Work, call: str, fault: str, tmp_path: Path
) -> None:
    change_tuning(server, tuning_fault=f"{call}:{fault}")
    with pytest.raises(ServerError, match=SENTENCES[fault]) as error:
        work(server, calls)
    assert (error.value.exit_code, "\n" in str(error.value)) == (2, False)
    change_tuning(server, tuning_fault="")
    assert count_batches(server) == (1 if call in ("batch", "content") else 0)
    assert work(server, calls) == COUNT
    assert count_batches(server) == 1


@pytest.mark.parametrize("fault", ["batch:404:1", "batch:404:2", "content:404:1", "content:busy:1"])
@pytest.mark.parametrize("work", [sample, score])
def test_a_batch_that_a_server_misses_for_a_moment_is_not_paid_for_again(
    server: ChatServer, calls: Calls, work: Work, fault: str
) -> None:
    change_tuning(server, tuning_fault=fault)  # after two 404 of the batch, its mark on the server is looked up
    assert work(server, calls) == COUNT
    assert count_batches(server) == 1


def test_what_is_left_of_a_batch_that_served_another_run_is_not_paid_for_again(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stop_run(*_: Any) -> dict[str, str]:
        raise ServerError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(batches.BatchedCalls, "collect", stop_run)
        with pytest.raises(ServerError, match="killed"):
            score(server, calls)
    change_tuning(server, batch_failed=0.5)
    assert 0 < score(server, calls, COUNT // 2, may_fail=True) < COUNT // 2
    change_tuning(server, batch_failed=0.0)
    remembered = score(server, calls, may_fail=True)
    assert COUNT // 2 < remembered < COUNT
    assert count_batches(server) == 2  # the first batch, with failures in both halves, and a retry of the first half's
    assert score(server, calls) == COUNT
    assert list((calls.folder / "batches").glob("*.json")) == []


@pytest.mark.parametrize("most", [5, 3, 2, 1])
def test_batches_above_the_limit_of_the_account_become_smaller_and_follow_one_another(
    server: ChatServer, calls: Calls, most: int
) -> None:
    server.reset(**PLAIN, batch_seconds=0.05, batch_most=most)
    assert score(server, calls) == COUNT
    sizes = [batch["request_counts"]["total"] for batch in server.ask("/v1/batches")["data"]]
    assert sum(size for size in sizes if size <= most) == COUNT, "no request is paid for twice"
    assert list((calls.folder / "batches").glob("*.json")) == []


def test_an_account_without_room_for_one_request_is_told(server: ChatServer, calls: Calls) -> None:
    server.reset(**PLAIN, batch_seconds=0.05, batch_most=-1)
    with pytest.raises(ServerError, match="limit of enqueued tokens leaves no room"):
        score(server, calls)
