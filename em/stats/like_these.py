"""Infer to questions like these: the questions that were asked are a sample of a population of questions.

Answers to a question are binomial, and the rates of questions follow a beta distribution with mean μ and intraclass
correlation ρ (beta-binomial; Skellam 1948; Gelman et al., Bayesian Data Analysis, section 5.3). The posterior of μ is
summed on a grid. The prior of ρ is a beta distribution with mean 0.2, the median of public fine-tunes on eight
questions. The prior of μ differs by end, as in an interval of Clopper & Pearson: towards the end that the bound faces
it is flat, which keeps the interval from being too short near 0 and 1, and elsewhere it is Jeffreys's. So the bounds
change smoothly with each answer, however few questions show the behaviour.

Contrasts combine these intervals (MOVER with correlations: Zou & Donner 2008), because the questions are the same on
both sides. The correlation over questions is shrunk towards 0 when there are few of them.

With three training seeds or more, the reach of an interval is at least that of Student's t over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from em.stats.contrasts import (
    LEVEL,
    Estimate,
    Parts,
    Share,
    Table,
    describe,
    find_deviations,
    find_quantile,
    find_rate,
    find_seed_error,
    find_share_bound,
    find_student,
    find_tail,
    find_touching_level,
    keep_shared,
    measure_reach,
    merge_seeds,
)

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

MEANS, CORRELATIONS = 160, 20
"""Points of the grid: of μ (evenly on the arcsine scale) and of ρ (at quantiles of its prior)."""
PRIOR = (2.0, 8.0)
"""The beta prior of ρ."""
FEW_QUESTIONS = 3
"""The correlation between two models over Q questions is multiplied by (Q − 1) / (Q − 1 + FEW_QUESTIONS)."""


@dataclass(frozen=True)
class Grid:
    """The grid of (μ, ρ): parameters of the beta distributions, their log beta functions, and the edges of μ's cells.

    towards_zero, towards_one: logarithm of the prior of μ over Jeffreys's, for the bound that faces this end.
    """

    alpha: Floats
    beta: Floats
    log_beta: Floats
    edges: Floats
    towards_zero: Floats
    towards_one: Floats


@dataclass(frozen=True)
class Posterior:
    """The distribution functions of μ at the edges of the grid: for the lower and for the upper bound."""

    for_low: Floats
    for_high: Floats

    def bound(self, level: float) -> tuple[float, float]:
        """Return the interval of confidence 1 − level."""
        import numpy as np

        edges = make_grid().edges
        low = float(np.interp(level / 2, self.for_low, edges))
        # The upper tail is summed from above, so that tiny levels keep their digits.
        high = float(np.interp(level / 2, self.for_high, edges[::-1]))
        return low, high


@dataclass(frozen=True)
class PopulationContrast:
    """A sum of rates with coefficients, ready for intervals over the population of questions at any level.

    terms: coefficient, rate over the questions asked, and posterior of each model.
    correlations: of the models' rates over questions, after shrinkage.
    seed_error: standard error over seeds; None with fewer than ENOUGH_SEEDS.
    """

    terms: Sequence[tuple[float, float, Posterior]]
    correlations: Sequence[Sequence[float]]
    seed_error: float | None
    seeds: int

    def bound(self, z: float) -> tuple[float, float]:
        """Return the interval at a normal quantile, before it is cut to what is possible."""
        level = find_tail(z)
        value = math.fsum(c * rate for c, rate, _ in self.terms)
        downs, ups = [], []
        for c, rate, posterior in self.terms:
            down, up = measure_reach(c, rate, include_rate(posterior.bound(level), rate))
            downs.append(math.copysign(down, c))
            ups.append(math.copysign(up, c))
        below, above = self.combine(downs), self.combine(ups)
        if self.seed_error is not None:
            half = find_student(self.seeds - 1, level) * self.seed_error
            below, above = max(below, half), max(above, half)
        return value - below, value + above

    def combine(self, reaches: Sequence[float]) -> float:
        """Combine signed reaches as standard deviations of correlated quantities."""
        square = 0.0
        for i, one in enumerate(reaches):
            square += sum(self.correlations[i][j] * one * other for j, other in enumerate(reaches))
        return math.sqrt(max(0.0, square))


def estimate_rate_like(table: Table, level: float = LEVEL) -> Estimate | None:
    """Compute the rate with its interval for questions like these; None without an answer."""
    kept = keep_shared([(1.0, table)])
    if kept is None:
        return None
    low, high = prepare_population(kept).bound(find_quantile(level))
    return describe(kept, (max(0.0, low), min(1.0, high)), None, level, "beta_binomial")


def estimate_contrast_like(parts: Parts, level: float = LEVEL) -> Estimate | None:
    """Compute Σ coefficient · rate for questions like these, with p; None without a shared question."""
    kept = keep_shared(parts)
    if kept is None:
        return None
    contrast = prepare_population(kept)
    low, high = contrast.bound(find_quantile(level))
    least, most = (math.fsum(pick(0.0, c) for c, _ in kept) for pick in (min, max))
    p = find_touching_level(contrast.bound)
    return describe(kept, (max(least, low), min(most, high)), p, level, "beta_binomial")


def bound_like_these(parts: Parts, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of `estimate_contrast_like`, without its p; None without a shared question."""
    kept = keep_shared(parts)
    return None if kept is None else prepare_population(kept).bound(find_quantile(level))


