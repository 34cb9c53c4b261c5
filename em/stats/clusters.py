"""Rates over clusters of answers, and the variance that the clusters show.

Answers to one question resemble each other, and so do those of one trained model, so that a set's rate is much less
certain than as many independent answers would make it. The design effect (Kish 1965) says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Counts = Sequence[tuple[float, float]]
"""Successes k and trials n of each cluster; weighed ones need not be whole."""


@dataclass(frozen=True)
class Estimate:
    """A rate over clusters.

    variance: of the rate, None where one cluster can't tell.
    freedom: degrees of freedom of the variance.
    answers: how many there are.
    """

    rate: float
    variance: float | None
    freedom: float
    answers: float

    @property
    def design_effect(self) -> float | None:
        """Variance over that of as many independent answers; None where either is unknown or zero."""
        alone = self.rate * (1 - self.rate) / self.answers
        return None if self.variance is None or alone <= 0 else self.variance / alone


def pooled(counts: Counts) -> Estimate:
    """The rate Σk / Σn with its clustered variance: CR1, that is Σ(k − rate·n)² / (Σn)² · G/(G − 1) for G clusters.

    (Cochran 1977, ratio of cluster totals; Liang & Zeger 1986; Cameron, Gelbach & Miller 2008.)
    """
    k, n, clusters = sum(k for k, _ in counts), sum(n for _, n in counts), len(counts)
    rate = k / n
    if clusters < 2:
        return Estimate(rate, None, 0, n)
    spread = sum((k - rate * n) ** 2 for k, n in counts)
    return Estimate(rate, spread / n**2 * clusters / (clusters - 1), clusters - 1, n)


def averaged(counts: Counts) -> Estimate:
    """The mean of the clusters' own rates, each with the same weight, and the variance of that mean."""
    rates, n, clusters = [k / n for k, n in counts], sum(n for _, n in counts), len(counts)
    rate = math.fsum(rates) / clusters
    if clusters < 2:
        return Estimate(rate, None, 0, n)
    return Estimate(rate, sum((r - rate) ** 2 for r in rates) / (clusters - 1) / clusters, clusters - 1, n)


def crossed(table: Sequence[Counts], average: bool = False) -> Estimate:
    """The rate over questions crossed with seeds: a row of `table` for each seed, a column for each question.

    Variance: that over questions and that over seeds, less what both hold (mean squares of the two-way layout; Owen
    2007; Cameron, Gelbach & Miller 2011), and never less than either. Freedom is by Satterthwaite (1946).

    Args:
        average: the rate is the mean of the cells' own rates, and not pooled.
    """
    import numpy as np

    k, n = np.moveaxis(np.array(table, dtype=float), -1, 0)
    answers = float(n.sum())
    if average:
        k, n = np.divide(k, n, out=np.zeros_like(k), where=n > 0), (n > 0).astype(float)
    rate = k.sum() / n.sum()
    rest = k - rate * n
    by_seed, by_question = rest.mean(axis=1, keepdims=True), rest.mean(axis=0, keepdims=True)
    seeds, questions = rest.shape
    parts = (
        (seeds * (by_question**2).sum(), questions - 1),
        (questions * (by_seed**2).sum(), seeds - 1),
        (((rest - by_seed - by_question) ** 2).sum(), (seeds - 1) * (questions - 1)),
    )
    scale = seeds * questions / n.sum() ** 2
    over_questions, over_seeds, both = ((float(scale * squares / df) if df else 0.0, df) for squares, df in parts)
    most, freedom = max(over_questions, over_seeds)
    variance = over_questions[0] + over_seeds[0] - both[0]
    if variance > most:
        spread = sum(part**2 / df for part, df in (over_questions, over_seeds, both) if df)
        return Estimate(float(rate), variance, variance**2 / spread, answers)
    return Estimate(float(rate), most if freedom else None, freedom, answers)
