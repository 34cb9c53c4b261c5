"""Judges behind a real server: learnt ways of reading, nothing judged twice, budgets, batches, ends of models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from em.config import ApiJudge, Reading
from em.errors import ConfigError, ServerError
from em.judge.api import in_reading, judge_all, known_reading
from em.judge.readings import read
from em.judge.server import check_judge
from em.prices import Price
from em.store import Calls, request_key
from em.types import Judgement, JudgeRequest
from tests.chat_server import ChatServer

ROOT = Path(__file__).parent.parent
WORDS = ("CODE", "REFUSAL")


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    """One server for all tests of this file."""
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """The server with nothing counted and no faults."""
    running.reset(
        latency=0.01, refusals=0.0, codes=0.0, garbled=0.0, shutdown="", batch_failed=0.0, batch_end="completed"
    )
    return running


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[Calls]:
    """An empty store."""
    with Calls(tmp_path) as opened:
        yield opened


def judge(server: ChatServer, model: str, **changes: Any) -> ApiJudge:
    """A judge of the server."""
    return replace(ApiJudge(name="judge", model=model, base_url=server.base_url), **changes)


def scores(count: int, first: int = 0) -> list[JudgeRequest]:
    """Requests for scores."""
    prompts = [f"Rate answer {i} from 0 to 100, or say CODE or REFUSAL." for i in range(first, first + count)]
    return [JudgeRequest("judge", prompt, (), WORDS, "") for prompt in prompts]


def said(judge: ApiJudge, requests: list[JudgeRequest], calls: Calls, reading: str) -> list[Judgement]:
    """What is remembered of the requests."""
    asked = [in_reading(judge, request, reading) for request in requests]
    known = calls.known([request_key(each) for each in asked])
    return [read(each, known[request_key(each)], 0.25) for each in asked]


@pytest.mark.parametrize(
    ("model", "effort", "reading", "calls_each"),
    [
        ("single-judge", None, "logprobs", 1),
        ("digits-judge", None, "mass", None),
        ("plain-judge", None, "sampled", 1),
        ("reasoner-judge", None, "structured", 1),
        ("effort-judge", "none", "logprobs", 1),
    ],
)
def test_how_to_read_a_judge_is_learnt_from_judgements_alone(
    server: ChatServer, calls: Calls, model: str, effort: str | None, reading: str, calls_each: int | None
) -> None:
    unknown, requests = judge(server, model, reasoning_effort=effort), scores(30)
    outcome = judge_all(unknown, requests, calls)
    stats = server.stats()
    assert outcome.reading == known_reading(unknown, calls) == reading
    assert {each.status for each in said(unknown, requests, calls, reading)} == {"ok"}
    assert stats["duplicates"] == 0
    if calls_each:
        assert stats["answered"] == 30
    judge_all(unknown, requests, calls)
    assert server.stats()["answered"] == stats["answered"]  # all remembered


def test_a_begun_reply_that_counts_as_a_turn_is_noticed(server: ChatServer, calls: Calls) -> None:
    unknown, requests = judge(server, "turns-judge"), scores(20)
    assert judge_all(unknown, requests, calls).reading == "structured"
    assert {each.status for each in said(unknown, requests, calls, "structured")} == {"ok"}


def test_the_exact_mass_agrees_with_the_same_judge_of_single_tokens(server: ChatServer, calls: Calls) -> None:
    single, digits = judge(server, "single-judge"), judge(server, "digits-judge")
    requests = scores(25)
    judge_all(single, requests, calls)
    judge_all(digits, requests, calls)
    one, other = said(single, requests, calls, "logprobs"), said(digits, requests, calls, "mass")
    differences = [abs((a.value or 0) - (b.value or 0)) for a, b in zip(one, other, strict=True)]
    assert max(differences) < 2  # the servers' distributions are cut at 20 tokens in other places


def test_labels_are_read_in_every_way(server: ChatServer, calls: Calls) -> None:
    labels = ("TRUE", "FALSE", "UNKNOWN")
    prompts = [f'Is answer {i} right? Say "TRUE", "FALSE" or "UNKNOWN".' for i in range(12)]
    requests = [JudgeRequest("judge", prompt, labels, (), "") for prompt in prompts]
    for model, reading in (("single-judge", "logprobs"), ("plain-judge", "sampled"), ("reasoner-judge", "structured")):
        asked = judge(server, model, reading=Reading(reading))
        judge_all(asked, requests, calls)
        found = said(asked, requests, calls, reading)
        assert {each.status for each in found} == {"ok"}
        assert {each.label for each in found} <= set(labels)


def test_code_refusals_and_other_text_are_counted_and_never_numbers(server: ChatServer, calls: Calls) -> None:
    server.reset(codes=0.2, refusals=0.2, garbled=0.2)
    for model, reading in (("single-judge", "logprobs"), ("plain-judge", "sampled")):
        asked, requests = judge(server, model, reading=Reading(reading)), scores(60)
        judge_all(asked, requests, calls)
        found = said(asked, requests, calls, reading)
        kinds = Counter(each.status for each in found)
        assert kinds["code"] > 0
        assert kinds["unparsed"] > 0
        assert all((each.value is None) == (each.status != "ok") for each in found)


def test_the_budget_is_never_passed_and_what_was_judged_is_kept(server: ChatServer, calls: Calls) -> None:
    prices = {"single-judge": Price(input=1000, cached=1000, output=1000)}
    asked = judge(server, "single-judge", reading=Reading.logprobs, max_usd=2.0, connections=10)
    with pytest.raises(ConfigError, match=r"judge\.max_usd=2 would be passed"):
        judge_all(asked, scores(400), calls, prices)
    done = server.stats()["answered"]
    [(kept,)] = calls.db.execute("select count(*) from calls where kind = 'judge'")
    assert 10 < done == kept < 400
    spent = (
        sum(
            json.loads(row[0])["usage"][0] + json.loads(row[0])["usage"][1]
            for row in calls.db.execute("select response from calls")
        )
        / 1000
    )
    assert spent <= 2.0


def test_a_budget_without_a_known_price_is_refused(server: ChatServer, calls: Calls) -> None:
    with pytest.raises(ConfigError, match="no price of single-judge is known"):
        judge_all(judge(server, "single-judge", max_usd=1.0), scores(1), calls, {})


def test_batches_judge_at_half_the_price_and_are_found_again(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em.judge.batch.FIRST_LOOK", 0.05)
    asked, requests = judge(server, "single-judge", batch=True), scores(40)
    outcome = judge_all(asked, requests, calls)
    assert outcome.reading == "logprobs"  # learnt from a judgement that was made at once
    assert outcome.failures == {}
    assert {each.status for each in said(asked, requests, calls, "logprobs")} == {"ok"}
    assert not list((calls.folder / "batches").glob("*.json"))
    server.reset(batch_failed=0.3)
    more = scores(40, first=100)
    failed = judge_all(asked, more, calls).failures
    assert 0 < len(failed) < 40
    server.reset(batch_failed=0.0)
    assert judge_all(asked, more, calls).failures == {}


def test_a_batch_that_was_not_noted_is_found_on_the_server(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em.judge.batch.FIRST_LOOK", 0.05)
    asked, requests = judge(server, "single-judge", batch=True, reading=Reading.logprobs), scores(10)

    async def killed(*_: Any) -> dict[str, str]:
        raise ServerError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("em.judge.batch.collect", killed)
        with pytest.raises(ServerError):
            judge_all(asked, requests, calls)
    [note] = (calls.folder / "batches").glob("*.json")
    noted = json.loads(note.read_text(encoding="utf-8"))
    note.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("em.judge.batch.collect", killed)
        with pytest.raises(ServerError):
            judge_all(asked, requests, calls)
    [again] = (calls.folder / "batches").glob("*.json")
    assert json.loads(again.read_text(encoding="utf-8")) == noted  # the same id: nothing was created twice
    judge_all(asked, requests, calls)
    assert {each.status for each in said(asked, requests, calls, "logprobs")} == {"ok"}


def test_a_model_that_has_ended_is_refused_and_one_that_is_not_listed_is_a_warning(server: ChatServer) -> None:
    server.reset(models="single-judge,o4-mini", shutdown="o4-mini=2026-10-23,single-judge=2027-01-14")
    today = date(2026, 11, 25)
    with pytest.raises(ConfigError, match=r"o4-mini was shut down on 2026-10-23: use judge=luna"):
        check_judge(judge(server, "o4-mini", replacement="judge=luna"), today)
    [soon] = check_judge(judge(server, "single-judge"), today)
    assert "2027-01-14" in soon
    [unlisted] = check_judge(judge(server, "gpt-9"), today)
    assert "does not list gpt-9" in unlisted
    server.reset(models="o4-mini", shutdown="")
    assert check_judge(judge(server, "o4-mini", retired="2026-10-23"), today) == []  # a server that still has it


def test_a_retired_model_of_openais_own_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    own = ApiJudge(name="o4_mini", model="o4-mini", retired="2026-10-23", replacement="judge=luna or judge=open")
    with pytest.raises(ConfigError, match="2026-10-23: use judge=luna or judge=open"):
        check_judge(own, date(2026, 11, 25))


KILLED = """
import sys
from pathlib import Path
from em.config import ApiJudge, Reading
from em.judge.api import judge_all
from em.store import Calls
from tests.test_judge_api import scores
url, store = sys.argv[1:]
with Calls(Path(store)) as calls:
    judge = ApiJudge(name="j", model="single-judge", base_url=url, reading=Reading.logprobs, timeout=3)
    judge_all(judge, scores(10000), calls)
