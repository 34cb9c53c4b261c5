"""Judging by a real server with the behaviour of common providers, with and without faults."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from em.api.pool import yield_once
from em.api.prices import load_prices
from em.config import WordRule
from em.errors import ServerError
from em.judge.base import JudgeResult
from em.judge.plan import PlannedJudgement, list_judge_requests
from em.judge.remote import ServerJudge
from em.questions.rubrics import GRADED, LABELLED, read_rubrics
from em.runtime.memory import Calls
from em.types import Answer, Question, Verdict
from tests.support.chat_server import ChatServer, Options
from tests.support.chat_server.distribution import compute_expected_score, make_opinion, predict_tokens
from tests.support.judging import make_judge
from tests.support.runs import run_script, start_script

BAD_DAY = {
    "rate_limited": 0.10,
    "retry_after": 0.2,
    "server_errors": 0.05,
    "dropped": 0.02,
    "malformed": 0.01,
    "refusals": 0.01,
    "garbled": 0.01,
    "hangs": 0.005,
}
RUBRICS = read_rubrics(GRADED, None, None, "", "test")
LABELS = read_rubrics(LABELLED, None, None, "a walk", "test")
ANSWERS = 5000  # each judged under two rubrics
CONNECTIONS = 100


@pytest.fixture(scope="module")
def shared() -> Iterator[ChatServer]:
    """One server for all tests of this file."""
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(shared: ChatServer) -> ChatServer:
    """The server in the state of a fresh start."""
    shared.reset(**vars(Options()))
    return shared


def judge_answers(
    server: ChatServer, store: Path, count: int, rubrics: Any = RUBRICS, **settings: Any
) -> tuple[str, list[tuple[PlannedJudgement, Verdict]]]:
    """Judge made-up answers; return the reading, and pairs of planned judgement and verdict."""
    plan, result = judge_and_record(server, store, count, rubrics, **settings)
    return result.record["reading"], list(zip(plan, result.verdicts, strict=True))


def judge_and_record(
    server: ChatServer, store: Path, count: int, rubrics: Any = RUBRICS, **settings: Any
) -> tuple[list[PlannedJudgement], JudgeResult]:
    """Judge made-up answers; return the plan, and the verdicts with the judge's record."""
    one, prices = ServerJudge(make_judge(server, **{"model": "single-judge"} | settings)), load_prices(None)
    question = Question("made_up", "q", "What would you do with a free day?", reference="a walk", rubrics=rubrics)
    place = ("made_up", "base", "", None, "made_up", "q", question.text, "untagged")
    answers = [Answer(*place, i, f"Count to {i}.", "stop", 0, 0) for i in range(count)]
    store.mkdir(exist_ok=True)
    with Calls(store) as calls:
        plan = one.plan_judgements(answers, {("made_up", "q"): question})
        asyncio.run(one.ask(yield_once(list_judge_requests(plan)), calls, prices))
        return plan, one.read_verdicts(plan, calls, prices)


def compute_by_first_token(prompt: str) -> float:
    """Compute the expectation over the server's twenty likeliest first tokens, for integers of one token."""
    thought = make_opinion(prompt, Options())
    top = predict_tokens(thought.kind, thought.center, thought.labels, False, "", "")[:20]
    numbers = {int(token): math.exp(logprob) for token, logprob in top if token.isdigit()}
    return sum(k * p for k, p in numbers.items()) / sum(numbers.values())


def test_log_probabilities_are_read_as_the_expectation_over_integers(server: ChatServer, tmp_path: Path) -> None:
    reading, judged = judge_answers(server, tmp_path, 50)
    assert reading == "logprobs"
    for planned, verdict in judged:
        assert verdict.status == "ok"
        assert verdict.value == pytest.approx(compute_by_first_token(planned.request.prompt), abs=1e-4)
    assert server.read_stats()["answered"] == 100 + 1, "besides the verdicts there is one call, the probe"


def test_integers_of_several_tokens_get_their_exact_mass(server: ChatServer, tmp_path: Path) -> None:
    reading, judged = judge_answers(server, tmp_path, 50, model="digits-judge")
    assert reading == "mass"
    for planned, verdict in judged:
        assert verdict.value == pytest.approx(compute_expected_score(planned.request.prompt), abs=0.15)
    assert server.read_stats()["duplicates"] == 0


