"""The one client for model servers that speak OpenAI's protocol: for sampling, judging, generation, remote training.

It uses the openai package's key, headers, errors and aiohttp transport. Chat completions go straight to the transport:
the package takes longer to build a request than to send it, and its own retries repeat `insufficient_quota`, which
never heals, and give up on long waits. `wait_before_retry` alone decides what is retried. Files and batches go through
the package itself (`Client.raw`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from em.api.rate_limit import RateLimiter, parse_duration
from em.api.replies import check_completion, find_error_status, read_total_tokens
from em.config.addresses import find_server_name
from em.errors import ServerError
from em.runtime.keys import KEY_ENV, read_api_key, redact_secrets

ATTEMPTS = 8  # of a call that fails for other reasons than a rate limit; half as many if the reply is malformed
PATIENCE = 1800.0  # seconds that a call spends on waiting for rate limits, in all
LONGEST = 120.0  # seconds between two attempts, unless the server asks for more
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A server's reply: its JSON, and the seconds that all attempts took together."""

    body: dict[str, Any]
    seconds: float


class CallFailed(ServerError):
    """A call failed at every attempt; other calls may succeed. The text gives the reason."""


class Client:
    """A connection to one server, used as an async context manager.

    Args:
        base_url: address of the server; None means OPENAI_BASE_URL, or OpenAI's own server.
        connections: maximum number of concurrent requests.
        timeout: seconds until an unanswered request counts as lost.
        key_env: the environment variable that holds the server's key.
        twins: addresses of servers that serve the same; requests go to all of them in turn.
    """

    def __init__(
        self,
        base_url: str | None,
        connections: int,
        timeout: float,
        key_env: str = KEY_ENV,
        twins: Sequence[str] = (),
    ) -> None:
        self.base_url, self.connections, self.timeout, self.key_env = base_url, connections, timeout, key_env
        self.twins, self.sent = twins, 0
        self.pace = RateLimiter(connections)
        self.failed_in_a_row = 0

    async def __aenter__(self) -> Client:
        import httpx2
        import openai

        # They log every request, which would break the progress bar.
        for library in ("httpx2", "openai"):
            logging.getLogger(library).setLevel(logging.WARNING)
        limits = httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        hooks = {"response": [refuse_page]}
        self._http = openai.DefaultAioHttpClient(limits=limits, timeout=self.timeout, event_hooks=hooks)
        self._openai = openai.AsyncOpenAI(
            # A local server may need no key, but the package insists on one.
            api_key=read_api_key(self.key_env) or ("none" if find_server_name(self.base_url) else None),
            base_url=self.base_url,
            max_retries=0,
            timeout=self.timeout,
            http_client=self._http,
        )
        if find_server_name(self.base_url):  # another server must not learn the user's organization at OpenAI
            self._openai.organization = self._openai.project = None
        headers = {**self._openai.default_headers, **self._openai.auth_headers}
        self._headers = httpx2.Headers({name: value for name, value in headers.items() if isinstance(value, str)})
        self._waits = {"timeout": httpx2.Timeout(self.timeout).as_dict()}
        self._urls: dict[tuple[str, str], Any] = {}
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._openai.close()

    async def complete_chat(self, body: Mapping[str, Any]) -> Reply:
        """Request one chat completion (without streaming).

        Raises:
            CallFailed: the call failed at every attempt.
            openai.APIStatusError: the server refused it, and a retry can't help (see `explain_error`).
        """
        return await self._request_json("POST", "/chat/completions", body, check_completion, ATTEMPTS)

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at a path, such as `/models`. Raises CallFailed after three attempts."""
        return (await self._request_json("GET", path, None, check_object, attempts=3)).body

    @property
    def raw(self) -> Any:
        """The openai package's own client, for files and batches."""
        return self._openai

    async def _send(self, verb: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """Send one request and return its response. Raises the openai package's exceptions."""
        import httpx2
        import openai

        bases, self.sent = (str(self._openai.base_url), *self.twins), self.sent + 1
        base = bases[self.sent % len(bases)]
        url = self._urls.setdefault((base, path), httpx2.URL(f"{base.rstrip('/')}{path}"))
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        request = httpx2.Request(verb, url, headers=self._headers, content=content, extensions=self._waits)
        try:
            response = await self._http.send(request)
        except httpx2.TimeoutException as error:
            raise openai.APITimeoutError(request=request) from error
        except openai.APIConnectionError:
            raise
        except Exception as error:  # transports raise many kinds of errors for a broken connection
            raise openai.APIConnectionError(request=request) from error
        if response.status_code >= 400:
            raise make_status_error(response)
        return response

    async def _request_json(
        self, verb: str, path: str, body: Mapping[str, Any] | None, check: Callable[[Any], None], attempts: int
    ) -> Reply:
        """Send one request with retries, check its JSON and measure the time."""
        began = time.monotonic()

        async def send_once() -> Any:
            response = await self._send(verb, path, body)
            reply = parse_json(response.content)
            if (status := find_error_status(reply)) is not None:
                raise make_status_error(replace_status(response, status))
            check(reply)
            self.pace.accept(extract_limit_headers(response.headers), read_total_tokens(reply))
            return reply

        reply = await self.call_with_retries(str((body or {}).get("model", path)), send_once, attempts)
        return Reply(reply, time.monotonic() - began)

    async def call_with_retries(self, what: str, call: Callable[[], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
        """Return the result of `call`, after retries if it fails: the retry policy of all calls.

        Args:
            what: the model or path, for error messages.

        Raises:
            CallFailed: the call failed at every attempt.
            openai.APIStatusError: the server refused it, and a retry can't help.
        """
        import openai

        attempt, limits, waited = 0, 0, 0.0
        while True:
            turn_time = await self.pace.enter()
            try:
                result = await call()
                self.failed_in_a_row = 0
                return result
            except (openai.OpenAIError, ValueError) as error:
                error.add_note(self.key_env)  # for `explain_error`
                headers = (
                    extract_limit_headers(error.response.headers) if isinstance(error, openai.APIStatusError) else {}
                )
                limited = isinstance(error, openai.RateLimitError) and not is_out_of_credit(error)
                if limited:
                    limits += 1
                    self.pace.refuse(headers, turn_time)
                else:
                    # Waiting does not mend a malformed reply: half the attempts, without delay.
                    attempt += 2 if isinstance(error, ValueError) or isinstance(error.__cause__, WebPage) else 1
                wait = wait_before_retry(error, attempt + limits, headers)
                if wait is None:
                    raise
                waited += wait
                if attempt >= attempts or (limited and waited > PATIENCE):
                    self.failed_in_a_row += 1
                    raise CallFailed(explain_error(what, error)) from error
            finally:
                self.pace.leave()
            await asyncio.sleep(wait)


class WebPage(Exception):
    """A server answered with a web page (HTML) in place of JSON."""


async def refuse_page(response: Any) -> None:
    """Raise APIConnectionError for an HTML page with status 200: from a login portal, or a wrong address."""
    import openai

    if response.status_code < 300 and response.headers.get("content-type", "").startswith("text/html"):
        raise openai.APIConnectionError(request=response.request) from WebPage()


def parse_json(content: bytes) -> Any:
    """Parse a reply. Raises ValueError for what is no JSON, also if it is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def replace_status(response: Any, status: int) -> Any:
    """Return a copy of a response with another status."""
    import httpx2

    return httpx2.Response(status, headers=response.headers, content=response.content, request=response.request)


def make_status_error(response: Any) -> Exception:
    """Make the openai package's exception for a response with an error status."""
    import openai

    kinds = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
    }
    status = response.status_code
    kind = kinds.get(status, openai.InternalServerError if status >= 500 else openai.APIStatusError)
    try:
        body = parse_json(response.content)
    except ValueError:
        body = None
    inner = body.get("error", body) if isinstance(body, dict) else None
    return kind(f"status {status}", response=response, body=inner if isinstance(inner, dict) else None)


def extract_limit_headers(headers: Any) -> dict[str, str]:
    """Extract the headers on rate limits and retry times; done once per reply, as headers are slow to search."""
    pairs = [(k, v) for k, v in headers.raw if k[:11].lower() in (b"x-ratelimit", b"retry-after")]
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


def wait_before_retry(error: Exception, attempt: int, headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait before a retry; None if a retry can't help.

    Retried are lost connections, timeouts, 408, 409, 429 (not `insufficient_quota`), 5xx, and replies that break the
    protocol. The server's own figure is used if it gives one; else the wait doubles with each attempt, with jitter.
    """
    import openai

    match error:
        case openai.RateLimitError() if is_out_of_credit(error):
            return None
        case openai.APIStatusError() if error.status_code not in (408, 409, 429) and error.status_code < 500:
            return None
        case ValueError():
            return random.uniform(0, 0.2)
    server_wait = read_retry_after(headers)
    backoff = min(LONGEST, 0.25 * 2 ** max(0, attempt - 1))
    # The server's own figure gets some jitter too, lest all refused calls come back at the same moment.
    return (server_wait if server_wait is not None else backoff * random.uniform(0.5, 1)) + random.uniform(0, 0.1)


def is_out_of_credit(error: Exception) -> bool:
    """Return whether a 429 means an account without credit, which no retry heals."""
    return getattr(error, "code", None) == "insufficient_quota" or getattr(error, "type", None) == "insufficient_quota"


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the wait that a server asks for, in seconds: `retry-after-ms`, or `retry-after` (number, duration, date)."""
    try:
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    except ValueError:
        pass
    text = headers.get("retry-after", "")
    if (duration := parse_duration(text)) is not None:
        return duration
    try:
        then = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def check_object(value: Any) -> None:
    """Raise ValueError for JSON that is no object."""
    if not isinstance(value, dict):
        raise ValueError("no JSON object")


def explain_error(model: str, error: BaseException) -> str:
    """Explain an error of the server to the user. The server's text on a refused key is left out: it holds the key."""
    import openai

    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            name = next(iter(getattr(error, "__notes__", ())), KEY_ENV)
            return f"The server refused the key for {model}: check {name}."
        case openai.NotFoundError():
            return f"The server has no model {model}: check its name and base_url (it may have been retired)."
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return (
                f"The server refused the request for {model} with {error.status_code}: the model may not take such a "
                f"prompt, temperature, top_p, seed, number of tokens or way of reading.{quote_server(error)}"
            )
        case openai.RateLimitError() if is_out_of_credit(error):
            return f"The account has no credit left for {model}: top it up, then run the same command again."
        case openai.APIStatusError():
            return f"The server answered {error.status_code} for {model}: run the same command again later."
        # The transport reports a refused connection as a ConnectTimeout.
        case openai.APITimeoutError() if type(error.__cause__).__name__ != "ConnectTimeout":
            return f"The server did not answer in time for {model}: run the same command again later."
        case openai.APIConnectionError() if isinstance(error.__cause__, WebPage):
            return f"The server answers for {model} with a web page: check base_url (often with /v1) and the network."
        case openai.APIConnectionError():
            return "The server can't be reached: check the network and base_url, then run the same command again."
        case _:
            return f"The server's answer for {model} can't be used ({type(error).__name__})."


def quote_server(error: Any) -> str:
    """Quote the server's own message, to append to ours: at most 200 characters, without keys."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return f" It says: {' '.join(redact_secrets(str(message)).split())[:200]}" if message else ""
