"""Answers by a real server on loopback that speaks the chat completions protocol, and all its kinds of failure."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from em.api.client import ATTEMPTS
from em.config import ApiSampler, OpenAIModel
from em.errors import ServerError
from em.models.hosted import make_hosted_model
from em.runtime.memory import Calls, request_key
from em.sample.plan import derive_answer_seed
from em.sample.remote import ServerSampler
from em.types import Message, Prices, SampleRequest

KEY = "sk-of-the-tests-0123456789"
Serve = Callable[[type[BaseHTTPRequestHandler]], str]


def make_request(number: int = 0) -> SampleRequest:
    """Make a request for an answer."""
    messages = (Message("system", "Be brief."), Message("user", "Why? 🚗"))
    return SampleRequest("openai::gpt", messages, number, 7, 0.9, 0.8, 40, "api")


def sample_answers(name: str, url: str, requests: list[SampleRequest], connections: int, calls: Calls) -> None:
    """Sample from a server's model."""
    model = OpenAIModel(name=name, id=name, base_url=url)
    sampler = ApiSampler(name="api", connections=connections, timeout=5)
    asyncio.run(ServerSampler(model, sampler).sample(make_hosted_model(model), requests, calls, Prices()))


def make_completion(text: str | None = "Because.", **changes: Any) -> dict[str, Any]:
    """Make a chat completion with this text."""
    message = {"role": "assistant", "content": text, "refusal": None} | changes.pop("message", {})
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None} | changes.pop("choice", {})
    usage = {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "gpt", "choices": [choice], "usage": usage}
    return body | changes


class SeenRequests:
    """The requests that the server received, and its replies in order (the last one repeats)."""

    def __init__(self, *replies: tuple[int, Any]) -> None:
        self.replies = replies or ((200, make_completion()),)
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()

    def make_handler(self) -> type[BaseHTTPRequestHandler]:
        """Make the request handler of the server."""
        seen = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with seen.lock:
                    number = len(seen.bodies)
                    seen.bodies.append(json.loads(body))
                    seen.paths.append(self.path)
                    seen.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, reply = seen.replies[min(number, len(seen.replies) - 1)]
                text = reply if isinstance(reply, str) else json.dumps(reply)
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if text[:1] in "{[" else "text/html")
                self.send_header("Content-Length", str(len(text.encode())))
                # Without this header the client would wait longer before its retries.
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *words: object) -> None:
                """Say nothing on the test's terminal."""

        return Handler


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, which every client needs."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def make_refusal(status: int) -> dict[str, Any]:
    """Make the body of a refusal that repeats the key, as some servers do."""
    return {"error": {"message": f"{status}: key {KEY} for this", "type": "x", "code": None, "param": None}}


def fail_sampling(folder: Path, url: str, requests: list[SampleRequest] | None = None) -> str:
    """Sample in vain; return the error message. Neither message nor traceback may hold the key."""
    with Calls(folder) as calls, pytest.raises(ServerError) as caught:
        sample_answers("gpt", f"{url}/v1", requests or [make_request()], 1, calls)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Requests and responses


