"""Intervals of rates for exactly these questions, computed independently of em by scipy and statsmodels."""

from __future__ import annotations

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from em.stats.contrasts import Table


def compute_stratum(table: Table) -> tuple[float, float]:
    """Return the mean rate over questions and the effective number of answers; rows are seeds."""
    k, n = np.moveaxis(np.array(table, dtype=float).sum(axis=0), -1, 0)
    rate, harmonic = float(np.mean(k / n)), float(stats.hmean(n) * len(n))
    if rate in (0, 1):
        return rate, harmonic
    p = (k + rate) / (n + 1)
    within = np.mean(p * (1 - p) * (n + 1) / n / n) / len(n)
    return rate, float(rate * (1 - rate) * (1 + 1 / harmonic) / within)


def compute_ends(rate: float, size: float, level: float) -> tuple[float, float]:
    """Return Wilson's interval, widened by the exact one-sided limits."""
    low, high = proportion_confint(rate * size, size, alpha=level, method="wilson")
    exact_low = stats.beta.ppf(level, rate * size, (1 - rate) * size + 1) if rate > 0 else 0
    exact_high = stats.beta.isf(level, rate * size + 1, (1 - rate) * size) if rate < 1 else 1
    return min(low, exact_low), max(high, exact_high)


def compute_contrast(parts: list[tuple[float, Table]], level: float) -> tuple[float, float]:
    """Return the interval of Σ coefficient · rate by MOVER."""
    value, below, above = 0.0, [], []
    for c, table in parts:
        rate, size = compute_stratum(table)
        low, high = compute_ends(rate, size, level)
        ends = sorted((c * low, c * high))
        value += c * rate
        below.append(c * rate - ends[0])
        above.append(ends[1] - c * rate)
    return value - float(np.linalg.norm(below)), value + float(np.linalg.norm(above))
