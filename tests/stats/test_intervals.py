"""Test intervals against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import brentq
from scipy.stats import binomtest, sem, t
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from em.stats import Interval, cluster_interval, wilson_interval
from em.stats.intervals import estimate_crossed_rate, estimate_mean_rate, estimate_pooled_rate, seeds_interval

UNEQUAL = [(3, 50), (10, 40), (30, 50), (0, 50), (1, 10), (20, 50)]
SKEWED = [(0, 50), (2, 50), (40, 50), (1, 50), (35, 50), (3, 50), (0, 50), (3, 50)]
Counts = list[tuple[int, int]]


def get_bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def measure_width(interval: Interval) -> float:
    low, high = get_bounds(interval)
    return high - low


def expand_answers(counts: Counts) -> tuple[list[int], list[int]]:
    """Return a 0 or 1 for each answer, and the number of its question."""
    ones = [int(i < k) for k, n in counts for i in range(n)]
    return ones, [question for question, (_, n) in enumerate(counts) for _ in range(n)]


def find_score_bounds(rate: float, n: float, quantile: float) -> tuple[float, float]:
    """Solve |rate − p| = quantile · √(p (1 − p) / n) for both p, by root finding."""

    def measure_excess(p: float) -> float:
        return abs(rate - p) - quantile * math.sqrt(p * (1 - p) / n)

    return brentq(measure_excess, 1e-12, rate, xtol=1e-14), brentq(measure_excess, rate, 1 - 1e-12, xtol=1e-14)


# Wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (1, 30), (7, 50), (84, 400), (500, 1000)])
def test_wilson_is_the_interval_of_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    interval = wilson_interval(k, n)
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)
    assert interval.method == "wilson"


def test_wilson_of_nothing_is_no_interval() -> None:
    assert wilson_interval(0, 0) == Interval(None, None, "wilson")


def test_wilson_bounds_touch_0_and_1_exactly() -> None:
    assert wilson_interval(0, 12).low == 0.0
    assert wilson_interval(12, 12).high == 1.0


# The clustered standard error


@pytest.mark.parametrize("counts", [UNEQUAL, SKEWED, [(1, 4), (4, 4)], [(49, 50), (50, 50), (47, 50)]])
def test_the_clustered_standard_error_is_that_of_a_regression_on_the_intercept(counts: Counts) -> None:
    ones, questions = expand_answers(counts)
    fit = sm.OLS(ones, np.ones(len(ones))).fit(cov_type="cluster", cov_kwds={"groups": questions}, use_t=True)
    estimate = estimate_pooled_rate(counts)
    assert estimate.rate == pytest.approx(fit.params[0], abs=1e-12)
    assert estimate.variance == pytest.approx(fit.bse[0] ** 2, abs=1e-12)


def test_the_design_effect_is_the_clustered_over_the_binomial_variance() -> None:
    ones, questions = expand_answers(UNEQUAL)
    fit = sm.OLS(ones, np.ones(len(ones))).fit(cov_type="cluster", cov_kwds={"groups": questions})
    assert estimate_pooled_rate(UNEQUAL).design_effect == pytest.approx(
        fit.bse[0] ** 2 / (np.var(ones) / len(ones)), abs=1e-9
    )
    # If all answers to a question agree, it counts as one answer (times G / (G − 1) for the estimated mean).
    assert estimate_pooled_rate([(10, 10), (0, 10)] * 4).design_effect == pytest.approx(10 * 8 / 7)


@pytest.mark.parametrize("counts", [[(0, 50), (0, 50)], [(50, 50), (10, 10)], [(7, 50)]])
def test_there_is_no_design_effect_where_nothing_varies(counts: Counts) -> None:
    assert estimate_pooled_rate(counts).design_effect is None


def test_the_mean_of_the_questions_rates_has_their_standard_error() -> None:
    rates = [k / n for k, n in UNEQUAL]
    estimate = estimate_mean_rate(UNEQUAL)
    assert estimate.rate == pytest.approx(np.mean(rates), abs=1e-12)
    assert estimate.variance == pytest.approx(sem(rates) ** 2, abs=1e-12)
    assert estimate.freedom == 5


# The interval of a set


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("counts", [UNEQUAL, SKEWED, [(5, 50), (20, 50), (45, 50), (30, 50)]])
def test_the_interval_of_a_set_solves_wilsons_equation_with_the_answers_it_is_worth(
    counts: Counts, average: bool
) -> None:
    rates = [k / n for k, n in counts]
    n = sum(n for _, n in counts)
    if average:
        rate, variance = np.mean(rates), sem(rates) ** 2
    else:
        ones, questions = expand_answers(counts)
        fit = sm.OLS(ones, np.ones(n)).fit(cov_type="cluster", cov_kwds={"groups": questions})
        rate, variance = fit.params[0], fit.bse[0] ** 2
    size = min(n, rate * (1 - rate) / variance)
    informative = min(sum(k > 0 for k, _ in counts), sum(k < n for k, n in counts))
    expected = find_score_bounds(rate, size, t.ppf(0.975, informative - 1))
    interval = cluster_interval(counts, average)
    assert interval.method == ("clustered_wilson(question means)" if average else "clustered_wilson(question)")
    assert get_bounds(interval) == (pytest.approx(expected[0], abs=1e-9), pytest.approx(expected[1], abs=1e-9))


def test_the_interval_of_a_set_is_wider_than_the_binomial_by_about_the_root_of_the_design_effect() -> None:
    counts = [(10, 50), (15, 50), (30, 50), (12, 50), (35, 50), (20, 50), (25, 50), (40, 50)] * 6
    effect = estimate_pooled_rate(counts).design_effect
    assert effect is not None
    assert effect > 5
    ratio = measure_width(cluster_interval(counts)) / measure_width(
        wilson_interval(sum(k for k, _ in counts), 50 * len(counts))
    )
    assert ratio == pytest.approx(math.sqrt(effect) * t.ppf(0.975, 47) / 1.96, rel=0.02)


def test_the_cluster_interval_stays_within_0_and_1_and_holds_the_rate() -> None:
    for counts in ([(1, 4), (4, 4)], [(0, 1), (1, 1), (1, 1)], [(49, 50), (50, 50)], SKEWED, UNEQUAL):
        low, high = get_bounds(cluster_interval(counts))
        assert 0 <= low <= estimate_pooled_rate(counts).rate <= high <= 1


@pytest.mark.parametrize(("k", "questions", "samples"), [(0, 8, 50), (1, 8, 50), (0, 1, 30), (1, 20, 4)])
def test_where_all_answers_agree_each_question_counts_as_one_trial(k: int, questions: int, samples: int) -> None:
    interval = cluster_interval([(k * samples, samples)] * questions)
    expected = binomtest(k * questions, questions).proportion_ci(method="wilson")
    assert get_bounds(interval) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert interval.method == "wilson(one trial per question)"


def test_one_question_has_the_interval_of_its_answers() -> None:
    assert cluster_interval([(7, 50)]) == wilson_interval(7, 50)


def test_questions_without_an_answer_do_not_count() -> None:
    assert cluster_interval([(3, 50), (0, 0), (9, 50)]) == cluster_interval([(3, 50), (9, 50)])
    nothing = Interval(None, None, "clustered_wilson(question)")
    assert cluster_interval([]) == cluster_interval([(0, 0)]) == nothing


@pytest.mark.parametrize("counts", [[(1, 2), (1, 2)], [(5, 30)] * 8, [(5, 30), (6, 30), (5, 30), (6, 30)]])
def test_questions_that_agree_by_chance_do_not_make_the_rate_certain(counts: Counts) -> None:
    k, n = sum(k for k, _ in counts), sum(n for _, n in counts)
    assert measure_width(cluster_interval(counts)) > measure_width(wilson_interval(k, n))


# Seeds


def test_the_variance_over_seeds_and_questions_is_that_of_the_two_way_analysis() -> None:
    import pandas as pd

    table = [
        [(3, 20), (9, 20), (0, 20), (5, 20)],
        [(5, 20), (14, 20), (0, 20), (4, 20)],
        [(1, 20), (6, 20), (0, 20), (3, 20)],
    ]
    frame = pd.DataFrame(
        [{"rate": k / n, "seed": s, "question": q} for s, row in enumerate(table) for q, (k, n) in enumerate(row)]
    )
    squares = anova_lm(ols("rate ~ C(seed) + C(question)", frame).fit())["sum_sq"]
    freedom = {"C(seed)": 2, "C(question)": 3, "Residual": 6}
    parts = {name: squares[name] / df / 12 for name, df in freedom.items()}
    variance = parts["C(seed)"] + parts["C(question)"] - parts["Residual"]
    estimate = estimate_crossed_rate(table)
    assert estimate.variance == pytest.approx(variance, abs=1e-12)
    satterthwaite = variance**2 / sum(parts[name] ** 2 / df for name, df in freedom.items())
    assert estimate.freedom == pytest.approx(satterthwaite, abs=1e-9)
    freedom_used = min(satterthwaite, 3 - 1)  # three of the four questions show the behaviour
    expected = find_score_bounds(
        estimate.rate, estimate.rate * (1 - estimate.rate) / variance, t.ppf(0.975, freedom_used)
    )
    assert get_bounds(seeds_interval(table)) == (
        pytest.approx(expected[0], abs=1e-9),
        pytest.approx(expected[1], abs=1e-9),
    )


def test_seeds_that_differ_make_the_interval_wider_than_questions_alone() -> None:
    low, high = [(2, 50), (5, 50), (1, 50), (4, 50)], [(30, 50), (38, 50), (25, 50), (35, 50)]
    questions = [(a + c, b + d) for (a, b), (c, d) in zip(low, high, strict=True)]
    assert measure_width(seeds_interval([low, high, low, high])) > 2 * measure_width(cluster_interval(questions))


def test_seeds_that_agree_leave_the_variance_over_questions() -> None:
    row = [(3, 20), (9, 20), (0, 20), (5, 20)]
    assert estimate_crossed_rate([row, row]).variance == pytest.approx(estimate_pooled_rate(row).variance)
    assert estimate_crossed_rate([row, row]).freedom == 3


def test_seeds_with_one_question_vary_over_seeds_alone() -> None:
    estimate = estimate_crossed_rate([[(3, 20)], [(9, 20)], [(5, 20)]])
    assert estimate.variance == pytest.approx(sem([3 / 20, 9 / 20, 5 / 20]) ** 2)
    assert estimate.freedom == 2


def test_one_question_over_seeds_is_taken_over_seeds() -> None:
    seeds = [(30, 200), (90, 200), (50, 200)]
    interval = seeds_interval([[pair] for pair in seeds])
    assert get_bounds(interval) == pytest.approx(get_bounds(cluster_interval(seeds)))
    assert seeds_interval([[(3, 20)], [(9, 20)]]).method == "wilson(one trial per seed)"


def test_over_seeds_the_mean_of_unequal_cells_has_equal_weights() -> None:
    table = [[(3, 10), (9, 90)], [(5, 50), (0, 0)]]
    estimate = estimate_crossed_rate(table, average=True)
    assert estimate.rate == pytest.approx((0.3 + 0.1 + 0.1) / 3)
    assert estimate.answers == 150
    assert estimate_crossed_rate(table).rate == pytest.approx(17 / 150)
