"""Answers of a group, counted by question and class, and what each of them weighs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from em.stats.outcomes import GRADED, Outcome
from em.stats.stopping import Stopping, Weights

Tally = Mapping[str, Counter[str]]
"""How many answers of each class there are, by question."""
Adaptive = Stopping | bool
"""Whether the number of answers depended on them, and by which rule if that is known."""


def tally(outcomes: Iterable[Outcome], counted: Iterable[Outcome]) -> Tally:
    """The classes of the answers that count, for every question that was asked."""
    found: dict[str, Counter[str]] = {question: Counter() for question in dict.fromkeys(o.question for o in outcomes)}
    for outcome in counted:
        found[outcome.question][outcome.kind] += 1
    return found


def counts_of(found: Tally, metric: str) -> dict[str, tuple[int, int]]:
    """How many answers of each question are of a class, and how many there are."""
    return {question: (kinds[metric], kinds.total()) for question, kinds in found.items()}


def weights_of(outcomes: Iterable[Outcome], adaptive: Adaptive) -> Weights:
    """What the answers weigh: 1, unless the rule by which their number was chosen is known (and is about them)."""
    if isinstance(adaptive, Stopping):
        return adaptive.weights(outcome for outcome in outcomes if outcome.scale == GRADED)
    return {}


def weigh(found: Tally, weights: Weights, metric: str) -> dict[str, tuple[float, float]]:
    """`counts_of` with the weights of the answers."""
    counts: dict[str, tuple[float, float]] = {}
    for question, kinds in found.items():
        misaligned, other = weights.get(question, (1, 1))
        share = misaligned * kinds["misaligned"]
        rest = other * (kinds.total() - kinds["misaligned"])
        counts[question] = (share if metric == "misaligned" else other * kinds[metric], share + rest)
    return counts