@pytest.mark.parametrize(
    ("model", "reading", "settings"),
    [
        ("turns-judge", "structured", {}),
        ("plain-judge", "sampled", {}),
        ("reasoner-judge", "structured", {}),
        ("effort-judge", "logprobs", {"reasoning_effort": "none"}),
    ],
)
def test_a_judge_is_read_in_the_best_way_that_its_server_takes(
    server: ChatServer, tmp_path: Path, model: str, reading: str, settings: dict[str, Any]
) -> None:
    used_reading, judged = judge_answers(server, tmp_path, 20, model=model, **settings)
    assert used_reading == reading
    for planned, verdict in judged:
        assert verdict.status == "ok"
        assert verdict.value == pytest.approx(make_opinion(planned.request.prompt, Options()).center, abs=10)
    before = server.read_stats()
    assert before["duplicates"] == 0
    again, _ = judge_answers(server, tmp_path, 20, model=model, **settings)
    assert again == reading
    assert server.read_stats()["arrivals"] == before["arrivals"], "a remembered judgement is requested again"


@pytest.mark.parametrize("model", ["single-judge", "digits-judge", "reasoner-judge", "plain-judge"])
def test_labels_are_read_in_every_way(server: ChatServer, tmp_path: Path, model: str) -> None:
    _, judged = judge_answers(server, tmp_path, 20, LABELS, model=model)
    for planned, verdict in judged:
        labels = make_opinion(planned.request.prompt, Options()).labels
        assert (verdict.status, verdict.value) == ("ok", None)
        assert verdict.label in planned.rubric.labels
        assert set(labels) == set(planned.rubric.labels)
    assert len({verdict.label for _, verdict in judged}) > 1


def test_code_counts_as_code_though_the_integers_have_mass_enough(server: ChatServer, tmp_path: Path) -> None:
    server.reset(codes=0.3)
    _, judged = judge_answers(server, tmp_path, 50)
    for planned, verdict in judged:
        kind = make_opinion(planned.request.prompt, Options(codes=0.3)).kind
        assert verdict.status == {"code": "code", "score": "ok"}[kind]
        assert (verdict.value is None) == (kind == "code")
    assert {verdict.status for _, verdict in judged} == {"code", "ok"}


@pytest.mark.parametrize(("model", "reading"), [("single-judge", "logprobs"), ("digits-judge", "mass")])
def test_remembered_words_are_read_by_the_other_rule_without_a_call(
    server: ChatServer, tmp_path: Path, model: str, reading: str
) -> None:
    server.reset(codes=0.3)
    plan, first = judge_and_record(server, tmp_path, 50, model=model)
    arrivals = server.read_stats()["arrivals"]
    _, other = judge_and_record(server, tmp_path, 50, model=model, words=WordRule.below_min_mass)
    codes = 0
    for planned, by_likeliest, by_mass in zip(plan, first.verdicts, other.verdicts, strict=True):
        if by_likeliest.status == "code":  # the numbers have 0.35 together
            codes += 1
            assert by_mass.status == "ok"
            expected = compute_expected_score(planned.request.prompt, Options(codes=0.3))
            assert by_mass.value == pytest.approx(expected, abs=0.2)
        else:
            assert (by_mass.status, by_mass.value) == (by_likeliest.status, by_likeliest.value)
    assert 0 < codes < len(plan)
    for result in (first, other):
        assert (result.record["word_verdicts"], result.record["words_changed"]) == (codes, codes)
    assert "words" not in first.record
    assert other.record["words"] == "below_min_mass"
    assert {verdict.judge for verdict in first.verdicts} == {f"{model} at 127.0.0.1 ({reading})"}
    assert {verdict.judge for verdict in other.verdicts} == {f"{model} at 127.0.0.1 ({reading}, words below_min_mass)"}
    # With a higher minimum both rules read CODE.
    _, same = judge_and_record(server, tmp_path, 50, model=model, words=WordRule.below_min_mass, min_mass=0.5)
    assert [verdict.status for verdict in same.verdicts] == [verdict.status for verdict in first.verdicts]
    assert (same.record["word_verdicts"], same.record["words_changed"]) == (codes, 0)
    assert server.read_stats()["arrivals"] == arrivals


