"""Sampling and judging by a server's Batch API: half the price, found again, and what failed is asked for anew."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from em.api import batches
from em.config import ApiJudge, ApiSampler, OpenAIModel, Reading
from em.errors import ConfigError, ServerError
from em.evaluate import ask_and_judge, write_results
from em.judge.run import ready_judges
from em.models.hosted import hosted_model
from em.plan import accept, estimate
from em.runtime.manifest import Manifest
from em.runtime.memory import Calls, request_key
from em.sample.remote import ServerSampler
from em.types import JudgeRequest, Message, Prices, SampleRequest
from tests.support.chat_server import ChatServer
from tests.support.composing import composed
from tests.support.judging import judge_all, judge_at, said, scores

LOGPROBS = {False: "logprobs"}
PLAIN = {
    "batch_failed": 0.0,
    "batch_end": "completed",
    "batch_seconds": 0.2,
    "batch_message": "No.",
    "tuning_fault": "",
}


@pytest.fixture
def server(running: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """The server with nothing counted and no faults; nobody waits long between looks."""
    monkeypatch.setattr(batches, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(batches, "SETTLE", 0.05)
    running.reset(**PLAIN)
    return running


def judge(server: ChatServer, **changes: Any) -> ApiJudge:
    """A judge of the server that is asked by batches."""
    return judge_at(server, "single-judge", **{"batch": True, "reading": Reading.logprobs} | changes)


def made(server: ChatServer) -> int:
    """How many batches were created."""
    return int(server.stats()["other"].get("POST /v1/batches", 0))


def notes(calls: Calls) -> list[Path]:
    """The batches that are noted."""
    return sorted((calls.folder / "batches").glob("*.json"))


def stopped(asked: ApiJudge, requests: list[JudgeRequest], calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge, and be stopped while the batch is under way."""

    async def killed(*_: Any) -> dict[str, str]:
        raise ServerError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(batches.Work, "collect", killed)
        with pytest.raises(ServerError, match="killed"):
            judge_all(asked, requests, calls)


# Judging


def test_batches_judge_and_what_failed_is_judged_by_another(server: ChatServer, calls: Calls) -> None:
    asked, requests = judge(server, reading=Reading.auto), scores(40)
    asked_now = judge_all(asked, requests, calls)
    assert asked_now.reading == "logprobs"  # found out by a probe that was made at once
    assert asked_now.failures == {}
    assert {each.status for each in said(asked, requests, calls, LOGPROBS)} == {"ok"}
    assert notes(calls) == []
    server.reset(batch_failed=0.3)
    more = scores(40, first=100)
    failed = judge_all(asked, more, calls).failures
    assert 0 < len(failed) < 40
    server.ask("/tuning", {"batch_failed": 0.0})  # the batches stay
    assert judge_all(asked, more, calls).failures == {}


def test_one_connection_is_enough(server: ChatServer, calls: Calls) -> None:
    asked, requests = judge(server, connections=1), scores(5)
    assert judge_all(asked, requests, calls).failures == {}
    assert {each.status for each in said(asked, requests, calls, LOGPROBS)} == {"ok"}


def test_a_batch_all_of_whose_lines_failed_is_not_found_again(server: ChatServer, calls: Calls) -> None:
    server.reset(batch_failed=1.0)
    asked, requests = judge(server), scores(5)
    assert len(judge_all(asked, requests, calls).failures) == 5
    assert len(judge_all(asked, requests, calls).failures) == 5
    assert made(server) == 2
    server.ask("/tuning", {"batch_failed": 0.0})
    assert judge_all(asked, requests, calls).failures == {}
    assert made(server) == 3