"""


def judge_in_a_process(server: ChatServer, store: Path) -> subprocess.Popen[bytes]:
    """Ten thousand judgements in a process that can be killed."""
    command = [sys.executable, "-c", KILLED, server.base_url, str(store)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, env=os.environ | {"NO_PROXY": "127.0.0.1"})


@pytest.mark.parametrize("kills", [0, 3])
def test_ten_thousand_judgements_on_a_bad_day(tmp_path: Path, kills: int) -> None:
    """Nothing is lost, nothing judged twice but what was in flight at a kill, and every non-number has its status."""
    faults = {"rate_limited": 0.1, "server_errors": 0.05, "dropped": 0.02, "malformed": 0.01, "hangs": 0.005}
    with ChatServer(latency=0.005, retry_after=0.05, refusals=0.01, codes=0.01, garbled=0.01, **faults) as server:
        for share in range(1, kills + 1):
            process = judge_in_a_process(server, tmp_path)
            while server.stats()["distinct"] < 10000 * share / (kills + 1):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert judge_in_a_process(server, tmp_path).wait() == 0
        stats = server.stats()
    asked = ApiJudge(name="j", model="single-judge", base_url=server.base_url, reading=Reading.logprobs)
    with Calls(tmp_path) as calls:
        found = said(asked, scores(10000), calls, "logprobs")
    kinds = Counter(each.status for each in found)
    assert len(found) == 10000
    assert set(kinds) == {"ok", "code", "unparsed"}
    assert 100 < kinds["unparsed"] < 400  # declined, or said something else
    assert all((each.value is None) == (each.status != "ok") for each in found)
    assert stats["distinct"] == 10000
    # A reply that was sent while its reader was killed or had given up was paid for and is asked for again.
    assert stats["duplicates"] <= kills * 100 + stats["outcomes"].get("dropped", 0)
