"""Test the inference to these questions and to questions like these against independent computations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.proportion import proportion_confint

from em.stats import contrasts, like_these, these
from em.stats.contrasts import Estimate, Table
from tests.support.intervals import (
    compute_contrast,
    compute_ends,
    compute_like_contrast,
    compute_like_ends,
    compute_p,
    compute_share_bound,
    compute_stratum,
)
from tests.support.studies import BASE, CURED, SEEDED, TRAINED, divide_counts

UNEVEN = [[(3, 7), (0, 12), (9, 9), (4, 31)]]
cell_counts = st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
tables = st.lists(cell_counts, min_size=4, max_size=4).map(lambda row: [row])


def estimate_difference(first: Table, second: Table, level: float = 0.05) -> Estimate | None:
    return these.estimate_contrast([(1.0, second), (-1.0, first)], level)


def estimate_difference_like(first: Table, second: Table, level: float = 0.05) -> Estimate | None:
    return like_these.estimate_contrast_like([(1.0, second), (-1.0, first)], level)


@pytest.mark.parametrize(("k", "n"), [(0, 100), (1, 100), (3, 240), (50, 100), (97, 100), (100, 100), (300, 1000)])
def test_one_question_has_the_interval_of_its_answers(k: int, n: int) -> None:
    estimate = these.estimate_rate([[(k, n)]])
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx(compute_ends(k / n, n, 0.05), abs=1e-9)
    low, high = proportion_confint(k, n, method="wilson")
    assert estimate.low <= low + 1e-12
    assert estimate.high >= high - 1e-12
    if k >= 12 and n - k >= 12:
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-9)


def test_differences_of_one_question_agree_with_their_p() -> None:
    for first, second in (((0, 1000), (300, 1000)), ((0, 100), (100, 100))):
        estimate = estimate_difference([[first]], [[second]])
        assert estimate is not None
        assert estimate.low > 0
        assert estimate.p is not None
        assert estimate.p < 1e-20


@pytest.mark.parametrize("table", [BASE, TRAINED, CURED, UNEVEN, [[(0, 30)] * 8], [[(9, 9)] * 3], SEEDED[:2]])
@pytest.mark.parametrize("level", [0.05, 0.025, 0.001])
def test_a_rate_has_wilsons_interval_with_the_answers_of_a_stratified_sample(table: Table, level: float) -> None:
    estimate = these.estimate_rate(table, level)
    assert estimate is not None
    rate, size = compute_stratum(table)
    assert estimate.value == pytest.approx(rate, abs=1e-12)
    low, high = compute_ends(rate, size, level)
    assert (estimate.low, estimate.high) == pytest.approx((max(0, low), min(1, high)), abs=1e-9)


@pytest.mark.parametrize("questions", [1, 240])
def test_the_coverage_of_a_rate_by_enumeration(questions: int) -> None:
    n = 240 // questions
    k = np.arange(241)
    ends = np.array([contrasts.bound_rate(count / 240, 240, 1.959963984540054) for count in k])
    rates = np.linspace(0.0003, 0.5, 1500)
    held = (ends[:, 0] <= rates[:, None]) & (rates[:, None] <= ends[:, 1])
    coverage = (stats.binom.pmf(k, n * questions, rates[:, None]) * held).sum(axis=1)
    assert coverage.min() > 0.93
    assert coverage.mean() > 0.948


@given(tables, tables, st.sampled_from([0.05, 0.025]))
@settings(max_examples=60, deadline=None)
def test_a_difference_combines_the_intervals_of_both_rates(first: Table, second: Table, level: float) -> None:
    estimate = estimate_difference(first, second, level)
    assert estimate is not None
    low, high = compute_contrast([(1, second), (-1, first)], level)
    assert (estimate.low, estimate.high) == pytest.approx((max(-1, low), min(1, high)), abs=1e-9)


@given(tables, tables)
@settings(max_examples=60, deadline=None)
def test_interval_and_p_agree_about_zero(first: Table, second: Table) -> None:
    for estimate_of in (estimate_difference, estimate_difference_like):
        estimate = estimate_of(first, second)
        reverse = estimate_of(second, first)
        assert estimate is not None
        assert reverse is not None
        assert estimate.p is not None
        assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12
        assert (estimate.p < 0.05) == (estimate.low > 0 or estimate.high < 0)
        assert (reverse.low, reverse.high, reverse.p) == pytest.approx((-estimate.high, -estimate.low, estimate.p))
        if 1e-6 < estimate.p < 0.99:
            at_p = estimate_of(first, second, estimate.p)
            assert at_p is not None
            assert min(abs(at_p.low), abs(at_p.high)) < 1e-9


def test_rates_and_differences_have_one_weighting() -> None:
    other = [[(1, 3), (5, 40), (2, 9), (0, 2)]]
    rates = [these.estimate_rate(table) for table in (UNEVEN, other)]
    difference = estimate_difference(UNEVEN, other)
    assert difference is not None
    assert rates[0] is not None
    assert rates[1] is not None
    assert difference.value == pytest.approx(rates[1].value - rates[0].value, abs=1e-12)
    assert rates[0].value == pytest.approx(np.mean([k / n for k, n in UNEVEN[0]]), abs=1e-12)


def test_a_missing_cell_drops_no_question() -> None:
    table = [[(3, 10), (5, 10)], [(4, 10), (0, 0)], [(2, 10), (6, 10)]]
    estimate = these.estimate_rate(table)
    assert estimate is not None
    assert estimate.questions == 2
    assert estimate.value == pytest.approx((9 / 30 + 11 / 20) / 2)
    assert contrasts.find_deviations(table)[1] == pytest.approx(0.4 - 0.3)
    assert estimate_difference([[(1, 5), (0, 0)]], [[(0, 0), (1, 5)]]) is None


def test_three_seeds_add_students_t_over_seeds() -> None:
    means = np.array([[k / n for k, n in row] for row in SEEDED]).mean(axis=1)
    half = stats.t.ppf(0.975, 2) * stats.sem(means)
    estimate = these.estimate_rate(SEEDED)
    assert estimate is not None
    assert estimate.over_seeds
    assert (estimate.low, estimate.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=1e-9)
    difference = estimate_difference(BASE, SEEDED)
    assert difference is not None
    rate, size = compute_stratum(BASE)
    low, high = compute_ends(rate, size, 0.05)
    value = means.mean() - rate
    assert difference.low == pytest.approx(value - math.hypot(half, high - rate), abs=1e-9)
    assert difference.high == pytest.approx(value + math.hypot(half, rate - low), abs=1e-9)


def test_paired_seeds_are_a_paired_t_test() -> None:
    second = [[(k // 3, n) for k, n in row] for row in SEEDED]
    means = [np.array([[k / n for k, n in row] for row in table]).mean(axis=1) for table in (SEEDED, second)]
    expected = stats.ttest_rel(means[1], means[0]).confidence_interval(0.999)
    difference = estimate_difference(SEEDED, second, 0.001)
    assert difference is not None
    assert (difference.low, difference.high) == pytest.approx((max(-1, expected.low), min(1, expected.high)), abs=1e-9)


def test_seeds_alike_by_chance_keep_the_interval_of_the_answers() -> None:
    alike = [TRAINED[0]] * 3
    estimate, answers = these.estimate_rate(alike), these.estimate_rate([contrasts.merge_seeds(alike)])
    assert estimate is not None
    assert answers is not None
    assert (estimate.low, estimate.high) == pytest.approx((answers.low, answers.high), abs=1e-12)
    two = these.estimate_rate(SEEDED[:2])
    assert two is not None
    assert not two.over_seeds


def test_different_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="must list the same seeds"):
        estimate_difference(SEEDED, SEEDED[:2])


@pytest.mark.parametrize("second", [CURED, divide_counts(TRAINED, 2), divide_counts(TRAINED, 5)])
def test_the_share_of_harm_left_is_fiellers(second: Table) -> None:
    share = these.estimate_share(BASE, TRAINED, second)
    assert share is not None
    rates = [compute_stratum(table)[0] for table in (BASE, TRAINED, second)]
    assert share.value == pytest.approx((rates[2] - rates[0]) / (rates[1] - rates[0]), abs=1e-12)

    assert share.bound == pytest.approx(compute_share_bound(BASE, TRAINED, second), abs=1e-9)
    like = like_these.estimate_share_like(BASE, TRAINED, second)
    assert like is not None
    assert like.value == share.value
    assert like.bound == pytest.approx(compute_share_bound(BASE, TRAINED, second, compute_like_contrast), abs=1e-9)


@given(tables, tables, tables)
@settings(max_examples=60, deadline=None)
def test_a_share_below_one_is_a_sure_reduction(base: Table, first: Table, second: Table) -> None:
    share = these.estimate_share(base, first, second)
    difference = estimate_difference(first, second)
    assert difference is not None
    if share is not None:
        assert (share.bound < 1) == (difference.high < 0)
        assert share.bound >= min(1.0, share.value) - 1e-9


@pytest.mark.parametrize("counts", [BASE[0], TRAINED[0], UNEVEN[0], [(0, 30)] * 8])
def test_the_posterior_is_that_of_the_beta_binomial(counts: list[tuple[int, int]]) -> None:
    grid = like_these.make_grid()
    log_likelihood = sum(stats.betabinom.logpmf(k, n, grid.alpha, grid.beta) for k, n in counts)
    means = grid.alpha[:, 0] / (grid.alpha + grid.beta)[:, 0]
    for towards_one in (False, True):
        # Beside Jeffreys's prior, which is flat on the arcsine scale of the grid.
        prior = stats.beta.logpdf(means, *((1, 0.5) if towards_one else (0.5, 1))) - stats.beta.logpdf(means, 0.5, 0.5)
        weights = np.exp(log_likelihood - log_likelihood.max() + prior[:, None]).sum(axis=1)
        weights = (weights[::-1] if towards_one else weights) / weights.sum()
        posterior = like_these.compute_posterior(tuple(sorted(counts)))
        cumulative = posterior.for_high if towards_one else posterior.for_low
        assert cumulative[1:] == pytest.approx(np.cumsum(weights), abs=1e-9)


def test_the_grid_is_fine_enough() -> None:
    counts = TRAINED[0]

    def integrate_over_correlation(mean: float) -> float:
        def density(rho: float) -> float:
            a, b = mean * (1 - rho) / rho, (1 - mean) * (1 - rho) / rho
            likelihood = math.exp(sum(stats.betabinom.logpmf(k, n, a, b) for k, n in counts) + 25)
            return likelihood * float(stats.beta.pdf(rho, *like_these.PRIOR))

        return float(integrate.fixed_quad(np.vectorize(density), 1e-6, 0.9, n=40)[0])

    means = (np.arange(100) + 0.5) / 100
    likelihood = np.array([integrate_over_correlation(mean) for mean in means])
    low_weights = likelihood * stats.beta.pdf(means, 0.5, 1)
    high_weights = likelihood * stats.beta.pdf(means, 1, 0.5)
    low = np.interp(0.025, np.cumsum(low_weights) / low_weights.sum(), means + 0.005)
    high = np.interp(0.975, np.cumsum(high_weights) / high_weights.sum(), means + 0.005)
    estimate = like_these.estimate_rate_like([counts])
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.002)


@pytest.mark.parametrize(("questions", "answers"), [(8, 30), (8, 100), (24, 50), (48, 10), (1, 30)])
@pytest.mark.parametrize("spread", [1, 3, 8])
def test_no_answer_makes_the_interval_jump(questions: int, answers: int, spread: int) -> None:
    spread = min(spread, questions)
    bounds = []
    for count in range(spread * answers + 1):
        row = [((count + spread - 1 - q) // spread, answers) for q in range(spread)]
        estimate = like_these.estimate_rate_like([row + [(0, answers)] * (questions - spread)])
        assert estimate is not None
        bounds.append(estimate.high)
    assert max(max(two / one, one / two) for one, two in pairwise(bounds)) <= 1.5


def test_the_interval_for_like_questions_is_symmetric() -> None:
    estimate = like_these.estimate_rate_like(TRAINED)
    mirror = like_these.estimate_rate_like([[(n - k, n) for k, n in TRAINED[0]]])
    assert estimate is not None
    assert mirror is not None
    assert (mirror.low, mirror.high) == pytest.approx((1 - estimate.high, 1 - estimate.low), abs=1e-9)


def test_correlated_questions_make_a_difference_surer() -> None:
    moved = [[(k // 2, n) for k, n in TRAINED[0]]]
    shuffled = [sorted(moved[0], reverse=TRAINED[0] == sorted(TRAINED[0]))]
    alike, unlike = (estimate_difference_like(TRAINED, second) for second in (moved, shuffled))
    assert alike is not None
    assert unlike is not None
    assert alike.high - alike.low < unlike.high - unlike.low
    shrunk = like_these.compute_correlation(*([k / n for k, n in table[0]] for table in (TRAINED, moved)))
    r = np.corrcoef(*([k / n for k, n in table[0]] for table in (TRAINED, moved)))[0, 1]
    assert shrunk == pytest.approx(r * 7 / (7 + like_these.FEW_QUESTIONS), abs=1e-12)


@pytest.mark.parametrize("table", [BASE, TRAINED, UNEVEN, [[(0, 30)] * 8], [[(9, 9)] * 3], [[(3, 50)]], SEEDED[:2]])
@pytest.mark.parametrize("level", [0.05, 0.025])
def test_a_rate_for_like_questions_has_the_beta_binomial_interval(table: Table, level: float) -> None:
    estimate = like_these.estimate_rate_like(table, level)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx(compute_like_ends(table, level), abs=1e-9)


HALF = divide_counts(TRAINED, 2)
CONTRASTS = {
    "rise": [(1, TRAINED), (-1, BASE)],
    "fall": [(1, HALF), (-1, TRAINED)],
    "nothing": [(1, CURED), (-1, BASE)],
    "share": [(1, HALF), (-0.4, TRAINED), (-0.6, BASE)],
    "effects": [(1, TRAINED), (-1, BASE), (-1, HALF), (1, CURED)],
    "seeds": [(1, SEEDED), (-1, BASE)],
    "two seeds": [(1, SEEDED[:2]), (-1, BASE)],
    "paired seeds": [(1, divide_counts(SEEDED, 2)), (-1, SEEDED)],
}


@pytest.mark.parametrize("parts", CONTRASTS.values(), ids=CONTRASTS)
def test_both_intervals_of_a_contrast_and_their_p(parts: list[tuple[float, Table]]) -> None:
    for estimate_of, bound in (
        (these.estimate_contrast, compute_contrast),
        (like_these.estimate_contrast_like, compute_like_contrast),
    ):
        estimate = estimate_of(parts)
        assert estimate is not None
        assert (estimate.low, estimate.high) == pytest.approx(bound(parts, 0.05), abs=1e-9)
        assert estimate.p == pytest.approx(compute_p(parts, bound), rel=1e-8, abs=0)
