"""Faults drawn by a seed and the number of the request, and the token bucket of a rate limit."""

from __future__ import annotations

import email.utils
import math
import random
import time
from itertools import count

from .options import Options

KINDS = ("rate_limited", "server_errors", "dropped", "malformed", "hangs")


class Faults:
    """The faults of a server, drawn for each request separately, so that a retry may succeed."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.turns = {kind: count() for kind in KINDS}
        self.total = sum(self.find_share(kind) for kind in KINDS)
        if self.total > 1:
            raise ValueError(f"The shares of faults add up to {self.total}.")

    def find_share(self, kind: str) -> float:
        """Return the share of requests that fail in this way."""
        shares: dict[str, float] = {
            "rate_limited": self.options.rate_limited,
            "server_errors": self.options.server_errors,
            "dropped": self.options.dropped,
            "malformed": self.options.malformed,
            "hangs": self.options.hangs,
        }
        return shares[kind]

    def draw_fault(self) -> tuple[str, int]:
        """Draw the fault of this request (empty for none), with the number of earlier requests with this fault."""
        chance = self.random.random() if self.total else 1.0
        for kind in KINDS:
            chance -= self.find_share(kind)
            if chance < 0:
                return kind, next(self.turns[kind])
        return "", 0


def make_retry_headers(seconds: float, turn: int) -> dict[str, str]:
    """Return the headers of a 429 that ask to wait, in four forms by turn: seconds, a date, milliseconds, no header."""
    match turn % 4:
        case 0:
            return {"retry-after": f"{seconds:g}"}
        case 1:
            return {"retry-after": email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)}
        case 2:
            return {"retry-after-ms": f"{seconds * 1000:.0f}"}
        case _:
            return {}


def read_wait(headers: dict[str, str]) -> float:
    """Return the seconds from now that these headers ask to wait."""
    if "retry-after-ms" in headers:
        return float(headers["retry-after-ms"]) / 1000
    value = headers.get("retry-after", "0")
    if value[:1].isdigit():
        return float(value)
    return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())


class Bucket:
    """A token bucket: `rate` tokens a second, `size` at most."""

    def __init__(self, options: Options) -> None:
        self.rate, self.headers = options.rate, options.limit_headers
        self.size = options.burst or max(1.0, options.rate)
        self.tokens, self.at = float(self.size), time.monotonic()

    def take_token(self) -> bool:
        """Take a token for this request, and tell whether there was a token."""
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def make_headers(self, refused: bool) -> dict[str, str]:
        """Return the headers of a reply: the size of the bucket, the tokens left, and the time until it is full."""
        if not (self.rate and self.headers):
            return {}
        headers = {
            "x-ratelimit-limit-requests": f"{self.size:.0f}",
            "x-ratelimit-remaining-requests": f"{math.floor(self.tokens)}",
            "x-ratelimit-reset-requests": format_duration((self.size - self.tokens) / self.rate),
        }
        if refused:
            headers["retry-after-ms"] = f"{math.ceil(1000 * (1 - self.tokens) / self.rate)}"
        return headers


def format_duration(seconds: float) -> str:
    """Format a time as the x-ratelimit headers do: `6ms`, `1.25s`, `2m3s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:g}s"
