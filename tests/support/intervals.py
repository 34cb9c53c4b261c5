"""Intervals and p values of rates and contrasts, computed independently of em by scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from em.stats.contrasts import Table
from em.stats.like_these import CORRELATIONS, FEW_QUESTIONS, MEANS, PRIOR

Parts = Sequence[tuple[float, Table]]
Bound = Callable[[Parts, float], tuple[float, float]]


def compute_stratum(table: Table) -> tuple[float, float]:
    """Return the mean rate over questions and the effective number of answers; rows are seeds."""
    k, n = sum_seeds(table)
    rate, harmonic = float(np.mean(k / n)), float(stats.hmean(n) * len(n))
    if rate in (0, 1):
        return rate, harmonic
    p = (k + rate) / (n + 1)
    within = np.mean(p * (1 - p) * (n + 1) / n / n) / len(n)
    return rate, float(rate * (1 - rate) * (1 + 1 / harmonic) / within)


def sum_seeds(table: Table) -> np.ndarray:
    """Return k and n of each question over all seeds."""
    return np.moveaxis(np.array(table, dtype=float).sum(axis=0), -1, 0)


def compute_ends(rate: float, size: float, level: float) -> tuple[float, float]:
    """Return Wilson's interval, widened by the exact one-sided limits."""
    low, high = proportion_confint(rate * size, size, alpha=level, method="wilson")
    exact_low = stats.beta.ppf(level, rate * size, (1 - rate) * size + 1) if rate > 0 else 0
    exact_high = stats.beta.isf(level, rate * size + 1, (1 - rate) * size) if rate < 1 else 1
    return min(low, exact_low), max(high, exact_high)


def compute_contrast(parts: Parts, level: float = 0.05) -> tuple[float, float]:
    """Return the interval of Σ coefficient · rate for these questions: by MOVER, and by Student's t over three seeds.

    Models with several rows have an answer in every cell.
    """
    value, reaches, fixed = 0.0, [], []
    for c, table in parts:
        rate, size = compute_stratum(table)
        ends = sorted(c * end for end in compute_ends(rate, size, level))
        value += c * rate
        reaches.append((c * rate - ends[0], ends[1] - c * rate))
        if len(table) == 1:
            fixed.append(reaches[-1])
    below, above = np.linalg.norm(reaches, axis=0)
    half = compute_seed_reach(parts, level)
    if half is not None:
        beside = np.linalg.norm(fixed, axis=0) if fixed else np.zeros(2)
        below, above = np.maximum((below, above), np.hypot(half, beside))
    return value - float(below), value + float(above)


def compute_seed_reach(parts: Parts, level: float) -> float | None:
    """Return how far Student's t over seeds reaches on either side; None with fewer than three seeds."""
    seeded = [(c, np.array(table, dtype=float)) for c, table in parts if len(table) > 1]
    by_seed = np.sum([c * (cells[..., 0] / cells[..., 1]).mean(axis=1) for c, cells in seeded], axis=0)
    if not seeded or len(by_seed) < 3:
        return None
    return float(stats.t.isf(level / 2, len(by_seed) - 1) * stats.sem(by_seed))


def compute_like_ends(table: Table, level: float) -> tuple[float, float]:
    """Return the beta-binomial interval of a rate for questions like these, on em's grid, stretched to the rate."""
    k, n = sum_seeds(table)
    rate, edges = float(np.mean(k / n)), stats.arcsine.ppf(np.arange(MEANS + 1) / MEANS)
    for_low, for_high = weigh_means(tuple(k), tuple(n))
    low = np.interp(level / 2, np.append(0, np.cumsum(for_low)), edges)
    high = np.interp(level / 2, np.append(0, np.cumsum(for_high[::-1])), edges[::-1])
    return min(float(low), rate), max(float(high), rate)


@cache
def weigh_means(k: tuple[float, ...], n: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior of the mean over questions on em's grid: for the lower and for the upper bound."""
    means = stats.arcsine.ppf((np.arange(MEANS) + 0.5) / MEANS)
    strength = 1 / stats.beta.ppf((np.arange(CORRELATIONS) + 0.5) / CORRELATIONS, *PRIOR) - 1
    alpha, beta = np.outer(means, strength), np.outer(1 - means, strength)
    likelihood = np.zeros_like(alpha)
    for misaligned, answers in zip(k, n, strict=True):
        likelihood += stats.betabinom.logpmf(misaligned, answers, alpha, beta)
    marginal = np.exp(likelihood - likelihood.max()).sum(axis=1)
    # The points are even under Jeffreys's prior, so the weights are the priors over it.
    for_low = marginal * stats.beta.pdf(means, 0.5, 1) / stats.arcsine.pdf(means)
    for_high = marginal * stats.beta.pdf(means, 1, 0.5) / stats.arcsine.pdf(means)
    return for_low / for_low.sum(), for_high / for_high.sum()


def compute_like_contrast(parts: Parts, level: float = 0.05) -> tuple[float, float]:
    """Return the interval of Σ coefficient · rate for questions like these, by MOVER with correlations."""
    rates = np.array([np.divide(*sum_seeds(table)) for _, table in parts])
    questions = rates.shape[1]
    correlations = np.eye(len(parts))
    for i, j in zip(*np.triu_indices(len(parts), 1), strict=True):
        if np.ptp(rates[i]) and np.ptp(rates[j]):
            shrunk = stats.pearsonr(rates[i], rates[j])[0] * (questions - 1) / (questions - 1 + FEW_QUESTIONS)
            correlations[i, j] = correlations[j, i] = shrunk
    coefficients = np.array([c for c, _ in parts])
    ends = np.array([compute_like_ends(table, level) for _, table in parts]) - rates.mean(axis=1)[:, None]
    value = float(coefficients @ rates.mean(axis=1))
    rising = coefficients > 0
    downs, ups = (coefficients * np.where(rising, ends[:, i], ends[:, 1 - i]) for i in (0, 1))
    signs = np.where(rising, 1, -1)
    below, above = (float(np.sqrt((signs * each) @ correlations @ (signs * each))) for each in (downs, ups))
    half = compute_seed_reach(parts, level)
    return value - max(below, half or 0.0), value + max(above, half or 0.0)


def compute_p(parts: Parts, bound: Bound = compute_contrast) -> float:
    """Return the level at which an interval of a contrast touches zero."""
    low, high = bound(parts, 1.0)
    if low <= 0 <= high:
        return 1.0

    def measure_distance(z: float) -> float:
        ends = bound(parts, 2 * stats.norm.sf(z))
        return ends[0] if low > 0 else -ends[1]

    return float(2 * stats.norm.sf(optimize.brentq(measure_distance, 0, 37, xtol=1e-13)))


def compute_share_bound(base: Table, first: Table, second: Table, bound: Bound = compute_contrast) -> float:
    """Return the upper bound of the share of harm left, if it is below 1 and above 0: Fieller's, with an interval."""

    def bound_above(share: float) -> float:
        return bound([(1, second), (-share, first), (share - 1, base)], 0.05)[1]

    return float(optimize.bisect(bound_above, 0, 1, xtol=1e-13))
