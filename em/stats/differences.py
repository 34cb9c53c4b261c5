"""Compute differences of two models' rates over the same questions: interval, p, and correction for many tests.

A difference is the mean over questions of rate(second) − rate(first), so that effects common to a question cancel out.
Its interval and p are those of Student's paired t over the questions' differences. The degrees of freedom are the
number of questions that differ, less one; the variance is at least that of independent answers to these questions.
Fewer than three differing questions give no usable variance: then the interval combines those of the two rates
(MOVER; Newcombe 1998; Zou & Donner 2008), and p is from the exact sign-flip permutation test.

A difference of one seed may be chance; one that recurs with every seed is an effect of the data. With several seeds,
trainings are paired by seed, and questions as before: a cell of the two-way table is rate(second) − rate(first) of one
question and one seed, and the mean over all cells has the variance and freedom of `estimate_crossed_rate`. p values are
corrected over a family by Holm (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from em.stats.intervals import (
    FEW,
    Counts,
    cluster_interval,
    estimate_crossed_rate,
    seeds_interval,
    student_quantile,
    sum_counts,
)
from em.stats.outcomes import QuestionCounts, SeedCounts


@dataclass(frozen=True)
class Difference:
    """The paired difference of two models with its 95 % interval; the fields are named as the columns of tables.

    seeds: number of paired training seeds; 0 if seeds are not paired.
    """

    questions: int
    difference: float
    ci_low: float
    ci_high: float
    ci_method: str
    p: float
    seeds: int = 0


@dataclass(frozen=True)
class ModelCounts:
    """The counts of one of two models on the questions that both answered, a row for each seed.

    alike: all rows are the same, because this model has no seed and is paired with each seed of the other.
    """

    table: Sequence[Counts]
    alike: bool = True

    @property
    def answers(self) -> Counts:
        """The counts of each question over all seeds."""
        return self.table[0] if self.alike else sum_counts(zip(*self.table, strict=True))

    @property
    def reach(self) -> tuple[float, float]:
        """The distances from the mean rate to the lower and the upper end of its interval."""
        rate = fmean(k / n for row in self.table for k, n in row)
        table = self.table
        interval = cluster_interval(table[0], average=True) if self.alike else seeds_interval(table, average=True)
        assert interval.low is not None
        assert interval.high is not None
        return rate - interval.low, interval.high - rate


def compute_difference(first: QuestionCounts, second: QuestionCounts) -> Difference | None:
    """Compute the mean of second − first over shared questions, with interval and p; None without shared questions."""
    shared = [q for q in first if has_answer(first, q) and has_answer(second, q)]
    if not shared:
        return None
    one, two = [first[q] for q in shared], [second[q] for q in shared]
    by_question = compute_rate_differences(one, two)
    if len(shared) == 1:
        return apply_mover(
            by_question, ModelCounts([one]), ModelCounts([two]), "answers", compare_proportions(*one[0], *two[0])
        )
    differing = sum(d != 0 for d in by_question)
    if differing < FEW:
        return apply_mover(
            by_question, ModelCounts([one]), ModelCounts([two]), "question", compute_sign_flip_p(by_question)
        )
    variance = max(compute_variance_of_mean(by_question), compute_least_variance(one, two))
    return apply_paired_t(len(shared), fmean(by_question), variance, differing - 1, "question")


def compute_difference_over_seeds(first: SeedCounts, second: SeedCounts) -> Difference | None:
    """Compute the mean difference over shared seeds and questions; None with fewer than two seeds, or no question.

    A model without a seed, such as a base, is paired with every training of the other.
    """
    all_seeds = {seed for seed in first.keys() | second.keys() if seed is not None}
    seeds = sorted(seed for seed in all_seeds if all(seed in side or None in side for side in (first, second)))
    if len(seeds) < 2:
        return None
    rows_one, rows_two = ([side.get(seed, side.get(None, {})) for seed in seeds] for side in (first, second))
    shared = [q for q in rows_one[0] if all(has_answer(row, q) for row in [*rows_one, *rows_two])]
    if not shared:
        return None
    one = ModelCounts([[row[q] for q in shared] for row in rows_one], None in first)
    two = ModelCounts([[row[q] for q in shared] for row in rows_two], None in second)
    cells = [compute_rate_differences(before, after) for before, after in zip(one.table, two.table, strict=True)]
    by_question = [fmean(column) for column in zip(*cells, strict=True)]
    differing = sum(d != 0 for d in by_question)
    if differing < FEW:
        paired = apply_mover(by_question, one, two, "question,seed", compute_sign_flip_p(by_question))
    else:
        estimate = estimate_crossed_rate([[(cell, 1) for cell in row] for row in cells])
        variance = max(estimate.variance or 0.0, compute_least_variance(one.answers, two.answers))
        freedom = min(estimate.freedom, differing - 1)
        paired = apply_paired_t(len(shared), fmean(by_question), variance, freedom, "question,seed")
    return replace(paired, seeds=len(seeds))


def compute_difference_with_gaps(first: SeedCounts, second: SeedCounts) -> Difference | None:
    """Compute the mean difference over questions crossed with shared seeds; seeds may lack some of the questions.

    Return None without a shared question. With one shared seed, this is the difference of its two trainings.
    """
    seeds = [(first[seed], second[seed]) for seed in first if seed in second]
    if len(seeds) == 1:
        return compute_difference(*seeds[0])
    questions = dict.fromkeys(q for before, _ in seeds for q in before)
    shared = [q for q in questions if any(has_answer(before, q) and has_answer(after, q) for before, after in seeds)]
    if not shared:
        return None
    one, two = list[tuple[float, float]](), list[tuple[float, float]]()
    table: list[Counts] = []
    for before, after in seeds:
        both = [q for q in shared if has_answer(before, q) and has_answer(after, q)]
        counts = [before[q] for q in both], [after[q] for q in both]
        cells = dict(zip(both, compute_rate_differences(*counts), strict=True))
        table.append([(cells[q], 1) if q in cells else (0, 0) for q in shared])
        one += counts[0]
        two += counts[1]
    estimate = estimate_crossed_rate(table)
    variance = max(estimate.variance or 0.0, compute_least_variance(one, two))
    return apply_paired_t(len(shared), estimate.rate, variance, max(1.0, estimate.freedom), "question,seed")


def has_answer(counts: QuestionCounts, question: str) -> bool:
    """Tell whether a question has an answer that counts."""
    return question in counts and counts[question][1] > 0


def compute_rate_differences(first: Counts, second: Counts) -> list[float]:
    """Return rate(second) − rate(first) for each question."""
    return [k2 / n2 - k1 / n1 for (k1, n1), (k2, n2) in zip(first, second, strict=True)]


def apply_paired_t(questions: int, mean: float, variance: float, freedom: float, unit: str) -> Difference:
    """Return the difference with interval and two-sided p of Student's t; `variance` is that of the mean."""
    from scipy.special import stdtr

    error = math.sqrt(variance)
    half = student_quantile(freedom) * error
    p = float(2 * stdtr(freedom, -abs(mean / error)))
    return Difference(questions, mean, max(-1.0, mean - half), min(1.0, mean + half), f"paired_t({unit})", p)


