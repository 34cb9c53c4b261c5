"""The paired difference of two models over the questions that both answered, and Holm's correction.

The difference is the mean over questions of rate(second) − rate(first): what is peculiar to a question falls out of
it. Its interval and p are those of Student's paired t over the questions' differences, with the freedom of the
questions that differ, less one, and with the variance never below that of independent answers to these very questions.
Where fewer than three questions differ, they can't tell how others might, and the interval is put together from those
of the two rates (MOVER; Newcombe 1998; Zou & Donner 2008), with p from the exact sign-flip permutation test. Over
trainings with several seeds the variance is that of the two-way layout of questions and seeds (`em.stats.clusters`).
p values are corrected over a family by Holm (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from em.stats.clusters import averaged, crossed
from em.stats.intervals import FEW, Interval, cluster_interval, student

Counts = Mapping[str, tuple[float, float]]
"""Successes and answers by question."""


@dataclass(frozen=True)
class Difference:
    """The paired difference of two models over `questions` questions."""

    questions: int
    difference: float
    interval: Interval
    p: float


def difference(first: Counts, second: Counts) -> Difference | None:
    """The mean over the shared questions of second − first, with interval and p; None without a shared question."""
    shared = [q for q in first if first[q][1] and second.get(q, (0, 0))[1]]
    if not shared:
        return None
    one, two = [first[q] for q in shared], [second[q] for q in shared]
    by_question = [k2 / n2 - k1 / n1 for (k1, n1), (k2, n2) in zip(one, two, strict=True)]
    mean = math.fsum(by_question) / len(shared)
    if len(shared) == 1:
        return Difference(1, mean, mover(mean, one, two), two_proportions(*one[0], *two[0]))
    telling = sum(d != 0 for d in by_question)
    if telling < FEW:
        return Difference(len(shared), mean, mover(mean, one, two), sign_flips(by_question))
    freedom = telling - 1
    error = math.sqrt(max(variance_of_mean(by_question), least_variance(one, two)))
    half = student(freedom) * error
    interval = Interval(max(-1.0, mean - half), min(1.0, mean + half), "paired_t(question)")
    return Difference(len(shared), mean, interval, two_sided(mean / error, freedom))


def seeds_difference(seeds: Sequence[tuple[Counts, Counts]]) -> Difference | None:
    """The mean of second − first over questions crossed with the seeds that both have; None without a shared question.

    Args:
        seeds: the counts of first and second, by seed.
    """
    questions = dict.fromkeys(question for first, _ in seeds for question in first)
    pairs = [[(first.get(q, (0, 0)), second.get(q, (0, 0))) for q in questions] for first, second in seeds]
    table = [[(k2 / n2 - k1 / n1, 1) if n1 and n2 else (0, 0) for (k1, n1), (k2, n2) in line] for line in pairs]
    shared = [pair for line in pairs for pair in line if pair[0][1] and pair[1][1]]
    if not shared:
        return None
    one, two = ([pair[i] for pair in shared] for i in (0, 1))
    asked = [question for number, question in enumerate(questions) if any(line[number][1] for line in table)]
    estimate = crossed([[cell for cell, q in zip(line, questions, strict=True) if q in asked] for line in table])
    error = math.sqrt(max(estimate.variance or 0.0, least_variance(one, two)))
    mean, freedom = estimate.rate, max(1.0, estimate.freedom)
    half = student(freedom) * error
    interval = Interval(max(-1.0, mean - half), min(1.0, mean + half), "paired_t(question,seed)")
    return Difference(len(asked), mean, interval, two_sided(mean / error, freedom))


def variance_of_mean(values: Sequence[float]) -> float:
    """Sample variance over n: of the mean of independent values."""
    mean = math.fsum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def least_variance(*models: Sequence[tuple[float, float]]) -> float:
    """Variance of the mean difference were these the only questions: that of independent answers to each.

    Half an answer of each kind is added, or a question whose answers all agree would be certain.
    """
    rates = [((k + 0.5) / (n + 1), n) for counts in models for k, n in counts]
    return sum(rate * (1 - rate) / n for rate, n in rates) / len(models[0]) ** 2


def two_sided(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) of Student's t."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


def mover(mean: float, first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]) -> Interval:
    """Interval of second − first from the intervals of both rates, as if these were independent."""
    below, above = zip(*(reach(counts) for counts in (first, second)), strict=True)
    method = "mover(question)" if len(first) > 1 else "mover(answers)"
    return Interval(mean - math.hypot(below[1], above[0]), mean + math.hypot(above[1], below[0]), method)


def reach(counts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """How far the interval of a rate goes below and above it."""
    rate, interval = averaged(counts).rate, cluster_interval(counts, average=True)
    assert interval.low is not None
    assert interval.high is not None
    return rate - interval.low, interval.high - rate


def sign_flips(differences: Sequence[float]) -> float:
    """Exact two-sided p of the mean of paired differences, each of whose signs is as likely as the other (Fisher)."""
    moved = [d for d in differences if d]
    seen = abs(math.fsum(moved)) - 1e-12
    flips = [
        abs(math.fsum(s * d for s, d in zip(signs, moved, strict=True)))
        for signs in product((1, -1), repeat=len(moved))
    ]
    return sum(flip >= seen for flip in flips) / len(flips)


def two_proportions(k1: float, n1: float, k2: float, n2: float) -> float:
    """Two-sided p that two rates are equal, from independent answers (score test)."""
    rate = (k1 + k2) / (n1 + n2)
    error = math.sqrt(rate * (1 - rate) * (1 / n1 + 1 / n2))
    return math.erfc(abs(k2 / n2 - k1 / n1) / error / math.sqrt(2)) if error else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p values that hold for all of them together: Holm's (1979) step-down correction, in their order."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected
