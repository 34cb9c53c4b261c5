"""Sampling and judging by a server's Batch API: half the price, batches are resumed, and failures are retried."""

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
from em.judge.run import prepare_judges
from em.models.hosted import make_hosted_model
from em.plan import accept, estimate
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls, request_key
from em.sample.remote import ServerSampler
from em.types import JudgeRequest, Message, Prices, SampleRequest
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings
from tests.support.judging import judge_all, make_judge, make_score_requests, read_judgements

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
    """The server with counters at zero and no faults; waits between polls are short."""
    monkeypatch.setattr(batches, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(batches, "SETTLE", 0.05)
    running.reset(**PLAIN)
    return running


def make_batch_judge(server: ChatServer, **changes: Any) -> ApiJudge:
    """Make the settings of a judge by batches."""
    return make_judge(server, "single-judge", **{"batch": True, "reading": Reading.logprobs} | changes)


def count_batches(server: ChatServer) -> int:
    """Count the batches that were created."""
    return int(server.read_stats()["other"].get("POST /v1/batches", 0))


def list_notes(calls: Calls) -> list[Path]:
    """List the notes of open batches."""
    return sorted((calls.folder / "batches").glob("*.json"))


def stop_judging(
    settings: ApiJudge, requests: list[JudgeRequest], calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judge, and stop while the batch is under way."""

    async def kill_run(*_: Any) -> dict[str, str]:
        raise ServerError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(batches.BatchedCalls, "collect", kill_run)
        with pytest.raises(ServerError, match="killed"):
            judge_all(settings, requests, calls)


# Judging


def test_batches_judge_and_what_failed_is_judged_by_another(server: ChatServer, calls: Calls) -> None:
    settings, requests = make_batch_judge(server, reading=Reading.auto), make_score_requests(40)
    first_judge = judge_all(settings, requests, calls)
    assert first_judge.reading == "logprobs"  # the probe is a single call before the batch
    assert first_judge.failures == {}
    assert {each.status for each in read_judgements(settings, requests, calls, LOGPROBS)} == {"ok"}
    assert list_notes(calls) == []
    server.reset(batch_failed=0.3)
    more = make_score_requests(40, first=100)
    failed = judge_all(settings, more, calls).failures
    assert 0 < len(failed) < 40
    server.ask("/tuning", {"batch_failed": 0.0})  # unlike a reset, this keeps the batches
    assert judge_all(settings, more, calls).failures == {}


def test_one_connection_is_enough(server: ChatServer, calls: Calls) -> None:
    settings, requests = make_batch_judge(server, connections=1), make_score_requests(5)
    assert judge_all(settings, requests, calls).failures == {}
    assert {each.status for each in read_judgements(settings, requests, calls, LOGPROBS)} == {"ok"}


def test_a_batch_all_of_whose_lines_failed_is_not_found_again(server: ChatServer, calls: Calls) -> None:
    server.reset(batch_failed=1.0)
    settings, requests = make_batch_judge(server), make_score_requests(5)
    assert len(judge_all(settings, requests, calls).failures) == 5
    assert len(judge_all(settings, requests, calls).failures) == 5
    assert count_batches(server) == 2
    server.ask("/tuning", {"batch_failed": 0.0})
    assert judge_all(settings, requests, calls).failures == {}
    assert count_batches(server) == 3


def test_a_batch_that_was_not_noted_is_found_on_the_server(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, requests = make_batch_judge(server), make_score_requests(10)
    stop_judging(settings, requests, calls, monkeypatch)
    [note] = list_notes(calls)
    noted = json.loads(note.read_text(encoding="utf-8"))
    note.unlink()
    stop_judging(settings, requests, calls, monkeypatch)
    [again] = list_notes(calls)
    assert json.loads(again.read_text(encoding="utf-8")) == noted  # the same id: no second batch was created
    judge_all(settings, requests, calls)
    assert {each.status for each in read_judgements(settings, requests, calls, LOGPROBS)} == {"ok"}


def test_a_batch_that_the_server_has_no_more_is_created_anew(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reset(batch_seconds=60)
    settings, requests = make_batch_judge(server), make_score_requests(5)
    stop_judging(settings, requests, calls, monkeypatch)
    server.reset(**PLAIN)  # the server forgets its batches
    assert judge_all(settings, requests, calls).failures == {}
    assert (count_batches(server), list_notes(calls)) == (1, [])


def test_a_batch_of_another_server_is_left_alone(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_judging(make_batch_judge(server), make_score_requests(5), calls, monkeypatch)
    [note] = list_notes(calls)
    note.write_text(note.read_text().replace("127.0.0.1", "elsewhere"))
    note = note.rename(note.with_name(note.name.replace("127.0.0.1", "elsewhere")))
    server.reset(**PLAIN)
    judge_all(make_batch_judge(server), make_score_requests(5), calls)
    assert list_notes(calls) == [note]


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
        judge_all(make_batch_judge(server), make_score_requests(5), calls)
    server.reset(**PLAIN)
    assert judge_all(make_batch_judge(server), make_score_requests(5), calls).failures == {}


def test_a_created_batch_whose_reply_was_lost_is_found(server: ChatServer, calls: Calls) -> None:
    server.reset(tuning_fault="batches:lost:1")
    assert judge_all(make_batch_judge(server, timeout=0.7), make_score_requests(5), calls).failures == {}
    assert count_batches(server) == 1


def test_what_a_batch_says_is_told_without_keys(
    server: ChatServer, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    server.reset(batch_failed=1.0, batch_message="no, sk-planted-0123456789abcdef may not")
    [words] = judge_all(make_batch_judge(server), make_score_requests(1), calls).failures.values()
    assert "[secret] may not" in words
    assert "planted" not in words


# Sampling


def make_sample_requests(count: int) -> list[SampleRequest]:
    """Make requests for answers."""
    messages = (Message("user", "Why?"),)
    return [SampleRequest("openai:127.0.0.1|m", messages, i, 7, 1.0, 1.0, 40, "api") for i in range(count)]


def sample(server: ChatServer, requests: list[SampleRequest], calls: Calls) -> None:
    """Sample from the server's model by batches."""
    model = OpenAIModel(name="m", id="writer-model", base_url=server.base_url)
    sampler = ServerSampler(model, ApiSampler(name="api", timeout=5, batch=True))
    asyncio.run(sampler.sample(make_hosted_model(model), requests, calls, Prices()))


def test_answers_by_batch_are_those_that_are_asked_one_by_one(server: ChatServer, calls: Calls, tmp_path: Path) -> None:
    requests = make_sample_requests(6)
    sample(server, requests, calls)
    by_batch = calls.read_responses([request_key(r) for r in requests])
    assert all(each.pop("batch") for each in by_batch.values())
    (tmp_path / "other").mkdir()
    with Calls(tmp_path / "other") as others:
        model = OpenAIModel(name="m", id="writer-model", base_url=server.base_url)
        sampler = ServerSampler(model, ApiSampler(name="api", timeout=5))
        asyncio.run(sampler.sample(make_hosted_model(model), requests, others, Prices()))
        by_call = others.read_responses([request_key(r) for r in requests])
    assert all(each.pop("seconds") is not None for each in by_call.values())
    assert by_call == by_batch
    sample(server, requests, calls)
    assert count_batches(server) == 1


def test_answers_that_a_batch_did_not_bring_are_asked_for_anew(server: ChatServer, calls: Calls) -> None:
    server.reset(batch_end="expired")
    with pytest.raises(ServerError, match=r"3 of 6 answers of writer-model failed: run the same command again"):
        sample(server, make_sample_requests(6), calls)
    server.ask("/tuning", {"batch_end": "completed"})
    sample(server, make_sample_requests(6), calls)
    assert len(calls.read_responses([request_key(r) for r in make_sample_requests(6)])) == 6


def test_a_run_by_batches_costs_half(server: ChatServer, tmp_path: Path) -> None:
    words = ["model=gpt4o", "model.id=writer-model", f"model.base_url={server.base_url}", "data=none", "eval=quick"]
    words += ["eval.sets=[probe]", "eval.samples=2", "judge=open", "judge.model=single-judge", "sampler.batch=true"]
    words += [f"judge.base_url={server.base_url}", f"store.dir={tmp_path / 'store'}", "judge.reading=logprobs"]
    prices = tmp_path / "mine.yaml"
    prices.write_text("{as_of: 2026-01-02, usd_per_million_tokens: {writer-model: {input: 1, output: 2}}}")
    words.append(f"prices={prices}")
    request = accept("evaluate", compose_settings("evaluate", *words), tmp_path, words)
    assert "(prices: mine.yaml of 2026-01-02, else em's table of 20" in estimate(request)
    manifest = ManifestWriter(tmp_path, "evaluate", request.settings, words)
    judges = prepare_judges(request.judges, (), True, manifest)
    models = [make_hosted_model(request.settings.model)]  # type: ignore[arg-type]
    write_results(request, ask_and_judge(request, models, judges, manifest), manifest)
    costs = manifest.facts["costs"]
    [row] = [row for row in costs["by"] if row["what"] == "sampling"]
    assert row["usd"] == pytest.approx((row["prompt_tokens"] + 2 * row["reply_tokens"]) / 2e6)
    assert costs["prices"].startswith("mine.yaml of 2026-01-02")
    assert count_batches(server) == 1


def test_batches_that_can_not_be_are_refused(tmp_path: Path) -> None:
    words = ["model=smollm2", "data=none", "eval=quick", "sampler.batch=true", f"store.dir={tmp_path}"]
    with pytest.raises(ConfigError, match="needs a server's model, and model=smollm2 runs here"):
        accept("evaluate", compose_settings("evaluate", *words), tmp_path, words)


# The stand-in


def test_what_the_server_shows_has_the_forms_of_the_openai_package(server: ChatServer, calls: Calls) -> None:
    from openai.types import Batch
    from openai.types.chat import ChatCompletion

    sample(server, make_sample_requests(2), calls)
    [shown] = server.ask("/v1/batches")["data"]
    Batch.model_validate(shown, strict=True)
    body = {"model": "single-judge", "messages": [{"role": "user", "content": "Rate it from 0 to 100."}]}
    body |= {"logprobs": True, "top_logprobs": 5, "max_completion_tokens": 1}
    ChatCompletion.model_validate(server.ask("/v1/chat/completions", body), strict=True)