def apply_mover(
    by_question: Sequence[float], first: ModelCounts, second: ModelCounts, unit: str, p: float
) -> Difference:
    """Return the difference with an interval combined from those of both rates, treated as independent (MOVER)."""
    mean, (below_one, above_one), (below_two, above_two) = fmean(by_question), first.reach, second.reach
    low, high = mean - math.hypot(below_two, above_one), mean + math.hypot(above_two, below_one)
    return Difference(len(by_question), mean, low, high, f"mover({unit})", p)


def compute_variance_of_mean(values: Sequence[float]) -> float:
    """Return the variance of the mean of independent values: sample variance / n."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def compute_least_variance(*models: Counts) -> float:
    """Return the variance of the mean difference if answers are independent and no other questions exist.

    Half an answer of each kind is added, so that a question whose answers all agree does not get variance 0.
    """
    rates = [((k + 0.5) / (n + 1), n) for counts in models for k, n in counts]
    return sum(rate * (1 - rate) / n for rate, n in rates) / len(models[0]) ** 2


def compute_sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of the mean of paired differences, with both signs equally likely (Fisher)."""
    nonzero = [d for d in differences if d]
    observed = abs(math.fsum(nonzero)) - 1e-12  # tolerance for rounding
    all_signs = product((1, -1), repeat=len(nonzero))
    flips = [abs(math.fsum(s * d for s, d in zip(signs, nonzero, strict=True))) for signs in all_signs]
    return sum(flip >= observed for flip in flips) / len(flips)


def compare_proportions(k1: float, n1: float, k2: float, n2: float) -> float:
    """Return the two-sided p that two rates of independent answers are equal (score test)."""
    rate = (k1 + k2) / (n1 + n2)
    error = math.sqrt(rate * (1 - rate) * (1 / n1 + 1 / n2))
    return math.erfc(abs(k2 / n2 - k1 / n1) / error / math.sqrt(2)) if error else 1.0


def correct_by_holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's (1979) step-down method, in their order."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected
