"""A server's refusals teach which parameters it does not take: once, said, remembered, for every kind of call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from em.api.parameters import apply_changes, find_change, note_changes, read_changes
from em.config import ApiSampler, OpenAIModel, Reading
from em.errors import ServerError
from em.models.hosted import make_hosted_model
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls, request_key
from em.sample.remote import ServerSampler
from em.types import Message, Prices, SampleRequest
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings
from tests.support.judging import judge_all, make_judge, make_score_requests, read_judgements

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
    "temperature": 0.7,
    "top_p": 1.0,
    "max_completion_tokens": 40,
    "seed": 2**62 + 5,
}
MERGED = [{"role": "user", "content": "Be brief.\n\nWhy?"}]


def sample(server: ChatServer, calls: Calls, count: int = 4, **changes: Any) -> int:
    """Sample answers with a system prompt; return how many are remembered."""
    messages = (Message("system", "Be brief."), Message("user", "Why?"))
    requests = [SampleRequest("openai:127.0.0.1|m", messages, i, 7, 0.7, 0.9, 40, "api") for i in range(count)]
    model = OpenAIModel(**{"name": "m", "id": "writer-model", "base_url": server.base_url} | changes)
    sampler = ServerSampler(model, ApiSampler(name="api", connections=2, timeout=5))
    asyncio.run(sampler.sample(make_hosted_model(model), requests, calls, Prices()))
    return len(calls.find_stored_keys([request_key(each) for each in requests]))


@pytest.mark.parametrize(
    ("refused", "changes"),
    [
        ("max_completion_tokens", ["max_tokens"]),
        ("long_seed", ["short seed"]),
        ("seed", ["short seed", "no seed"]),
        ("top_p", ["no top_p"]),
        ("temperature", ["no temperature"]),
        ("system", ["merged system prompt"]),
        ("max_completion_tokens,seed,system", ["max_tokens", "short seed", "no seed", "merged system prompt"]),
    ],
)
@pytest.mark.parametrize("wording", ["openai", "pydantic", "quoted", "plain"])
def test_what_a_server_does_not_take_is_learnt_once(
    server: ChatServer, calls: Calls, refused: str, changes: list[str], wording: str
) -> None:
    server.reset(refused=refused, wording=wording)
    assert sample(server, calls) == 4
    assert read_changes(server.base_url, "writer-model", calls) == changes
    assert sample(server, calls, 12) == 12
    outcomes = server.read_stats()["outcomes"]
    assert outcomes.get("400", 0) + outcomes.get("422", 0) <= 2 * len(changes), "two connections, each refused once"


def test_what_was_learnt_is_said_once_and_noted_where_answers_change(
    server: ChatServer, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reset(refused="max_completion_tokens,temperature")
    sample(server, calls)
    sample(server, calls, 8)
    printed = capsys.readouterr().out
    assert printed.count("max_tokens is sent in place of max_completion_tokens") == 1
    assert printed.count("temperature is left out, so that the server's own applies") == 1
    manifest = ManifestWriter(tmp_path, "evaluate", compose_settings("evaluate"), [])
    note_changes(server.base_url, ["writer-model"], calls, manifest)
    [note] = manifest.facts["notes"]
    assert "temperature is left out" in note
    note_changes(server.base_url, ["another-model"], calls, manifest)
    assert manifest.facts["notes"] == [note]


@pytest.mark.parametrize("refused", ["max_completion_tokens", "seed", "max_completion_tokens,seed"])
@pytest.mark.parametrize("wording", ["openai", "pydantic"])
def test_a_judge_keeps_its_log_probabilities_on_such_a_server(
    server: ChatServer, calls: Calls, refused: str, wording: str
) -> None:
    server.reset(refused=refused, wording=wording)
    settings = make_judge(server, "single-judge")
    judge = judge_all(settings, make_score_requests(5), calls)
    assert judge.readings == {False: "logprobs"}
    judgements = read_judgements(settings, make_score_requests(5), calls, judge.readings)
    assert {each.status for each in judgements} == {"ok"}


@pytest.mark.parametrize("refused", ["logprobs", "logprobs,response_format"])
def test_a_judge_without_what_it_reads_from_is_read_in_another_way(
    server: ChatServer, calls: Calls, refused: str
) -> None:
    server.reset(refused=refused, wording="pydantic")
    judge = judge_all(make_judge(server, "single-judge"), make_score_requests(3), calls)
    assert judge.readings == {False: "sampled" if "response" in refused else "structured"}


def test_a_refusal_of_what_was_asked_for_by_name_stays_an_error(server: ChatServer, calls: Calls) -> None:
    server.reset(refused="logprobs")
    with pytest.raises(ServerError, match="refused the request"):
        judge_all(make_judge(server, "single-judge", reading=Reading.logprobs), make_score_requests(2), calls)


def test_a_router_tells_who_answered_and_takes_further_fields(server: ChatServer, calls: Calls) -> None:
    server.reset(provider="DeepInfra", refused="route")
    sample(server, calls, 1)
    [(response,)] = calls.db.execute("select response from calls where kind = 'sample'").fetchall()
    assert '"provider": "DeepInfra"' in response
    with pytest.raises(ServerError, match="'route' is not supported"):
        sample(server, calls, 2, extra_body={"route": "fallback"})


@pytest.mark.parametrize(
    ("message", "param", "change"),
    [
        ("Unrecognized request argument supplied: max_completion_tokens", None, "max_tokens"),
        ("Unsupported parameter: use 'max_tokens', not 'max_completion_tokens'.", None, "max_tokens"),
        ("Unsupported value: only the default is supported. See top_p.", "temperature", "no temperature"),
        ("invalid temperature: only 1 is allowed for this model", None, "no temperature"),
        ("`temperature` and `top_p` cannot both be specified for this model", None, "no top_p"),
        (
            "json: cannot unmarshal number into Go struct field ChatCompletionRequest.seed of type int",
            None,
            "short seed",
        ),
        ("Invalid value at 'generation_config.seed' (TYPE_INT32)", None, "short seed"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", None, "merged system prompt"),
        ("Developer instruction is not enabled for models/gemma-3", None, "merged system prompt"),
        ("Only user and assistant roles are supported!", None, "merged system prompt"),
        ("temperature must be in [0, 1]", None, None),
        ("Invalid 'temperature': the value is too high, the maximum is 1.", "temperature", None),
        ("Reduce the length of the messages.", "messages", None),
        ("We can't process this prompt.", None, None),
    ],
)
def test_refusals_in_other_words(message: str, param: str | None, change: str | None) -> None:
    refusal = SimpleNamespace(response=SimpleNamespace(text=message), param=param)
    assert find_change(refusal, BODY, ()) == change


def test_changes_leave_all_else_as_it_was() -> None:
    changed = apply_changes(BODY, ["max_tokens", "short seed", "no temperature", "merged system prompt"])
    assert changed == {"model": "m", "messages": MERGED, "top_p": 1.0, "max_tokens": 40, "seed": 5}
    assert apply_changes({"messages": MERGED}, ["no seed", "merged system prompt"]) == {"messages": MERGED}
