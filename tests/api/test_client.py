"""The client against a real server: which calls are retried, how long it waits, and how fast it calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import openai
import pytest

from em.api.client import CallFailed, Client, explain_error, read_retry_after
from em.api.rate_limit import RateLimiter, parse_duration
from em.cli.jobs import main as jobs
from em.config.addresses import find_server_name
from em.errors import ServerError
from tests.support.chat_server import ChatServer

KEY = "sk-test-0123456789abcdef"
pytestmark = pytest.mark.alone


def make_body(prompt: str, model: str = "single-judge") -> dict[str, Any]:
    """Make the body of a request for a number."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_completion_tokens": 1}


def ask_all(server: ChatServer, count: int, connections: int = 50, timeout: float = 5.0) -> list[Any]:
    """Send `count` prompts; return the replies or exceptions."""

    async def gather_replies() -> list[Any]:
        async with Client(server.base_url, connections, timeout) as client:
            calls = (client.complete_chat(make_body(f"Rate answer {i} from 0 to 100.")) for i in range(count))
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(gather_replies())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "600"}, 600.0),  # longer than the openai package would wait
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_to_wait_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert read_retry_after(headers) == expected


def test_a_date_to_come_back_at_is_read_too() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert read_retry_after({"retry-after": then}) == pytest.approx(30, abs=1.5)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=30), usegmt=True)
    assert read_retry_after({"retry-after": past}) == 0


def test_durations_of_rate_limit_headers() -> None:
    assert [parse_duration(text) for text in ("1s", "6m0s", "120ms", "1h2m3s", "7", "x", "")] == [
        1,
        360,
        0.12,
        3723,
        7,
        None,
        None,
    ]


def test_what_can_heal_is_repeated_and_each_call_is_answered_once() -> None:
    faults = {"rate_limited": 0.1, "retry_after": 0.2, "server_errors": 0.05, "dropped": 0.02, "malformed": 0.01}
    with ChatServer(latency=0.01, **faults) as server:
        replies = ask_all(server, 400)
        stats = server.read_stats()
    assert all(not isinstance(reply, BaseException) for reply in replies)
    assert (stats["distinct"], stats["early"]) == (400, 0)  # `early`: retries before the time the server asked for
    assert stats["outcomes"]["429"] > 10


def test_an_answer_that_never_comes_is_asked_for_again() -> None:
    with ChatServer(latency=0.01, hangs=0.05) as server:
        replies = ask_all(server, 100, timeout=1.0)
    assert all(not isinstance(reply, BaseException) for reply in replies)
    assert max(reply.seconds for reply in replies) > 1


@pytest.mark.parametrize(
    ("options", "model", "error"),
    [
        ({"quota": 0}, "single-judge", openai.RateLimitError),
        ({"key": "another"}, "single-judge", openai.AuthenticationError),
        ({}, "missing-judge", openai.NotFoundError),
    ],
)
def test_what_never_heals_is_asked_once(
    options: dict[str, Any], model: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def ask_once(server: ChatServer) -> None:
        async with Client(server.base_url, 1, 5.0) as client:
            await client.complete_chat(make_body("Rate it.", model))

    with ChatServer(**options) as server:
        with pytest.raises(error) as raised:
            asyncio.run(ask_once(server))
        assert server.read_stats()["arrivals"] == 1
    message = explain_error(model, raised.value)
    assert KEY not in message
    assert len(message) < 200


def test_a_server_that_stays_broken_is_given_up_in_words() -> None:
    async def ask_once(server: ChatServer) -> None:
        async with Client(server.base_url, 1, 5.0) as client:
            await client._request_json("POST", "/chat/completions", make_body("Rate it."), lambda _: None, attempts=2)

    with ChatServer(server_errors=1.0) as server, pytest.raises(CallFailed, match="run the same command again"):
        asyncio.run(ask_once(server))


def test_a_server_that_is_not_there_is_told_of_at_once(closed_port: str) -> None:
    async def list_models() -> None:
        async with Client(f"{closed_port}/v1", 1, 5.0) as client:
            await client.get("/models")

    began = time.monotonic()
    with pytest.raises(ServerError, match="can't be reached"):
        asyncio.run(list_models())
    assert time.monotonic() - began < 5


def test_a_page_for_people_is_no_answer_of_a_server(
    serve: Callable[[type[BaseHTTPRequestHandler]], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<html>Welcome. Log in to go on.</html>")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr("em.api.client.LONGEST", 0.01)
    address = serve(Portal)
    assert jobs(["--base-url", address, "--store", str(tmp_path), "list"]) == 2
    assert "with a web page: check base_url" in capsys.readouterr().err

    async def list_models() -> None:
        async with Client(address, 1, 5.0) as client:
            await client.get("/models")

    with pytest.raises(ServerError, match="The server answers for /models with a web page"):
        asyncio.run(list_models())


@pytest.mark.parametrize("stated", [False, True])
def test_a_limit_of_the_server_is_kept_whether_or_not_it_is_told(stated: bool) -> None:
    with ChatServer(latency=0.1, rate=100, burst=20, limit_headers=stated) as server:
        began = time.monotonic()
        replies = ask_all(server, 800, connections=100)
        took = time.monotonic() - began
        stats = server.read_stats()
    assert all(not isinstance(reply, BaseException) for reply in replies)
    assert stats["outcomes"].get("429", 0) <= 0.05 * 800
    assert 800 / took > 60  # only checks that the client did not stall; a benchmark measures the rate


@pytest.mark.slow
def test_refusals_that_have_nothing_to_do_with_the_pace_do_not_slow_it_for_good() -> None:
    with ChatServer(latency=0.02, rate_limited=0.2, retry_after=0.05) as server:
        began = time.monotonic()
        ask_all(server, 1500, connections=50)
        assert time.monotonic() - began < 30


def test_servers_are_told_apart_by_host_and_not_by_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server_name(None) == ""
    assert find_server_name("https://api.openai.com/v1") == ""
    assert find_server_name("http://127.0.0.1:8000/v1") == find_server_name("http://127.0.0.1:8001/v1") == "127.0.0.1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example.org/v1")
    assert find_server_name(None) == "models.example.org"


def test_a_turn_that_was_given_before_the_pace_was_lowered_counts_as_before() -> None:
    async def take_turns() -> None:
        pace = RateLimiter(1)
        await pace.enter()
        second = asyncio.ensure_future(pace.enter())
        await asyncio.sleep(0)
        pace.leave()  # gives the turn to the second, whose task runs later
        time.sleep(0.002)
        lowered = asyncio.get_running_loop().time()
        assert await second < lowered

    asyncio.run(take_turns())