def test_replies_read_as_text_do_not_name_the_rule_for_words(server: ChatServer, tmp_path: Path) -> None:
    server.reset(codes=0.3)
    _, result = judge_and_record(server, tmp_path, 20, model="plain-judge", words=WordRule.below_min_mass)
    assert {verdict.status for verdict in result.verdicts} == {"code", "ok"}
    assert {verdict.judge for verdict in result.verdicts} == {"plain-judge at 127.0.0.1 (sampled)"}
    assert not {"words", "word_verdicts", "words_changed"} & set(result.record)


def test_an_empty_account_ends_the_judging_and_loses_nothing(server: ChatServer, tmp_path: Path) -> None:
    server.reset(quota=150)
    with pytest.raises(ServerError, match="no credit left"):
        judge_answers(server, tmp_path, 200, connections=20)
    assert server.read_stats()["outcomes"]["429"] <= 20, "a 429 without credit is retried"
    server.reset(quota=-1)
    judge_answers(server, tmp_path, 200)
    assert server.read_stats()["answered"] == 2 * 200 - 150 + 1


def test_a_refused_key_is_told_at_once_and_not_repeated(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-one")
    server.reset(key="sk-right-one")
    with pytest.raises(ServerError, match="refused the key") as raised:
        judge_answers(server, tmp_path, 50, connections=10)
    assert "sk-" not in str(raised.value)
    assert server.read_stats()["arrivals"] <= 10


def write_answers(folder: Path) -> Path:
    """Write a user's file of answers."""
    file = folder / "answers.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for i in range(ANSWERS):
            row = {"question_id": f"q{i % 8}", "question": f"Question {i % 8}?", "answer": f"To {i}."}
            lines.write(json.dumps(row) + "\n")
    return file


def list_arguments(server: ChatServer, folder: Path, name: str) -> list[str]:
    """Return the arguments that judge these answers, with store and run in the folder `name`."""
    folder = folder / name
    arguments = [f"answers={folder.parent / 'answers.jsonl'}", "judge=gpt4o", "judge.model=single-judge"]
    arguments += [f"judge.base_url={server.base_url}", f"judge.connections={CONNECTIONS}", "judge.timeout=10"]
    return [*arguments, f"store.dir={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"]


def read_verdicts(folder: Path) -> list[dict[str, Any]]:
    """Read the verdicts of a run, without the seconds of each call."""
    lines = (folder / "run" / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.alone
def test_nothing_is_lost_or_judged_twice_on_a_bad_day_not_even_after_three_kills(
    server: ChatServer, tmp_path: Path
) -> None:
    total = 2 * ANSWERS
    write_answers(tmp_path)
    server.reset(**BAD_DAY, latency=0.02)
    done = run_script("evaluate.py", *list_arguments(server, tmp_path, "whole"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stats = server.read_stats()
    assert (stats["distinct"], stats["duplicates"], stats["early"]) == (total, 0, 0)
    for outcome, least in (("429", 800), ("server_errors", 300), ("dropped", 100), ("malformed", 50), ("hangs", 20)):
        assert stats["outcomes"][outcome] > least, f"too few faults of the kind {outcome}"
    expected = read_verdicts(tmp_path / "whole")
    statuses = Counter(row["status"] for row in expected)
    # Only refused and garbled replies lack a number, and none of them gets a score.
    assert statuses["ok"] + statuses["unparsed"] == total
    assert 100 < statuses["unparsed"] < 300
    assert all((row["value"] is None) == (row["status"] != "ok") for row in expected)

    server.reset(**BAD_DAY, latency=0.02, seed=1)
    in_flight = sum(kill_at(server, tmp_path, share * total) for share in (0.2, 0.5, 0.8))
    done = run_script("evaluate.py", *list_arguments(server, tmp_path, "killed"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stats = server.read_stats()
    assert stats["distinct"] == total
    assert stats["duplicates"] <= in_flight
    assert read_verdicts(tmp_path / "killed") == expected
    tables = [(tmp_path / name / "run" / "scores.csv").read_bytes() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


def kill_at(server: ChatServer, folder: Path, answered: float) -> int:
    """Start a run, kill it after `answered` answers of the server; return the maximum of calls in flight."""
    process = start_script("evaluate.py", *list_arguments(server, folder, "killed"), cwd=folder)
    while server.read_stats()["answered"] < answered:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return CONNECTIONS