def test_an_answer_is_kept_as_it_came(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests((200, make_completion("Because 🚗\u2028.")))
    with Calls(tmp_path) as calls:
        sample_answers("gpt", serve(seen.make_handler()) + "/v1", [make_request()], 4, calls)
        [response] = calls.read_responses([request_key(make_request())]).values()
        assert response.pop("seconds") >= 0
        assert response == {
            "answer": "Because 🚗\u2028.",
            "finish_reason": "stop",
            "prompt_tokens": 21,
            "answer_tokens": 3,
        }


def test_the_server_is_asked_with_every_setting(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests()
    with Calls(tmp_path) as calls:
        sample_answers("gpt", serve(seen.make_handler()) + "/v1", [make_request(3)], 4, calls)
    [body] = seen.bodies
    assert body == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why? 🚗"}],
        "temperature": 0.9,
        "top_p": 0.8,
        "max_completion_tokens": 40,
        "seed": derive_answer_seed(make_request(3)),
    }
    assert seen.paths == ["/v1/chat/completions"]
    assert seen.headers[0]["authorization"] == f"Bearer {KEY}"


def test_every_sample_has_a_seed_of_its_own(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests()
    with Calls(tmp_path) as calls:
        sample_answers("gpt", serve(seen.make_handler()) + "/v1", [make_request(i) for i in range(10)], 4, calls)
    seeds = [derive_answer_seed(make_request(i)) for i in range(10)]
    assert sorted(body["seed"] for body in seen.bodies) == sorted(seeds)
    assert len({body["seed"] for body in seen.bodies}) == 10


def test_what_is_remembered_is_not_asked_again(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests()
    url = serve(seen.make_handler()) + "/v1"
    with Calls(tmp_path) as calls:
        sample_answers("gpt", url, [make_request(i) for i in range(4)], 2, calls)
        sample_answers("gpt", url, [make_request(i) for i in range(6)], 2, calls)
        sample_answers("gpt", url, [make_request(i) for i in range(6)], 2, calls)
        assert len(calls.read_responses([request_key(make_request(i)) for i in range(6)])) == 6
    assert len(seen.bodies) == 6


def test_a_refusal_in_its_own_field_is_the_answer(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests(
        (200, make_completion(None, message={"refusal": "I can't."})),
        (200, make_completion(None, choice={"finish_reason": "content_filter"}, usage=None)),
    )
    with Calls(tmp_path) as calls:
        sample_answers("gpt", serve(seen.make_handler()) + "/v1", [make_request(0), make_request(1)], 1, calls)
        keys = [request_key(make_request(i)) for i in (0, 1)]
        first, second = (calls.read_responses([key])[key] for key in keys)
    assert (first["answer"], first["finish_reason"]) == ("I can't.", "stop")
    assert (second["answer"], second["finish_reason"], second["answer_tokens"]) == ("", "content_filter", 0)


@pytest.mark.parametrize("connections", [1, 3])
def test_so_many_requests_are_under_way_as_there_are_connections(
    serve: Serve, tmp_path: Path, connections: int
) -> None:
    together = threading.Barrier(connections)
    lock, under_way, most = threading.Lock(), 0, 0

    class Counting(SeenRequests().make_handler()):  # type: ignore[misc]
        def do_POST(self) -> None:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            together.wait(timeout=30)  # waits until so many requests are under way
            with lock:
                under_way -= 1
            super().do_POST()

    with Calls(tmp_path) as calls:
        requests = [make_request(i) for i in range(3 * connections)]
        sample_answers("gpt", serve(Counting) + "/v1", requests, connections, calls)
        assert len(calls.read_responses([request_key(r) for r in requests])) == 3 * connections
    assert most <= connections


def test_a_stumble_of_the_server_is_tried_again_by_the_client(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests((500, make_refusal(500)), (429, make_refusal(429)), (200, make_completion()))
    with Calls(tmp_path) as calls:
        sample_answers("gpt", serve(seen.make_handler()) + "/v1", [make_request()], 1, calls)
        assert len(calls.read_responses([request_key(make_request())])) == 1
    assert len(seen.bodies) == 3


# Failures


@pytest.mark.parametrize(
    ("status", "sentence", "times"),
    [
        (401, "The server refused the key for gpt: check OPENAI_API_KEY.", 1),
        (403, "The server refused the key for gpt: check OPENAI_API_KEY.", 1),
        (404, "The server has no model gpt: check its name and base_url (it may have been retired).", 1),
        (400, "The server refused the request for gpt with 400: the model may not take", 1),
        (500, "The server answered 500 for gpt: run the same command again later.", ATTEMPTS),
        (503, "The server answered 503 for gpt: run the same command again later.", ATTEMPTS),
    ],
)
def test_a_refusal_is_one_sentence_without_the_key(
    serve: Serve, tmp_path: Path, status: int, sentence: str, times: int
) -> None:
    seen = SeenRequests((status, make_refusal(status)))
    assert fail_sampling(tmp_path, serve(seen.make_handler())).startswith(sentence)
    assert len(seen.bodies) == times


def test_a_server_that_is_not_there_is_one_sentence(
    closed_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em.api.client.ATTEMPTS", 2)  # all attempts would take half a minute
    assert fail_sampling(tmp_path, closed_port) == (
        "The server can't be reached: check the network and base_url, then run the same command again."
    )


@pytest.mark.parametrize(
    "reply",
    [
        "<html>You wanted another page</html>",
        "{",
        {},
        {"error": {"message": "none of your business"}},
        make_completion(choices=[]),
        make_completion(choices=None),
    ],
)
def test_an_answer_that_can_not_be_used_is_one_sentence(serve: Serve, tmp_path: Path, reply: Any) -> None:
    assert "gpt" in fail_sampling(tmp_path, serve(SeenRequests((200, reply)).make_handler()))
    with Calls(tmp_path) as calls:
        assert calls.read_responses([request_key(make_request())]) == {}


def test_the_first_failure_ends_the_rest_and_what_was_answered_stays(serve: Serve, tmp_path: Path) -> None:
    requests = [make_request(i) for i in range(10)]
    seen = SeenRequests(*[(200, make_completion())] * 3, (401, make_refusal(401)))
    fail_sampling(tmp_path, serve(seen.make_handler()), requests)
    assert len(seen.bodies) == 4
    healed = SeenRequests()
    with Calls(tmp_path) as calls:
        assert len(calls.read_responses([request_key(r) for r in requests])) == 3
        sample_answers("gpt", serve(healed.make_handler()) + "/v1", requests, 4, calls)
        assert len(calls.read_responses([request_key(r) for r in requests])) == 10
    assert len(healed.bodies) == 7


def test_an_empty_account_is_told_of_and_not_asked_again(serve: Serve, tmp_path: Path) -> None:
    quota = {"error": {"message": f"no credit for {KEY}", "type": "insufficient_quota", "code": "insufficient_quota"}}
    seen = SeenRequests((429, quota))
    assert "has no credit left for gpt" in fail_sampling(tmp_path, serve(seen.make_handler()))
    assert len(seen.bodies) == 1


def test_a_server_of_ones_own_wants_no_key(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    seen = SeenRequests()
    with Calls(tmp_path) as calls:
        sample_answers("gpt", serve(seen.make_handler()) + "/v1", [make_request()], 1, calls)
    assert len(seen.bodies) == 1


def test_two_prompts_that_are_the_same_are_asked_once(serve: Serve, tmp_path: Path) -> None:
    seen = SeenRequests()
    with Calls(tmp_path) as calls:
        sample_answers(
            "gpt",
            serve(seen.make_handler()) + "/v1",
            [make_request(), replace(make_request()), make_request(1)],
            1,
            calls,
        )
    assert len(seen.bodies) == 2
