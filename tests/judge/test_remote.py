"""Judges behind a real server: budgets and shutdown dates (see also `test_server` and `test_asked_by_batch`)."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from em.api.lifetimes import check_judge
from em.api.resources import open_resources
from em.config import ApiJudge, Reading
from em.errors import ConfigError
from em.runtime.memory import Calls
from em.types import Price, Prices
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings
from tests.support.judging import judge_all, make_judge, make_score_requests, read_judgements

ROOT = Path(__file__).parent.parent.parent


def test_the_exact_mass_agrees_with_the_same_judge_of_single_tokens(server: ChatServer, calls: Calls) -> None:
    single, digits = make_judge(server, "single-judge"), make_judge(server, "digits-judge")
    requests = make_score_requests(25)
    judge_all(single, requests, calls)
    judge_all(digits, requests, calls)
    one, other = (
        read_judgements(single, requests, calls, {False: "logprobs"}),
        read_judgements(digits, requests, calls, {False: "mass"}),
    )
    differences = [abs((a.value or 0) - (b.value or 0)) for a, b in zip(one, other, strict=True)]
    assert max(differences) < 2  # the two servers cut their distributions at 20 tokens in different places


def test_the_budget_is_never_passed_and_what_was_judged_is_kept(server: ChatServer, calls: Calls) -> None:
    prices = Prices({"single-judge": Price(input=1000, cached=1000, output=1000)})
    settings = make_judge(server, "single-judge", reading=Reading.logprobs, max_usd=2.0, connections=10)
    with pytest.raises(ConfigError, match=r"judge\.max_usd=2 would be passed"):
        judge_all(settings, make_score_requests(400), calls, prices)
    done = server.read_stats()["answered"]
    [(remembered,)] = calls.db.execute("select count(*) from calls where kind = 'judge'")
    assert 10 < done == remembered < 400
    usages = [json.loads(row[0])["usage"] for row in calls.db.execute("select response from calls")]
    spent = sum(usage[0] + usage[1] for usage in usages) / 1000
    assert spent <= 2.0


def test_a_server_that_counts_no_tokens_is_paid_at_most_the_budget_too(server: ChatServer, calls: Calls) -> None:
    server.reset(uncounted=True)
    prices = Prices({"single-judge": Price(input=1000, cached=1000, output=1000)})
    settings = make_judge(server, "single-judge", reading=Reading.logprobs, max_usd=2.0, connections=10)
    with pytest.raises(ConfigError, match=r"judge\.max_usd=2 would be passed"):
        judge_all(settings, make_score_requests(400), calls, prices)
    assert 10 < server.read_stats()["answered"] < 400


def test_a_budget_without_a_known_price_is_refused(tmp_path: Path) -> None:
    words = ["judge=open", "judge.base_url=http://127.0.0.1:9/v1", "judge.model=single-judge", "judge.max_usd=1"]
    with pytest.raises(ConfigError, match=r"judge\.max_usd can't be kept: no price of single-judge is known"):
        open_resources(compose_settings("evaluate", *words, f"store.dir={tmp_path / 'store'}"))
    assert not (tmp_path / "store").exists()


def test_a_model_that_has_ended_is_refused_and_one_that_is_not_listed_is_a_warning(server: ChatServer) -> None:
    server.reset(models="single-judge,o4-mini", shutdown="o4-mini=2026-10-23,single-judge=2027-01-14")
    today = date(2026, 11, 25)
    with pytest.raises(ConfigError, match=r"o4-mini was shut down on 2026-10-23: use judge=luna"):
        check_judge(make_judge(server, "o4-mini", replacement="judge=luna"), today)
    [soon] = check_judge(make_judge(server, "single-judge"), today)
    assert "2027-01-14" in soon
    [unlisted] = check_judge(make_judge(server, "gpt-9"), today)
    assert "does not list gpt-9" in unlisted
    server.reset(models="o4-mini", shutdown="")
    assert check_judge(make_judge(server, "o4-mini", retired="2026-10-23"), today) == []  # this server still serves it


def test_a_retired_model_of_openais_own_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = ApiJudge(name="o4_mini", model="o4-mini", retired="2026-10-23", replacement="judge=luna or judge=open")
    with pytest.raises(ConfigError, match="2026-10-23: use judge=luna or judge=open"):
        check_judge(judge, date(2026, 11, 25))