def estimate_share_like(base: Table, first: Table, second: Table, level: float = LEVEL) -> Share | None:
    """Compute the share of harm left for questions like these (see `em.stats.these.estimate_share`)."""
    kept = keep_shared([(1.0, base), (1.0, first), (1.0, second)])
    if kept is None:
        return None
    (_, base), (_, first), (_, second) = kept
    harm = find_rate(first) - find_rate(base)
    if harm <= 0:
        return None
    z = find_quantile(level)

    def bound_above(share: float) -> float:
        return prepare_population([(1.0, second), (-share, first), (share - 1.0, base)]).bound(z)[1]

    return Share((find_rate(second) - find_rate(base)) / harm, find_share_bound(bound_above))


def prepare_population(parts: Parts) -> PopulationContrast:
    """Compute what the intervals of a contrast on shared questions need."""
    merged = [merge_seeds(table) for _, table in parts]
    rates = [[k / n for k, n in counts] for counts in merged]
    posteriors = [compute_posterior(tuple(sorted(counts))) for counts in merged]
    terms = [(c, find_rate(table), posterior) for (c, table), posterior in zip(parts, posteriors, strict=True)]
    error, seeds = find_seed_error([(c, find_deviations(table)) for c, table in parts])
    correlations = [[compute_correlation(one, other) if one is not other else 1.0 for other in rates] for one in rates]
    return PopulationContrast(terms, correlations, error, seeds)


def include_rate(interval: tuple[float, float], rate: float) -> tuple[float, float]:
    """Return the interval, stretched where it does not hold the rate over the questions asked."""
    return min(interval[0], rate), max(interval[1], rate)


def compute_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Pearson's correlation of two models' rates over questions, shrunk towards 0; 0 if one is constant."""
    questions = len(first)
    mean_one, mean_two = math.fsum(first) / questions, math.fsum(second) / questions
    products = math.fsum((a - mean_one) * (b - mean_two) for a, b in zip(first, second, strict=True))
    squares = math.fsum((a - mean_one) ** 2 for a in first) * math.fsum((b - mean_two) ** 2 for b in second)
    if squares <= 0:
        return 0.0
    shrink = (questions - 1) / (questions - 1 + FEW_QUESTIONS)
    return max(-1.0, min(1.0, products / math.sqrt(squares))) * shrink


@lru_cache(maxsize=256)
def compute_posterior(counts: tuple[tuple[float, float], ...]) -> Posterior:
    """Compute the posterior of μ from the counts of all questions."""
    import numpy as np

    grid = make_grid()
    likelihood = np.zeros_like(grid.alpha)
    for k, n in counts:
        likelihood += compute_log_likelihood(k, n)
    likelihood -= likelihood.max()

    def sum_weights(prior: Floats) -> Floats:
        weights = np.exp(likelihood + prior[:, None]).sum(axis=1)
        normed: Floats = weights / weights.sum()
        return normed

    for_low = np.concatenate([[0.0], np.cumsum(sum_weights(grid.towards_zero))])
    for_high = np.concatenate([[0.0], np.cumsum(sum_weights(grid.towards_one)[::-1])])
    return Posterior(for_low, for_high)


@lru_cache(maxsize=1024)
def compute_log_likelihood(k: float, n: float) -> Floats:
    """Return the beta-binomial log likelihood of one question on the grid, but for a constant."""
    from scipy.special import betaln

    grid = make_grid()
    likelihood: Floats = betaln(k + grid.alpha, n - k + grid.beta) - grid.log_beta
    return likelihood


@cache
def make_grid() -> Grid:
    """Make the grid of μ and ρ. Jeffreys's prior of μ is flat on the arcsine scale, on which the points are even."""
    import numpy as np
    from scipy.special import betaincinv, betaln

    means = np.sin((np.arange(MEANS) + 0.5) / MEANS * np.pi / 2) ** 2
    correlations = betaincinv(*PRIOR, (np.arange(CORRELATIONS) + 0.5) / CORRELATIONS)
    strength = (1 - correlations) / correlations
    alpha, beta = means[:, None] * strength, (1 - means)[:, None] * strength
    edges = np.sin(np.arange(MEANS + 1) / MEANS * np.pi / 2) ** 2
    return Grid(alpha, beta, betaln(alpha, beta), edges, 0.5 * np.log1p(-means), 0.5 * np.log(means))
