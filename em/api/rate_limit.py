"""How fast a server is asked: so many requests at a time, and so many a second once it says that it has a limit.

The number of requests at a time doubles every round trip until a limit is met (slow start). A limit is learnt in three
ways. Servers that tell of theirs (`x-ratelimit-…` headers) are asked at the rate at which their allowance refills.
Where most of the last requests were refused (429), the allowance is used up: a pause, half the pace, and when it is
used up the next time, what was accepted since, divided by the time, is the server's limit. From then on requests leave
evenly, a little below the limit, and the pace grows slowly to notice when the limit rises. Refusals that do not get
fewer when the pace falls have another cause, and no longer slow it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping

START = 16  # requests at a time to begin with
PAUSE = 0.25  # seconds without a new request once the allowance is used up
SHORTEST = 0.5  # seconds between two moments at which it was used up that tell the limit
LAST = 8  # replies among which a half of refusals means that the allowance is used up
BELOW, ALONE = 0.985, 0.97  # of the limit that was found, by many refusals or by one
SEARCH = 0.8  # growth of the pace per second while the limit is not known
CRUISE, QUICKER = 0.005, 0.01  # the same after it is, and how much faster with each second without a refusal
OFTEN = 25  # accepted for each refused, or fewer: the pace is clearly above the limit
TRIALS, PROBE = 5, 60  # after so many lowerings, twice so many replies show whether they helped
ACCIDENT = 0.05  # share of refusals that does not tell of anything
IMMUNE = 30.0  # seconds for which refusals without effect are ignored
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Pace:
    """Lets requests leave; told of each reply, it adapts. One per server and event loop."""

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
        self._since_lowered = 0  # refusals
        self._first_refused = 0  # how many had been accepted at the first of them
        self._began = 0.0
        self._lowerings = 0
        self._probe = [0, 0]  # refused and accepted since the pace was lowered so often
        self._in_vain = 0
        self._search = SEARCH
        self._times: deque[float] = deque(maxlen=1000)  # of what was accepted last
        self._immune_until = 0.0
        self._tokens_per_call = 0.0

    async def enter(self) -> float:
        """Wait for this request's turn; when it was given, which may be before the pace was lowered though it is sent
        after. A cancelled wait gives its turn back."""
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._pump()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """A request is over, however it ended."""
        self.flying -= 1
        self._pump()

    def accept(self, headers: Mapping[str, str], tokens: int = 0) -> None:
        """The server answered. `tokens`: of prompt and reply, for limits that are counted in tokens."""
        now = self._now()
        self.accepted += 1
        self._began = self._began or now
        self._times.append(now)
        self._reply(True, now)
        if not self._lowerings:
            self.allowed = min(self.most, self.allowed + 1)
        if tokens:
            self._tokens_per_call += (tokens - self._tokens_per_call) * (0.1 if self._tokens_per_call else 1)
        if told := self._told(headers):
            self.rate, self.known, self._grown, self._lowered = told, True, now, now
        elif self.rate is not None:
            growth = CRUISE + QUICKER * (now - self._lowered) if self.known else self._search
            self.rate *= 1 + growth * max(0.0, now - self._grown)
            self._grown = now

    def refuse(self, headers: Mapping[str, str], left: float) -> None:
        """The server said 429 to a request that left at this time (`enter`)."""
        now = self._now()
        self.refused += 1
        if told := self._told(headers):
            self.rate, self.known, self._grown = told, True, now
            self._next = max(self._next, now + 1 / told)
            return
        if left < self._empty_at or now < self._immune_until:
            return  # it was under way when the pace was lowered last
        self._reply(False, now)
        if now < self._immune_until:
            return
        last = list(self._replies)[-LAST:]
        most = len(last) == LAST and last.count(False) >= LAST / 2
        since = now - self._empty_at
        self._since_lowered += 1
        if self._since_lowered == 1:
            self._first_refused = self.accepted
        between, steps = self.accepted - self._first_refused, self._since_lowered - 1
        if self.rate is not None and not most and steps > 1 and between < OFTEN * steps:
            # Still above the limit, which is the share of the pace that is accepted.
            self.rate, self.known = self._lowered_to(BELOW * self.rate * between / (between + steps)), True
        elif SHORTEST <= since < float("inf"):
            # Used up at this moment: what was accepted since that was so last is the limit.
            # Over a time in which the pace was low the allowance had filled up, so that the last second may say more.
            found = max((self.accepted - self._accepted_then) / since, self._last_second(now))
            # One refusal may be an accident: then the pace that was had is kept, nearly.
            found = BELOW * found if most else ALONE * (found + 1 / since)
            self.rate, self.known = self._lowered_to(found), True
        elif most and self.rate is None:
            # At first no reply may have come yet: then it begins slowly, and quickens soon.
            pace = self.accepted / max(0.1, now - self._began) if self._began else 0.0
            self.rate, self._search = max(float(START), pace / 2), SEARCH if pace / 2 < START else SEARCH / 5
        elif most and self.rate is not None:
            self.rate = max(0.5, self.rate / 2)
        else:
            return
        if most:
            self._next = max(self._next, now + PAUSE)
        self._lower(now)

    def _last_second(self, now: float) -> float:
        """How many were accepted in the last second."""
        return sum(1 for at in self._times if at > now - 1)

    def _lower(self, now: float) -> None:
        """The pace was lowered: from now on it is what limits, no longer the number of requests at a time."""
        self._lowerings += 1
        self._grown = self._lowered = self._empty_at = now
        self._accepted_then = self.accepted
        self._since_lowered = 0
        self.allowed = float(self.most)
        self._replies.clear()

    def _reply(self, accepted: bool, now: float) -> None:
        """Count a reply, and see whether lowering the pace helps: if not, refusals are ignored for a while."""
        self._replies.append(accepted)
        if self._lowerings < TRIALS:
            return
        self._probe[accepted] += 1
        refused, fine = self._probe
        if refused + fine < PROBE:
            return
        self._probe = [0, 0]
        self._in_vain = self._in_vain + 1 if refused / PROBE > ACCIDENT else 0
        if self._in_vain == 2:
            self._immune_until, self._lowerings, self._in_vain = now + IMMUNE, 0, 0
            self.rate, self.known, self._empty_at = None, False, float("-inf")

    def _lowered_to(self, found: float) -> float:
        """The pace for a limit that was found. Fewer may have been accepted because fewer were ready to be asked (they
        wait for their next attempt), so one step at most halves the pace."""
        return max(0.5, found, self.rate / 2 if self.rate is not None else 0.0)

    def _told(self, headers: Mapping[str, str]) -> float | None:
        """The requests a second that rate-limit headers allow, where the allowance is nearly used up."""
        rates = []
        for kind, per_call in (("requests", 1.0), ("tokens", self._tokens_per_call)):
            limit, left = headers.get(f"x-ratelimit-limit-{kind}"), headers.get(f"x-ratelimit-remaining-{kind}")
            reset = seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
            try:
                used, ahead = float(limit or "") - float(left or ""), float(left or "")
            except ValueError:
                continue
            if per_call and reset and used > 0 and ahead < 2 * per_call * max(1, self.flying):
                # The allowance refills evenly: what was used comes back until the reset.
                rates.append(BELOW * used / reset / per_call)
        return max(0.1, min(rates)) if rates else None

    def _pump(self) -> None:
        """Let go whoever may leave now, and come back when the next may."""
        now = self._now()
        while self._waiting and self.flying < int(self.allowed) and now >= self._next - 1e-4:
            turn = self._waiting.popleft()
            if turn.done():
                continue
            self.flying += 1
            turn.set_result(now)
            if self.rate is not None:
                # At most two turns are made up for after a late wake-up: no bursts.
                self._next = max(self._next, now - 2 / self.rate) + 1 / self.rate
        if self._waiting and self.flying < int(self.allowed) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._next, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._pump()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def seconds(text: str) -> float | None:
    """A duration as rate-limit headers write it (`1s`, `6m0s`, `120ms`, `0.5`), or None."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)