def test_a_batch_that_was_not_noted_is_found_on_the_server(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, requests = judge(server), scores(10)
    stopped(asked, requests, calls, monkeypatch)
    [note] = notes(calls)
    noted = json.loads(note.read_text(encoding="utf-8"))
    note.unlink()
    stopped(asked, requests, calls, monkeypatch)
    [again] = notes(calls)
    assert json.loads(again.read_text(encoding="utf-8")) == noted  # the same id: nothing was created twice
    judge_all(asked, requests, calls)
    assert {each.status for each in said(asked, requests, calls, LOGPROBS)} == {"ok"}


def test_a_batch_that_the_server_has_no_more_is_created_anew(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reset(batch_seconds=60)
    asked, requests = judge(server), scores(5)
    stopped(asked, requests, calls, monkeypatch)
    server.reset(**PLAIN)  # it knows of nothing any more
    assert judge_all(asked, requests, calls).failures == {}
    assert (made(server), notes(calls)) == (1, [])


def test_a_batch_of_another_server_is_left_alone(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(judge(server), scores(5), calls, monkeypatch)
    [note] = notes(calls)
    note.write_text(note.read_text().replace("127.0.0.1", "elsewhere"))
    note = note.rename(note.with_name(note.name.replace("127.0.0.1", "elsewhere")))
    server.reset(**PLAIN)
    judge_all(judge(server), scores(5), calls)
    assert notes(calls) == [note]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("batches:404", r"The server takes no batches \(404\): leave out judge.batch=true"),
        ("batches:400", r"refused a batch of judgements by single-judge \(400\): .* It says: The server says no"),
        ("batches:quota", "The account has no credit left for single-judge: top it up"),
    ],
)
def test_a_refused_batch_is_told_in_words(server: ChatServer, calls: Calls, fault: str, sentence: str) -> None:
    server.reset(tuning_fault=fault)
    with pytest.raises(ServerError, match=sentence):
        judge_all(judge(server), scores(5), calls)
    server.reset(**PLAIN)
    assert judge_all(judge(server), scores(5), calls).failures == {}


def test_a_created_batch_whose_reply_was_lost_is_found(server: ChatServer, calls: Calls) -> None:
    server.reset(tuning_fault="batches:lost:1")
    assert judge_all(judge(server, timeout=0.7), scores(5), calls).failures == {}
    assert made(server) == 1


def test_what_a_batch_says_is_told_without_keys(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    server.reset(batch_failed=1.0, batch_message="no, sk-planted-0123456789abcdef may not")
    [words] = judge_all(judge(server), scores(1), calls).failures.values()
    assert "[secret] may not" in words
    assert "planted" not in words


# Sampling


def answers(count: int) -> list[SampleRequest]:
    """Requests for answers."""
    asked = (Message("user", "Why?"),)
    return [SampleRequest("openai:127.0.0.1|m", asked, i, 7, 1.0, 1.0, 40, "api") for i in range(count)]


def sample(server: ChatServer, requests: list[SampleRequest], calls: Calls) -> None:
    """Have the server's model answer by batches."""
    model = OpenAIModel(name="m", id="writer-model", base_url=server.base_url)
    sampler = ServerSampler(model, ApiSampler(name="api", timeout=5, batch=True))
    asyncio.run(sampler.sample(hosted_model(model), requests, calls, Prices()))


def test_answers_by_batch_are_those_that_are_asked_one_by_one(server: ChatServer, calls: Calls, tmp_path: Path) -> None:
    requests = answers(6)
    sample(server, requests, calls)
    known = calls.known([request_key(r) for r in requests])
    assert all(each.pop("batch") for each in known.values())
    (tmp_path / "other").mkdir()
    with Calls(tmp_path / "other") as others:
        model = OpenAIModel(name="m", id="writer-model", base_url=server.base_url)
        sampler = ServerSampler(model, ApiSampler(name="api", timeout=5))
        asyncio.run(sampler.sample(hosted_model(model), requests, others, Prices()))
        plain = others.known([request_key(r) for r in requests])
    assert all(each.pop("seconds") is not None for each in plain.values())
    assert plain == known
    sample(server, requests, calls)
    assert made(server) == 1


def test_answers_that_a_batch_did_not_bring_are_asked_for_anew(server: ChatServer, calls: Calls) -> None:
    server.reset(batch_end="expired")
    with pytest.raises(ServerError, match=r"3 of 6 answers of writer-model did not come: run the same command again"):
        sample(server, answers(6), calls)
    server.ask("/tuning", {"batch_end": "completed"})
    sample(server, answers(6), calls)
    assert len(calls.known([request_key(r) for r in answers(6)])) == 6


def test_a_run_by_batches_costs_half(server: ChatServer, tmp_path: Path) -> None:
    given = ["model=gpt4o", "model.id=writer-model", f"model.base_url={server.base_url}", "data=none", "eval=quick"]
    given += ["eval.sets=[probe]", "eval.samples=2", "judge=open", "judge.model=single-judge", "sampler.batch=true"]
    given += [f"judge.base_url={server.base_url}", f"store.dir={tmp_path / 'store'}", "judge.reading=logprobs"]
    prices = tmp_path / "mine.yaml"
    prices.write_text("{as_of: 2026-01-02, usd_per_million_tokens: {writer-model: {input: 1, output: 2}}}")
    given.append(f"prices={prices}")
    request = accept("evaluate", composed("evaluate", *given), tmp_path, given)
    assert "(prices: mine.yaml of 2026-01-02, else em's table of 20" in estimate(request)
    manifest = Manifest(tmp_path, "evaluate", request.settings, given)
    judges = ready_judges(request.judges, (), True, manifest)
    models = [hosted_model(request.settings.model)]  # type: ignore[arg-type]
    write_results(request, ask_and_judge(request, models, judges, manifest), manifest)
    costs = manifest.facts["costs"]
    [row] = [row for row in costs["by"] if row["what"] == "sampling"]
    assert row["usd"] == pytest.approx((row["prompt_tokens"] + 2 * row["reply_tokens"]) / 2e6)
    assert costs["prices"].startswith("mine.yaml of 2026-01-02")
    assert made(server) == 1


def test_batches_that_can_not_be_are_refused(tmp_path: Path) -> None:
    given = ["model=smollm2", "data=none", "eval=quick", "sampler.batch=true", f"store.dir={tmp_path}"]
    with pytest.raises(ConfigError, match="needs a server's model, and model=smollm2 runs here"):
        accept("evaluate", composed("evaluate", *given), tmp_path, given)


# The stand-in


def test_what_the_server_shows_has_the_forms_of_the_openai_package(server: ChatServer, calls: Calls) -> None:
    from openai.types import Batch
    from openai.types.chat import ChatCompletion

    sample(server, answers(2), calls)
    [shown] = server.ask("/v1/batches")["data"]
    Batch.model_validate(shown, strict=True)
    body = {"model": "single-judge", "messages": [{"role": "user", "content": "Rate it from 0 to 100."}]}
    body |= {"logprobs": True, "top_logprobs": 5, "max_completion_tokens": 1}
    ChatCompletion.model_validate(server.ask("/v1/chat/completions", body), strict=True)
