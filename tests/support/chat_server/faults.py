"""What goes wrong, by a seed and the number of the arrival; and the token bucket of a rate limit."""

from __future__ import annotations

import email.utils
import math
import random
import time
from itertools import count

from .options import Options

KINDS = ("rate_limited", "server_errors", "dropped", "malformed", "hangs")


class Faults:
    """Decides for each arrival anew, so that a second attempt may succeed."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.turns = {kind: count() for kind in KINDS}
        self.total = sum(self.share(kind) for kind in KINDS)
        if self.total > 1:
            raise ValueError(f"The shares of faults add up to {self.total}.")

    def share(self, kind: str) -> float:
        """The share of arrivals that fail in this way."""
        shares: dict[str, float] = {
            "rate_limited": self.options.rate_limited,
            "server_errors": self.options.server_errors,
            "dropped": self.options.dropped,
            "malformed": self.options.malformed,
            "hangs": self.options.hangs,
        }
        return shares[kind]

    def draw(self) -> tuple[str, int]:
        """How this arrival fails and how many failed so before it; an empty word when it does not."""
        chance = self.random.random() if self.total else 1.0
        for kind in KINDS:
            chance -= self.share(kind)
            if chance < 0:
                return kind, next(self.turns[kind])
        return "", 0


def retry_after(seconds: float, turn: int) -> dict[str, str]:
    """The wait that a 429 asks for, in its four forms: seconds, a date, milliseconds, and not said."""
    match turn % 4:
        case 0:
            return {"retry-after": f"{seconds:g}"}
        case 1:
            return {"retry-after": email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)}
        case 2:
            return {"retry-after-ms": f"{seconds * 1000:.0f}"}
        case _:
            return {}


def seconds_asked(headers: dict[str, str]) -> float:
    """How long these headers ask to wait from now."""
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

    def take(self) -> bool:
        """Whether there was a token for this arrival."""
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def told(self, refused: bool) -> dict[str, str]:
        """The headers of an answer: the size of the bucket, what is left, and when it is full again."""
        if not (self.rate and self.headers):
            return {}
        headers = {
            "x-ratelimit-limit-requests": f"{self.size:.0f}",
            "x-ratelimit-remaining-requests": f"{math.floor(self.tokens)}",
            "x-ratelimit-reset-requests": duration((self.size - self.tokens) / self.rate),
        }
        if refused:
            headers["retry-after-ms"] = f"{math.ceil(1000 * (1 - self.tokens) / self.rate)}"
        return headers


def duration(seconds: float) -> str:
    """A time as the x-ratelimit headers write it: `6ms`, `1.25s`, `2m3s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:g}s"
