"""Rate limits: a maximum of concurrent requests, and a rate (requests per second) once a server shows a limit.

The number of concurrent requests doubles every round trip until the first refusal (slow start). Three rules set the
rate. Servers with `x-ratelimit-…` headers get requests at the rate at which their allowance refills. Otherwise, if
most of the last requests were refused (429), the allowance is used up: pause, then halve the rate. When the allowance
is used up the next time, the requests accepted since, divided by the time, are the server's limit. From then on
requests leave evenly, a little below the limit, and the rate grows slowly to notice a rise of the limit. If lowering
the rate does not reduce the refusals, they have another cause and are ignored for a while.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping

START = 16  # concurrent requests at first
PAUSE = 0.25  # seconds without a new request after the allowance is used up
SHORTEST = 0.5  # seconds between two such moments, at least, to measure the limit
LAST = 8  # if half of the last 8 replies are refusals, the allowance is used up
BELOW, ALONE = 0.985, 0.97  # share of the measured limit to use: after many refusals, after a single one
SEARCH = 0.8  # growth of the rate per second while the limit is unknown
CRUISE, QUICKER = 0.005, 0.01  # growth once the limit is known, and its increase per second without a refusal
OFTEN = 25  # at most so many accepted requests per refusal: the rate is clearly above the limit
TRIALS, PROBE = 5, 60  # after 5 lowerings, two windows of 60 replies show whether lowering helped
ACCIDENT = 0.05  # share of refusals that is too small to mean anything
IMMUNE = 30.0  # seconds in which refusals are ignored, if lowering the rate did not help
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class RateLimiter:
    """The rate limiter of one client: requests wait for their turn, and every reply adapts the rate.

    rate: requests per second, None without a limit. known: whether the limit is known. allowed: concurrent requests
    at most. flying: requests under way.
    """

    def __init__(self, connections: int) -> None:
        self.most = connections
        self.allowed = float(min(START, connections))
        self.rate: float | None = None
        self.known = False
        self.flying = 0
        self.accepted = 0
        self.refused = 0
        self._waiting: deque[asyncio.Future[float]] = deque()
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._grown = self._lowered = 0.0
        self._replies: deque[bool] = deque(maxlen=5 * LAST)
        self._empty_at = float("-inf")
        self._accepted_then = 0
        self._since_lowered = 0  # refusals since the last lowering
        self._first_refused = 0  # number of accepted requests at the first of these refusals
        self._began = 0.0
        self._lowerings = 0
        self._probe = [0, 0]  # refused and accepted in the current window of PROBE replies
        self._in_vain = 0  # windows in a row in which lowering did not help
        self._search = SEARCH
        self._times: deque[float] = deque(maxlen=1000)  # of the last accepted requests
        self._immune_until = 0.0
        self._tokens_per_call = 0.0

    async def enter(self) -> float:
        """Wait for this request's turn and return the time of the turn. A cancelled wait gives its turn back.

        The rate may be lowered between the turn and the sending; `refuse` needs the time of the turn.
        """
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._give_turns()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Note that a request has ended, with or without a reply."""
        self.flying -= 1
        self._give_turns()

    def accept(self, headers: Mapping[str, str], tokens: int = 0) -> None:
        """Adapt to an accepted request. `tokens`: of prompt and reply, for limits counted in tokens."""
        now = self._read_clock()
        self.accepted += 1
        self._began = self._began or now
        self._times.append(now)
        self._count_reply(True, now)
        if not self._lowerings:
            self.allowed = min(self.most, self.allowed + 1)
        if tokens:
            self._tokens_per_call += (tokens - self._tokens_per_call) * (0.1 if self._tokens_per_call else 1)
        if stated_rate := self._read_stated_rate(headers):
            self.rate, self.known, self._grown, self._lowered = stated_rate, True, now, now
        elif self.rate is not None:
            growth = CRUISE + QUICKER * (now - self._lowered) if self.known else self._search
            self.rate *= 1 + growth * max(0.0, now - self._grown)
            self._grown = now

    def refuse(self, headers: Mapping[str, str], turn_time: float) -> None:
        """Adapt to a refusal (429) of a request whose turn was at `turn_time` (see `enter`)."""
        now = self._read_clock()
        self.refused += 1
        if stated_rate := self._read_stated_rate(headers):
            self.rate, self.known, self._grown = stated_rate, True, now
            self._next = max(self._next, now + 1 / stated_rate)
            return
        if turn_time < self._empty_at or now < self._immune_until:
            return  # the request left before the rate was last lowered, or refusals are ignored
        self._count_reply(False, now)
        if now < self._immune_until:
            return
        last = list(self._replies)[-LAST:]
        mostly_refused = len(last) == LAST and last.count(False) >= LAST / 2
        since = now - self._empty_at
        self._since_lowered += 1
        if self._since_lowered == 1:
            self._first_refused = self.accepted
        accepted_between, steps = self.accepted - self._first_refused, self._since_lowered - 1
        if self.rate is not None and not mostly_refused and steps > 1 and accepted_between < OFTEN * steps:
            # Still above the limit, which is the accepted share of the rate.
            limit = BELOW * self.rate * accepted_between / (accepted_between + steps)
            self.rate, self.known = self._limit_lowering(limit), True
        elif SHORTEST <= since < float("inf"):
            # The allowance is used up: the requests accepted since the last such moment give the limit.
            # A low rate lets the allowance fill up, so that the last second alone may give a higher figure.
            limit = max((self.accepted - self._accepted_then) / since, self._count_last_second(now))
            # A single refusal may be an accident, so it lowers the rate only a little.
            limit = BELOW * limit if mostly_refused else ALONE * (limit + 1 / since)
            self.rate, self.known = self._limit_lowering(limit), True
        elif mostly_refused and self.rate is None:
            # Without an accepted reply so far the rate starts low, and grows fast.
            pace = self.accepted / max(0.1, now - self._began) if self._began else 0.0
            self.rate, self._search = max(float(START), pace / 2), SEARCH if pace / 2 < START else SEARCH / 5
        elif mostly_refused and self.rate is not None:
            self.rate = max(0.5, self.rate / 2)
        else:
            return
        if mostly_refused:
            self._next = max(self._next, now + PAUSE)
        self._reset_after_lowering(now)

    def _count_last_second(self, now: float) -> float:
        """Count the requests accepted in the last second."""
        return sum(1 for at in self._times if at > now - 1)

    def _reset_after_lowering(self, now: float) -> None:
        """Reset the counters after the rate was lowered; from now on the rate limits, not the number of requests."""
        self._lowerings += 1
        self._grown = self._lowered = self._empty_at = now
        self._accepted_then = self.accepted
        self._since_lowered = 0
        self.allowed = float(self.most)
        self._replies.clear()

    def _count_reply(self, accepted: bool, now: float) -> None:
        """Count a reply, and check whether lowering the rate helps: if not, ignore refusals for a while."""
        self._replies.append(accepted)
        if self._lowerings < TRIALS:
            return
        self._probe[accepted] += 1
        refused, accepted_count = self._probe
        if refused + accepted_count < PROBE:
            return
        self._probe = [0, 0]
        self._in_vain = self._in_vain + 1 if refused / PROBE > ACCIDENT else 0
        if self._in_vain == 2:
            self._immune_until, self._lowerings, self._in_vain = now + IMMUNE, 0, 0
            self.rate, self.known, self._empty_at = None, False, float("-inf")

    def _limit_lowering(self, limit: float) -> float:
        """Return the rate for a measured limit: at least half the current rate.

        The measurement may be too low, if few requests were ready because the others wait for their next attempt.
        """
        return max(0.5, limit, self.rate / 2 if self.rate is not None else 0.0)

    def _read_stated_rate(self, headers: Mapping[str, str]) -> float | None:
        """Read the requests per second that rate-limit headers allow; None unless the allowance is nearly used up."""
        rates = []
        for kind, per_call in (("requests", 1.0), ("tokens", self._tokens_per_call)):
            limit, left = headers.get(f"x-ratelimit-limit-{kind}"), headers.get(f"x-ratelimit-remaining-{kind}")
            reset = parse_duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
            try:
                used, ahead = float(limit or "") - float(left or ""), float(left or "")
            except ValueError:
                continue
            if per_call and reset and used > 0 and ahead < 2 * per_call * max(1, self.flying):
                # The allowance refills evenly: the used part is back at the reset.
                rates.append(BELOW * used / reset / per_call)
        return max(0.1, min(rates)) if rates else None

    def _give_turns(self) -> None:
        """Give turns to the requests that may leave now, and set a timer for the next turn."""
        now = self._read_clock()
        while self._waiting and self.flying < int(self.allowed) and now >= self._next - 1e-4:
            turn = self._waiting.popleft()
            if turn.done():
                continue
            self.flying += 1
            turn.set_result(now)
            if self.rate is not None:
                # After a late wake-up at most two turns are made up for, to avoid bursts.
                self._next = max(self._next, now - 2 / self.rate) + 1 / self.rate
        if self._waiting and self.flying < int(self.allowed) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._next, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        self._give_turns()

    @staticmethod
    def _read_clock() -> float:
        return asyncio.get_running_loop().time()


def parse_duration(text: str) -> float | None:
    """Read a duration of a rate-limit header (`1s`, `6m0s`, `120ms`, `0.5`) in seconds; None for other texts."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)
