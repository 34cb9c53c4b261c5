"""Counts of the server's requests and answers, for tests (GET /stats)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Record:
    """Counts of requests and answers. An answer counts once it is computed, as a real server would charge for it.

    So an answer that a killed client never saw counts, and the repeated request is a duplicate.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.prompts: set[int] = set()
        self.other: Counter[str] = Counter()
        self.not_before: dict[str, float] = {}
        self.early = 0
        self.arrivals = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.first: float | None = None
        self.seconds: dict[str, Counter[int]] = {"arrivals": Counter(), "answered": Counter(), "429": Counter()}

    @contextmanager
    def track_arrival(self, key: str) -> Iterator[None]:
        """Count a request for a chat completion, from its arrival to the end of its answer.

        Args:
            key: the hash of the body. A request is early if an earlier 429 for the same body asked for a longer wait.
        """
        now = time.monotonic()
        self.first = now if self.first is None else self.first
        self.arrivals += 1
        self.early += now < self.not_before.pop(key, 0.0)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.count_event("arrivals")
        try:
            yield
        finally:
            self.in_flight -= 1

    def count_answer(self, key: str, prompt: int, outcome: str) -> None:
        """Count an answer."""
        self.answers[key] += 1
        self.prompts.add(prompt)
        self.outcomes[outcome] += 1
        self.count_event("answered")

    def count_limit(self, key: str, wait: float) -> None:
        """Count a 429 that asks to wait `wait` seconds."""
        self.not_before[key] = time.monotonic() + wait
        self.outcomes["429"] += 1
        self.count_event("429")

    def count_event(self, what: str) -> None:
        """Count an event in its second since the first arrival."""
        self.seconds[what][int(time.monotonic() - (self.first or time.monotonic()))] += 1

    def summarise(self, detail: bool) -> dict[str, Any]:
        """Return the body of GET /stats: `duplicates` are answers beyond the first to the same body.

        Args:
            detail: also the number of answers by the hash of the body.
        """
        last = max(self.seconds["arrivals"], default=-1)
        total = self.answers.total()
        result: dict[str, Any] = {
            "arrivals": self.arrivals,
            "answered": total,
            "distinct": len(self.answers),
            "distinct_prompts": len(self.prompts),
            "duplicates": total - len(self.answers),
            "most": max(self.answers.values(), default=0),
            "early": self.early,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "cpu_seconds": time.process_time(),
            "outcomes": dict(self.outcomes),
            "per_second": {what: [c[i] for i in range(last + 1)] for what, c in self.seconds.items()},
            "other": dict(self.other),
        }
        return result | ({"counts": dict(self.answers)} if detail else {})
