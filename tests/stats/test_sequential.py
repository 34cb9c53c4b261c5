"""The confidence sequence: its equation by scipy, and what it covers, computed exactly and not drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import betabinom, binom

from em.stats import Interval, confidence_sequence, enough, wilson

MOST = 200
Method = Callable[[int, int], Interval]


def mixture(k: int, n: int, rate: float) -> float:
    """The martingale at a rate; the number of orders of k in n falls out of the ratio."""
    return float(betabinom.pmf(k, n, 0.5, 0.5) / binom.pmf(k, n, rate))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (1, 30), (7, 50), (84, 400), (500, 1000)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_bounds_are_where_the_mixture_reaches_1_over_alpha(k: int, n: int, alpha: float) -> None:
    found = confidence_sequence(k, n, alpha)
    assert found.low is not None
    assert found.high is not None
    for bound in {found.low, found.high} - {0.0, 1.0}:
        assert mixture(k, n, bound) == pytest.approx(1 / alpha, rel=1e-9)
    assert (found.low == 0) == (k == 0)
    assert (found.high == 1) == (k == n)
    assert found.low <= k / n <= found.high


def test_it_is_wider_than_an_interval_for_one_look_and_becomes_narrow() -> None:
    def width(interval: Interval) -> float:
        assert interval.low is not None
        assert interval.high is not None
        return interval.high - interval.low

    widths = [width(confidence_sequence(n // 5, n)) for n in (10, 50, 250, 1250, 6250)]
    assert widths == sorted(widths, reverse=True)
    assert all(width(confidence_sequence(n // 5, n)) > width(wilson(n // 5, n)) for n in (10, 50, 250, 1250))
    assert widths[-1] < 0.05


def test_no_answer_makes_no_interval_and_never_stops() -> None:
    assert confidence_sequence(0, 0) == Interval(None, None, "confidence_sequence")
    assert not enough(0, 0, 0.5)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="k must be from 0 to n"):
        confidence_sequence(k, n)


def test_enough_is_when_the_interval_is_no_wider_than_twice_the_half_width() -> None:
    first = next(n for n in range(1, 1000) if enough(0, n, 0.1))
    before, after = (confidence_sequence(0, n).high for n in (first - 1, first))
    assert before is not None
    assert after is not None
    assert after <= 0.2 < before
    assert next(n for n in range(2, 1000, 2) if enough(n // 2, n, 0.1)) > 2 * first


def holds(method: Method, k: int, n: int, rate: float) -> bool:
    found = method(k, n)
    assert found.low is not None
    assert found.high is not None
    return found.low <= rate <= found.high


def coverage(method: Method, rate: float, stops: Callable[[int, int], bool]) -> float:
    """The exact probability that the interval holds the rate when sampling stops, at MOST answers at the latest."""
    reach, held = np.zeros(MOST + 2), 0.0
    reach[0] = 1.0
    for n in range(1, MOST + 1):
        reach[1:] = reach[1:] * (1 - rate) + reach[:-1] * rate
        reach[0] *= 1 - rate
        for k in range(n + 1):
            if n == MOST or stops(k, n):
                held += reach[k] * holds(method, k, n, rate)
                reach[k] = 0.0
    return held


RATES = (0.01, 0.05, 0.2, 0.5, 0.9)


@pytest.mark.parametrize("rate", RATES)
def test_it_covers_at_every_sample_size_whatever_stops_the_sampling(rate: float) -> None:
    # The adversary stops as soon as the interval misses the rate.
    assert coverage(confidence_sequence, rate, lambda k, n: not holds(confidence_sequence, k, n, rate)) >= 0.95


@pytest.mark.parametrize("half_width", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("rate", RATES)
def test_it_covers_under_the_rule_that_stops_when_it_is_narrow(rate: float, half_width: float) -> None:
    assert coverage(confidence_sequence, rate, lambda k, n: enough(k, n, half_width)) >= 0.95


def test_an_interval_for_one_look_would_not() -> None:
    assert coverage(wilson, 0.2, lambda k, n: not holds(wilson, k, n, 0.2)) < 0.75
