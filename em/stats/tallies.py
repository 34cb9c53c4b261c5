"""Answers of a group, counted by question and class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from em.stats.outcomes import Outcome

Tally = Mapping[str, Counter[str]]
"""How many answers of each class there are, by question."""


def tally(outcomes: Iterable[Outcome], counted: Iterable[Outcome]) -> Tally:
    """Count the classes of the answers in `counted`, for every question in `outcomes`."""
    kinds: dict[str, Counter[str]] = {question: Counter() for question in dict.fromkeys(o.question for o in outcomes)}
    for outcome in counted:
        kinds[outcome.question][outcome.kind] += 1
    return kinds


def counts_of(found: Tally, metric: str) -> dict[str, tuple[int, int]]:
    """How many answers of each question are of a class, and how many there are."""
    return {question: (kinds[metric], kinds.total()) for question, kinds in found.items()}
