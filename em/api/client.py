"""The one client for model servers that speak OpenAI's protocol: for sampling, judging, generation, remote training.

It is the openai package's: its key, headers and errors, over its aiohttp transport. Chat completions go straight to
that transport, since the package takes longer to build a request than to send it, and its own retries repeat
`insufficient_quota`, which never heals, and give up on long waits. What is repeated here is in `wait_before_retry`,
nowhere else. Files and batches go through the package itself (`Client.raw`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from em.api.rate_limit import Pace, seconds
from em.config.addresses import server_name
from em.errors import ServerError
from em.runtime.keys import KEY_ENV, api_key, without_secrets

ATTEMPTS = 8  # of a call that fails for other reasons than a rate limit; half as many where the reply is broken
PATIENCE = 1800.0  # seconds for which a call waits out rate limits
LONGEST = 120.0  # seconds between two attempts, where the server does not ask for more
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A server's answer: its JSON, and how long it took with all its attempts (seconds)."""

    body: dict[str, Any]
    seconds: float


class CallFailed(ServerError):
    """A call that failed at every attempt, although others may not: its text says why."""


class Client:
    """A connection to one server, used as an async context manager.

    Args:
        base_url: address of the server; None is OPENAI_BASE_URL, or OpenAI's own.
        connections: requests at a time, at most.
        timeout: seconds until an unanswered request counts as lost.
        key_env: the variable of the environment that holds the server's key.
    """

    def __init__(self, base_url: str | None, connections: int, timeout: float, key_env: str = KEY_ENV) -> None:
        self.base_url, self.connections, self.timeout, self.key_env = base_url, connections, timeout, key_env
        self.pace = Pace(connections)
        self.failed_in_a_row = 0

    async def __aenter__(self) -> Client:
        import httpx2
        import openai

        # They would tell of every request, on a terminal that shows progress.
        for library in ("httpx2", "openai"):
            logging.getLogger(library).setLevel(logging.WARNING)
        limits = httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        hooks = {"response": [refuse_page]}
        self._http = openai.DefaultAioHttpClient(limits=limits, timeout=self.timeout, event_hooks=hooks)
        self._openai = openai.AsyncOpenAI(
            # A server of one's own may want no key; the package wants one.
            api_key=api_key(self.key_env) or ("none" if server_name(self.base_url) else None),
            base_url=self.base_url,
            max_retries=0,
            timeout=self.timeout,
            http_client=self._http,
        )
        if server_name(self.base_url):  # which organization that is at OpenAI is none of another server's business
            self._openai.organization = self._openai.project = None
        headers = {**self._openai.default_headers, **self._openai.auth_headers}
        self._headers = httpx2.Headers({name: value for name, value in headers.items() if isinstance(value, str)})
        self._waits = {"timeout": httpx2.Timeout(self.timeout).as_dict()}
        self._urls: dict[str, Any] = {}
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._openai.close()

    async def chat(self, body: Mapping[str, Any]) -> Reply:
        """One chat completion, whole.

        Raises:
            CallFailed: it failed at every attempt.
            openai.APIStatusError: the server refused it for good (see `em.api.client.in_words`).
        """
        return await self._tried("POST", "/chat/completions", body, check_completion, ATTEMPTS)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path, such as `/models`. A server that is not there is told of after three attempts."""
        return (await self._tried("GET", path, None, check_object, attempts=3)).body

    @property
    def raw(self) -> Any:
        """The openai package's client itself, for files and batches."""
        return self._openai

    async def _send(self, verb: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """One request and its response, or the openai package's exception."""
        import httpx2
        import openai

        if path not in self._urls:
            self._urls[path] = httpx2.URL(f"{str(self._openai.base_url).rstrip('/')}{path}")
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        request = httpx2.Request(verb, self._urls[path], headers=self._headers, content=content, extensions=self._waits)
        try:
            response = await self._http.send(request)
        except httpx2.TimeoutException as error:
            raise openai.APITimeoutError(request=request) from error
        except openai.APIConnectionError:
            raise
        except Exception as error:  # whatever a transport says of a connection that broke
            raise openai.APIConnectionError(request=request) from error
        if response.status_code >= 400:
            raise status_error(response)
        return response

    async def _tried(
        self, verb: str, path: str, body: Mapping[str, Any] | None, check: Callable[[Any], None], attempts: int
    ) -> Reply:
        """One request with all its attempts."""
        began = time.monotonic()

        async def once() -> Any:
            response = await self._send(verb, path, body)
            found = json.loads(response.content)
            check(found)
            self.pace.accept(hints(response.headers), tokens_of(found))
            return found

        found = await self.repeated(str((body or {}).get("model", path)), once, attempts)
        return Reply(found, time.monotonic() - began)

    async def repeated(self, what: str, call: Callable[[], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
        """The retry policy, one place for all calls: what `call` returns, as soon as it does.

        Args:
            what: the model or path, for the sentence of the error.

        Raises:
            CallFailed: it failed at every attempt.
            openai.APIStatusError: the server refused it for good.
        """
        import openai

        attempt, limits, waited = 0, 0, 0.0
        while True:
            left = await self.pace.enter()
            try:
                result = await call()
                self.failed_in_a_row = 0
                return result
            except (openai.OpenAIError, ValueError) as error:
                error.add_note(self.key_env)  # for `in_words`
                headers = hints(error.response.headers) if isinstance(error, openai.APIStatusError) else {}
                limited = isinstance(error, openai.RateLimitError) and not out_of_credit(error)
                if limited:
                    limits += 1
                    self.pace.refuse(headers, left)
                else:
                    # What a server sends half broken is not mended by waiting: fewer attempts, at once.
                    attempt += 2 if isinstance(error, ValueError) or isinstance(error.__cause__, WebPage) else 1
                wait = wait_before_retry(error, attempt + limits, headers)
                if wait is None:
                    raise
                waited += wait
                if attempt >= attempts or (limited and waited > PATIENCE):
                    self.failed_in_a_row += 1
                    raise CallFailed(in_words(what, error)) from error
            finally:
                self.pace.leave()
            await asyncio.sleep(wait)


class WebPage(Exception):
    """A server answered with a page for people."""


async def refuse_page(response: Any) -> None:
    """A page that comes with 200, of a portal or of an address that is not the API's, is no answer."""
    import openai

    if response.status_code < 300 and response.headers.get("content-type", "").startswith("text/html"):
        raise openai.APIConnectionError(request=response.request) from WebPage()


def status_error(response: Any) -> Exception:
    """The openai package's exception for a refusal."""
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
        body = json.loads(response.content)
    except ValueError:
        body = None
    inner = body.get("error", body) if isinstance(body, dict) else None
    return kind(f"status {status}", response=response, body=inner if isinstance(inner, dict) else None)


def hints(headers: Any) -> dict[str, str]:
    """What a server says of its limits and of when to come back; looked up once, for headers are slow to search."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in headers.raw
        if name[:11].lower() in (b"x-ratelimit", b"retry-after")
    }


def wait_before_retry(error: Exception, attempt: int, headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before the same call is made again; None when that can't help.

    Repeated are lost connections, timeouts, 408, 409, 429 (not `insufficient_quota`), 5xx, and replies that are not
    what the protocol says. The wait is what the server asks for; else it doubles with each attempt, with jitter.
    """
    import openai

    match error:
        case openai.RateLimitError() if out_of_credit(error):
            return None
        case openai.APIStatusError() if error.status_code not in (408, 409, 429) and error.status_code < 500:
            return None
        case ValueError():
            return random.uniform(0, 0.2)
    asked = retry_after(headers)
    backoff = min(LONGEST, 0.25 * 2 ** max(0, attempt - 1))
    # Asked-for waits get a little on top too, lest all who were refused at once come back at once.
    return (asked if asked is not None else backoff * random.uniform(0.5, 1)) + random.uniform(0, 0.1)


def out_of_credit(error: Exception) -> bool:
    """Whether a 429 says that the account is empty: that does not heal by waiting."""
    return getattr(error, "code", None) == "insufficient_quota" or getattr(error, "type", None) == "insufficient_quota"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `retry-after` as seconds, as a duration or as a date."""
    try:
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    except ValueError:
        pass
    text = headers.get("retry-after", "")
    if (told := seconds(text)) is not None:
        return told
    try:
        then = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def check_object(found: Any) -> None:
    """Raise ValueError for JSON that is no object."""
    if not isinstance(found, dict):
        raise ValueError("no JSON object")


def check_completion(found: Any) -> None:
    """Raise ValueError for a reply that is no chat completion."""
    choices = found.get("choices") if isinstance(found, dict) else None
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(c, dict) and isinstance(c.get("message"), dict) for c in choices)
    ):
        raise ValueError("no chat completion")


def tokens_of(found: Any) -> int:
    """The tokens that a reply says it took."""
    usage = found.get("usage") if isinstance(found, dict) else None
    return int(usage.get("total_tokens") or 0) if isinstance(usage, dict) else 0


def in_words(model: str, error: BaseException) -> str:
    """What the server's refusal means for the user. The text of a refused key is never repeated: it holds the key."""
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
                f"prompt, temperature, top_p, seed, number of tokens or way of reading.{its_words(error)}"
            )
        case openai.RateLimitError() if out_of_credit(error):
            return f"The account has no credit left for {model}: top it up, then run the same command again."
        case openai.APIStatusError():
            return f"The server answered {error.status_code} for {model}: run the same command again later."
        # The transport tells a refused connection as one that took too long to make.
        case openai.APITimeoutError() if type(error.__cause__).__name__ != "ConnectTimeout":
            return f"The server did not answer in time for {model}: run the same command again later."
        case openai.APIConnectionError() if isinstance(error.__cause__, WebPage):
            return f"The server answers for {model} with a web page: check base_url (often with /v1) and the network."
        case openai.APIConnectionError():
            return "The server can't be reached: check the network and base_url, then run the same command again."
        case _:
            return f"The server's answer for {model} can't be used ({type(error).__name__})."


def its_words(error: Any) -> str:
    """What the server itself says in a refusal, to stand behind ours; shortened, without keys."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return f" It says: {' '.join(without_secrets(str(said)).split())[:200]}" if said else ""
