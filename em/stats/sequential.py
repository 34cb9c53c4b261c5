"""Intervals that hold at every sample size at once, so that one may look after each answer and stop when one likes.

The confidence sequence of a rate is {p : M(p) < 1/α}, where M(p) = ∫ L(q) dBeta(q; ½, ½) / L(p) is the beta-binomial
mixture over the likelihood L of the answers so far. At the true rate M is a martingale of mean 1, so that by Ville's
inequality it ever reaches 1/α with a probability of at most α, whatever rule stops the sampling (Ville 1939; Robbins
1970; Howard et al. 2021; Waudby-Smith & Ramdas 2024). Jeffreys' prior makes it narrow near 0 and 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

from em.stats.intervals import Interval

PRIOR = 0.5
METHOD = "confidence_sequence"


@lru_cache(maxsize=65_536)
def confidence_sequence(k: int, n: int, alpha: float = 0.05) -> Interval:
    """Bounds of a rate after k successes in n answers; they hold for all n together with probability 1 − alpha."""
    if not 0 <= k <= n:
        raise ValueError(f"k={k} successes in n={n} answers: k must be from 0 to n.")
    if n == 0:
        return Interval(None, None, METHOD)
    # Within the interval the likelihood is above α · ∫ L dBeta, which holds the rate k / n, where it is highest.
    least = log_beta(k + PRIOR, n - k + PRIOR) - log_beta(PRIOR, PRIOR) + math.log(alpha)
    low = 0.0 if k == 0 else boundary(k, n, least, outside=0.0)
    high = 1.0 if k == n else boundary(k, n, least, outside=1.0)
    return Interval(low, high, METHOD)


def enough(k: int, n: int, half_width: float, alpha: float = 0.05) -> bool:
    """Whether k successes in n answers pin the rate down to ± half_width: sampling may stop here."""
    found = confidence_sequence(k, n, alpha)
    return found.low is not None and found.high is not None and found.high - found.low <= 2 * half_width


def boundary(k: int, n: int, least: float, outside: float) -> float:
    """Where, from k / n towards 0 or 1 (`outside`), the log-likelihood falls to `least`: bisection to the last digit.

    The likelihood has one peak, so that there is one such place; the bound returned lies on the outer side of it.
    """
    inside = k / n
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return outside
        if log_likelihood(k, n, middle) >= least:
            inside = middle
        else:
            outside = middle


def log_likelihood(k: int, n: int, rate: float) -> float:
    """Of k successes in n independent answers, in their order; 0 < rate < 1."""
    return k * math.log(rate) + (n - k) * math.log1p(-rate)


def log_beta(a: float, b: float) -> float:
    """Logarithm of Euler's beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
