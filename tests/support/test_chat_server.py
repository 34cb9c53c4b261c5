"""Test the chat server: the openai package can talk to it, and faults come as the options say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.support.chat_server import ChatServer, Options

ROOT = Path(__file__).parent.parent.parent
BODY: dict[str, Any] = {"model": "single-judge", "messages": [{"role": "user", "content": "Rate it from 0 to 100."}]}


@pytest.fixture(scope="module")
def shared() -> Iterator[ChatServer]:
    """Start one server for all tests of the file."""
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(shared: ChatServer) -> ChatServer:
    """Reset the server to its initial state."""
    shared.reset(**vars(Options()))
    return shared


@pytest.fixture
def client(server: ChatServer) -> Iterator[openai.OpenAI]:
    """Open a client of the openai package, without retries."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


def post_chat(server: ChatServer, timeout: float = 10, **changes: Any) -> requests.Response:
    """Post a request for a chat completion by a plain HTTP client."""
    return requests.post(f"{server.base_url}/chat/completions", json=BODY | changes, timeout=timeout)


def test_a_batch_of_the_openai_package_is_answered_line_by_line(server: ChatServer, client: openai.OpenAI) -> None:
    server.reset(batch_failed=0.3, batch_seconds=0.3)
    call = {"method": "POST", "url": "/v1/chat/completions"}
    lines: list[dict[str, Any]] = [{"custom_id": f"c{i}", **call, "body": BODY | {"seed": i}} for i in range(20)]
    text = "\n".join(map(json.dumps, lines))
    file = client.files.create(file=("batch.jsonl", text.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "test"}
    )
    assert batch.status == "in_progress"
    while (batch := client.batches.retrieve(batch.id)).status != "completed":
        time.sleep(0.05)
    assert client.batches.list().data[0].metadata == {"of": "test"}
    assert batch.output_file_id
    assert batch.error_file_id
    good = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    bad = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert sorted(each["custom_id"] for each in good + bad) == sorted(line["custom_id"] for line in lines)
    assert len(bad) == batch.request_counts.failed > 0  # type: ignore[union-attr]
    assert all(each["response"]["status_code"] == 500 for each in bad)
    # The same body gets the same answer in a batch as in a single call.
    seed = int(good[0]["custom_id"][1:])
    alone = client.chat.completions.create(**BODY, seed=seed)
    assert good[0]["response"]["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content


def test_refusals_to_wait_come_in_all_forms(server: ChatServer) -> None:
    server.reset(rate_limited=1.0, retry_after=2)
    now = time.time()
    headers = [post_chat(server).headers for _ in range(4)]
    assert headers[0]["retry-after"] == "2"
    assert 1 < parsedate_to_datetime(headers[1]["retry-after"]).timestamp() - now < 4
    assert headers[2]["retry-after-ms"] == "2000"
    assert not any("retry-after" in name.lower() for name in headers[3])
    assert server.read_stats()["early"] == 3, "all but the first came before the wait was over"


def test_faults_have_their_shares_and_come_back_with_their_seed(server: ChatServer) -> None:
    shares = {"rate_limited": 0.2, "server_errors": 0.2, "dropped": 0.1, "malformed": 0.1}

    def collect_outcomes(seed: int) -> list[str]:
        server.reset(**shares, seed=seed)
        results = []
        for _ in range(300):
            try:
                response = post_chat(server)
                response.json()["choices"][0]["message"]
                results.append("ok")
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                results.append("dropped")
            except (ValueError, KeyError):
                results.append(f"{response.status_code}")
        return results

    first = collect_outcomes(3)
    assert first == collect_outcomes(3) != collect_outcomes(4)
    count = Counter(first)
    assert 90 < count["ok"] < 150
    assert set(count) == {"ok", "dropped", "429", "500", "502", "503", "200"}
    assert 15 < count["dropped"] < 45


def test_a_hang_ends_when_the_client_goes_away(server: ChatServer) -> None:
    server.reset(hangs=1.0)
    with pytest.raises(requests.Timeout):
        post_chat(server, timeout=0.2)
    time.sleep(0.3)
    assert server.read_stats()["in_flight"] == 0


def test_a_limited_server_answers_at_its_rate_and_tells_of_it(server: ChatServer) -> None:
    server.reset(rate=50, burst=10, limit_headers=True)
    begin = time.monotonic()
    with requests.Session() as session:
        responses = [session.post(f"{server.base_url}/chat/completions", json=BODY, timeout=10) for _ in range(60)]
    seconds = time.monotonic() - begin
    good = sum(response.status_code == 200 for response in responses)
    assert good <= 10 + 50 * seconds + 1
    assert responses[0].headers["x-ratelimit-limit-requests"] == "10"
    refused = [response for response in responses if response.status_code == 429]
    assert all(0 < int(response.headers["retry-after-ms"]) <= 20 for response in refused)


def test_parameters_are_refused_as_by_the_models_they_stand_for(client: openai.OpenAI) -> None:
    for changes in ({"temperature": 0}, {"logprobs": True}, {"max_tokens": 5}):
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(**BODY | {"model": "reasoner-judge"} | changes)
        assert raised.value.param == next(iter(changes))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**BODY | {"model": "missing-judge"})
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**BODY, extra_body={"continue_final_message": True})


def test_a_schema_is_filled_within_its_bounds(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "score": {"type": "integer", "minimum": 1, "maximum": 7},
            "label": {"type": "string", "enum": ["GOOD", "CODE"]},
            "why": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    }
    shape = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    completion = client.chat.completions.create(**BODY, response_format=shape)  # type: ignore[call-overload]
    reply = json.loads(completion.choices[0].message.content)
    assert 1 <= reply["score"] <= 7
    assert reply["label"] == "GOOD"
    assert isinstance(reply["why"], str)


def test_models_that_end_are_told_and_gone(server: ChatServer, client: openai.OpenAI) -> None:
    server.reset(models="old,new", shutdown="old=2020-01-01,new=2999-01-01")
    dates = {model.id: model.model_dump()["shutdown_date"] for model in client.models.list()}
    assert dates == {"old": "2020-01-01", "new": "2999-01-01"}
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**BODY | {"model": "old"})
    client.chat.completions.create(**BODY | {"model": "new"})


@pytest.mark.slow
def test_make_starts_one_with_the_names_of_openais_models() -> None:
    # -o: use the installed environment, even if the lock file is newer.
    command = ["make", "-s", "-o", ".venv/.installed", "openai-stub", "ARGS=--port 0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("export OPENAI_BASE_URL=http://127.0.0.1:")
            port = int(process.stdout.readline())
            listed = requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=30).json()["data"]
        finally:
            os.killpg(process.pid, signal.SIGTERM)
    assert {"gpt-4o-2024-08-06", "gpt-4.1-2025-04-14", "o4-mini"} <= {each["id"] for each in listed}
