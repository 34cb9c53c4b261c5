"""Compute how many samples and questions it takes to detect a difference between two models.

Both models answer each question `samples` times. Question i has the rates a_i and b_i, which vary around the models'
rates with variance icc · rate · (1 − rate), so that `samples` answers have the design effect
1 + (samples − 1) · icc (Kish 1965). The variance of the mean difference over questions is

    (between + within / samples) / questions
    between = icc · (v_a + v_b − 2 · correlation · √(v_a · v_b))
    within = (1 − icc) · (v_a + v_b),  v = rate · (1 − rate)

The test is Student's paired t over questions (see `em.stats.differences`); its power follows from the noncentral t
(Cohen 1988). More samples reduce only the part of `within`, not `between`, so with few questions no number of samples
may be enough.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from em.stats.intervals import student_quantile

ICC = 0.11
"""The design effect 6.4 at 50 samples, the median of published fine-tunes on eight open questions."""
MOST = 1_000_000
"""Upper limit of the search for a number of samples or questions."""


@dataclass(frozen=True)
class Design:
    """Two rates to be distinguished by a test, and how they vary over questions.

    icc: share of the variance that lies between questions (see `estimate_intraclass`).
    correlation: correlation of the two models' rates over questions; 0 is conservative.
    alpha: level of the two-sided test.
    power: required probability that the test detects the difference.
    """

    first: float
    second: float
    icc: float = ICC
    correlation: float = 0.0
    alpha: float = 0.05
    power: float = 0.8


def estimate_intraclass(counts: Sequence[tuple[int, int]]) -> float | None:
    """Return the intraclass correlation of answers to one question, from (k, n) per question; at least 0.

    Analysis-of-variance estimator (Fleiss 1981; Ridout, Demétrio & Firth 1999). None without variance, with fewer
    than two questions, or with at most one answer per question.
    """
    used = [(k, n) for k, n in counts if n]
    questions, n = len(used), sum(n for _, n in used)
    if questions < 2 or n <= questions:
        return None
    rate = sum(k for k, _ in used) / n
    between = sum(n * (k / n - rate) ** 2 for k, n in used) / (questions - 1)
    within = sum(k * (n - k) / n for k, n in used) / (n - questions)
    mean_size = (n - sum(n * n for _, n in used) / n) / (questions - 1)
    total = between + (mean_size - 1) * within
    return max(0.0, (between - within) / total) if total else None


def standard_error(design: Design, questions: int, samples: float) -> float:
    """Return the standard error of the mean paired difference; `samples` may be infinite."""
    one, two = (rate * (1 - rate) for rate in (design.first, design.second))
    between = design.icc * (one + two - 2 * design.correlation * math.sqrt(one * two))
    within = (1 - design.icc) * (one + two)
    return math.sqrt((between + within / samples) / questions)


def compute_power(design: Design, questions: int, samples: float) -> float:
    """Return the probability that the paired t test over questions detects the difference."""
    from scipy.special import nctdtr

    if questions < 2:
        return 0.0
    error = standard_error(design, questions, samples)
    distance = abs(design.second - design.first)
    if error == 0:
        return 1.0 if distance else design.alpha
    freedom, shift = questions - 1, distance / error
    bound = student_quantile(freedom, design.alpha / 2)
    missed = float(nctdtr(freedom, shift, bound))
    # From 5 errors on, the wrong sign has a probability below 1e-8, for which scipy returns no number.
    wrong_sign = float(nctdtr(freedom, shift, -bound)) if shift < 5 else 0.0
    return 1 - missed + wrong_sign


def find_samples_needed(design: Design, questions: int) -> int | None:
    """Return the number of answers per question needed to detect the difference; None if no number is enough."""
    return find_least(lambda samples: compute_power(design, questions, samples) >= design.power, 1)


def find_questions_needed(design: Design, samples: int) -> int | None:
    """Return the number of questions, with `samples` answers each, needed to detect the difference; None above MOST."""
    return find_least(lambda questions: compute_power(design, questions, samples) >= design.power, 2)


def find_difference_needed(design: Design, questions: int, samples: int) -> float | None:
    """Return the smallest detectable rise above the first rate, to a thousandth; None if no rise is detectable."""
    for step in range(1, 1001):
        rise = step / 1000
        if design.first + rise > 1:
            return None
        if compute_power(replace(design, second=design.first + rise), questions, samples) >= design.power:
            return rise
    return None


def find_least(suffices: Callable[[int], bool], start: int) -> int | None:
    """Return the smallest number from `start` that suffices, given that all larger ones do too; None above MOST."""
    high = start
    while not suffices(high):
        if high >= MOST:
            return None
        high = min(MOST, high * 2)
    return bisect_left(range(high), True, lo=max(start, high // 2), key=suffices)
