"""Compute 95 % intervals of a rate over independent answers, and of a rate over clusters of answers.

The interval of a set is Wilson's, with the effective sample size (n divided by the design effect) and with Student's
quantile instead of the normal one, as in surveys (Korn & Graubard 1998; Dean & Pagano 2015; Franco et al. 2019).
Student's degrees of freedom are the number of clusters with the behaviour, or without it if that number is smaller,
less one (as for a rare domain of a survey; Korn & Graubard 1999, ch. 5). `benchmarks/coverage.py` measures the coverage
and compares it with the cluster bootstrap and scipy's clustered standard error.

Answers to one question resemble each other, and so do those of one trained model. A set's rate is therefore much less
certain than a rate of as many independent answers. The design effect (Kish 1965) is the ratio of the variances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

Z = 1.959963984540054
FEW = 3
Counts = Sequence[tuple[float, float]]
"""Successes k and trials n of each cluster; weighted counts need not be integers."""


@dataclass(frozen=True)
class Estimate:
    """A rate over clusters.

    variance: variance of the rate; None with a single cluster.
    freedom: degrees of freedom of the variance.
    answers: number of answers.
    """

    rate: float
    variance: float | None
    freedom: float
    answers: float

    @property
    def design_effect(self) -> float | None:
        """The variance divided by that of as many independent answers; None if either is unknown or zero."""
        independent = self.rate * (1 - self.rate) / self.answers
        return None if self.variance is None or independent <= 0 else self.variance / independent


@dataclass(frozen=True)
class Interval:
    """Bounds as fractions (None without answers), and the method that computed them."""

    low: float | None
    high: float | None
    method: str


def wilson_interval(k: float, n: float, z: float = Z, method: str = "wilson") -> Interval:
    """Return Wilson's (1927) score interval of k successes in n trials; both may be fractional."""
    if n == 0:
        return Interval(None, None, method)
    rate, shrink = k / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(max(0.0, rate * (1 - rate)) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    return Interval(low, 1.0 if k == n else min(1.0, centre + half), method)


@cache
def student_quantile(freedom: float, tail: float = 0.025) -> float:
    """Return the quantile of Student's t with probability `tail` above it."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - tail))


def cluster_interval(counts: Counts, average: bool = False) -> Interval:
    """Return the interval of a rate over questions: of the pooled rate Σk / Σn or, with `average`, of the mean rate.

    See `compute_cluster_wilson`; questions without an answer are ignored.
    """
    used = drop_empty_clusters(counts)
    method = f"clustered_wilson({'question means' if average else 'question'})"
    if not used:
        return Interval(None, None, method)
    estimate = estimate_mean_rate(used) if average else estimate_pooled_rate(used)
    return compute_cluster_wilson(used, estimate, method)


def seeds_interval(table: Sequence[Counts], average: bool = False) -> Interval:
    """Return the interval of `estimate_crossed_rate`, over questions × seeds, by the rules of `cluster_interval`."""
    method = f"clustered_wilson({'question means' if average else 'question'},seed)"
    questions, seeds = (drop_empty_clusters(sum_counts(lines)) for lines in (zip(*table, strict=True), table))
    if not questions:
        return Interval(None, None, method)
    used, unit = (questions, "question") if len(questions) > 1 else (seeds, "seed")
    return compute_cluster_wilson(used, estimate_crossed_rate(table, average), method, unit)


def compute_cluster_wilson(used: Counts, estimate: Estimate, method: str, unit: str = "question") -> Interval:
    """Return Wilson's interval with the effective sample size, from the variance between clusters.

    If fewer than FEW clusters show the behaviour (or fewer than FEW lack it), their variance is unusable, and the
    interval is Wilson's with one trial per cluster: as wide as if all answers of a cluster were the same.
    A single cluster has the interval of its answers. Clusters may agree by chance, so a design effect below 1 counts
    as 1.
    """
    k, n = sum(k for k, _ in used), sum(n for _, n in used)
    if len(used) == 1 and 0 < k < n:
        return wilson_interval(k, n)
    informative = min(sum(k > 0 for k, _ in used), sum(k < n for k, n in used))
    if informative < FEW:
        return wilson_interval(estimate.rate * len(used), len(used), method=f"wilson(one trial per {unit})")
    size = n / max(1.0, estimate.design_effect or 1.0)
    return wilson_interval(estimate.rate * size, size, student_quantile(min(estimate.freedom, informative - 1)), method)


def drop_empty_clusters(counts: Counts) -> Counts:
    """Return the clusters that have an answer."""
    return [(k, n) for k, n in counts if n]


def sum_counts(lines: Iterable[Iterable[tuple[float, float]]]) -> Counts:
    """Return the sum of the counts in each line."""
    return [(sum(k for k, _ in line), sum(n for _, n in line)) for line in map(tuple, lines)]


def estimate_pooled_rate(counts: Counts) -> Estimate:
    """Return the rate Σk / Σn with its clustered variance (CR1): Σ(k − rate·n)² / (Σn)² · G/(G − 1) for G clusters.

    (Cochran 1977, ratio of cluster totals; Liang & Zeger 1986; Cameron, Gelbach & Miller 2008.)
    """
    k, n, clusters = sum(k for k, _ in counts), sum(n for _, n in counts), len(counts)
    rate = k / n
    if clusters < 2:
        return Estimate(rate, None, 0, n)
    spread = sum((k - rate * n) ** 2 for k, n in counts)
    return Estimate(rate, spread / n**2 * clusters / (clusters - 1), clusters - 1, n)


def estimate_mean_rate(counts: Counts) -> Estimate:
    """Return the unweighted mean of the clusters' rates, and the variance of that mean."""
    rates, n, clusters = [k / n for k, n in counts], sum(n for _, n in counts), len(counts)
    rate = math.fsum(rates) / clusters
    if clusters < 2:
        return Estimate(rate, None, 0, n)
    return Estimate(rate, sum((r - rate) ** 2 for r in rates) / (clusters - 1) / clusters, clusters - 1, n)


def estimate_crossed_rate(table: Sequence[Counts], average: bool = False) -> Estimate:
    """Return the rate over questions crossed with seeds: a row of `table` for each seed, a column for each question.

    The variance is that over questions plus that over seeds minus that of their interaction (mean squares of the
    two-way layout; Owen 2007; Cameron, Gelbach & Miller 2011), and at least the larger of the first two. Degrees of
    freedom follow Satterthwaite (1946).

    Args:
        average: take the mean of the cells' rates instead of the pooled rate.
    """
    import numpy as np

    k, n = np.moveaxis(np.array(table, dtype=float), -1, 0)
    answers = float(n.sum())
    if average:
        k, n = np.divide(k, n, out=np.zeros_like(k), where=n > 0), (n > 0).astype(float)
    rate = k.sum() / n.sum()
    residuals = k - rate * n
    by_seed, by_question = residuals.mean(axis=1, keepdims=True), residuals.mean(axis=0, keepdims=True)
    seeds, questions = residuals.shape
    parts = (
        (seeds * (by_question**2).sum(), questions - 1),
        (questions * (by_seed**2).sum(), seeds - 1),
        (((residuals - by_seed - by_question) ** 2).sum(), (seeds - 1) * (questions - 1)),
    )
    scale = seeds * questions / n.sum() ** 2
    over_questions, over_seeds, both = ((float(scale * squares / df) if df else 0.0, df) for squares, df in parts)
    most, freedom = max(over_questions, over_seeds)
    variance = over_questions[0] + over_seeds[0] - both[0]
    if variance > most:
        spread = sum(part**2 / df for part, df in (over_questions, over_seeds, both) if df)
        return Estimate(float(rate), variance, variance**2 / spread, answers)
    return Estimate(float(rate), most if freedom else None, freedom, answers)
