"""Test differences over questions and seeds against hand-computed tables and against differences of one seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from em.stats import Thresholds, compare_pools
from em.stats.differences import compute_difference, compute_difference_over_seeds
from tests.support.judged import make_verdicts

LIMITS = Thresholds()
Table = list[list[int]]


def make_seed_counts(table: Table, n: int = 50) -> dict[int | None, dict[str, tuple[float, float]]]:
    """Make counts by seed and question from a row of successes for each seed."""
    return {seed: {f"q{i}": (k, n) for i, k in enumerate(row)} for seed, row in enumerate(table)}


FIRST: Table = [[1, 5, 0, 8, 2, 3], [2, 4, 1, 9, 0, 2], [0, 6, 0, 7, 1, 4]]
SECOND: Table = [[9, 20, 3, 30, 12, 22], [18, 30, 12, 40, 22, 28], [4, 16, 2, 24, 7, 17]]


def test_the_variance_is_that_of_questions_and_seeds_less_what_both_hold() -> None:
    paired = compute_difference_over_seeds(make_seed_counts(FIRST), make_seed_counts(SECOND))
    assert paired is not None
    cells = (np.array(SECOND) - np.array(FIRST)) / 50
    s, q = cells.shape
    by_question, by_seed = cells.mean(axis=0), cells.mean(axis=1)
    residuals = cells - by_question[None] - by_seed[:, None] + cells.mean()
    parts = [s * by_question.var(ddof=1), q * by_seed.var(ddof=1), (residuals**2).sum() / (s - 1) / (q - 1)]
    variance = (parts[0] + parts[1] - parts[2]) / (s * q)
    spread = sum(part**2 / df for part, df in zip(parts, (q - 1, s - 1, (s - 1) * (q - 1)), strict=True))
    freedom = (parts[0] + parts[1] - parts[2]) ** 2 / spread
    assert (paired.seeds, paired.questions) == (3, 6)
    assert paired.difference == pytest.approx(cells.mean(), abs=1e-12)
    t = cells.mean() / variance**0.5
    assert paired.p == pytest.approx(2 * stats.t.sf(t, min(freedom, q - 1)), abs=1e-9)
    half = stats.t.ppf(0.975, min(freedom, q - 1)) * variance**0.5
    assert paired.ci_low == pytest.approx(cells.mean() - half, abs=1e-9)
    assert paired.ci_method == "paired_t(question,seed)"


def test_what_only_one_seed_shows_is_less_sure_than_that_seed_says() -> None:
    lucky = [SECOND[0], FIRST[1], FIRST[2]]
    alone = compute_difference(make_seed_counts(FIRST)[0], make_seed_counts(lucky)[0])
    together = compute_difference_over_seeds(make_seed_counts(FIRST), make_seed_counts(lucky))
    assert alone is not None
    assert together is not None
    assert alone.p < 0.05 < together.p


def test_a_base_is_the_same_under_every_seed() -> None:
    base: dict[int | None, dict[str, tuple[float, float]]] = {None: make_seed_counts([[1, 5, 0, 8, 2, 3]])[0]}
    paired = compute_difference_over_seeds(base, make_seed_counts(SECOND))
    assert paired is not None
    expected = (np.array(SECOND) - np.array([1, 5, 0, 8, 2, 3])).mean() / 50
    assert (paired.seeds, paired.difference) == (3, pytest.approx(expected))


def test_only_seeds_and_questions_that_both_have_are_paired() -> None:
    fewer = {seed: counts for seed, counts in make_seed_counts(FIRST).items() if seed != 1}
    assert compute_difference_over_seeds(fewer, make_seed_counts(SECOND)) == compute_difference_over_seeds(
        fewer, {seed: make_seed_counts(SECOND)[seed] for seed in (0, 2)}
    )
    assert compute_difference_over_seeds({0: make_seed_counts(FIRST)[0]}, make_seed_counts(SECOND)) is None
    unshared = {**make_seed_counts(FIRST), 2: {"other": (1, 2)}}
    assert compute_difference_over_seeds(unshared, make_seed_counts(SECOND)) is None


def test_where_hardly_a_question_differs_nothing_is_claimed() -> None:
    paired = compute_difference_over_seeds(make_seed_counts([[0] * 6] * 3), make_seed_counts([[9, 0, 0, 0, 0, 0]] * 3))
    assert paired is not None
    assert paired.p >= 0.5
    assert paired.ci_method == "mover(question,seed)"
    assert paired.ci_low < 0 < paired.difference


def test_chance_is_rarely_called_a_difference() -> None:
    """Two data sets with the same effect: questions and seeds vary, and 5 % of such studies may find a difference."""
    draw = np.random.default_rng(0)
    ps = []
    for _ in range(400):
        level = draw.beta(1.2, 4, 12)[None, None]
        luck = draw.normal(0, 0.05, (2, 3, 1)) + draw.normal(0, 0.05, (2, 3, 12))
        counts = draw.binomial(30, np.clip(level + luck, 0.01, 0.99))
        paired = compute_difference_over_seeds(
            make_seed_counts(counts[0].tolist(), 30), make_seed_counts(counts[1].tolist(), 30)
        )
        assert paired is not None
        ps.append(paired.p)
    assert np.mean(np.array(ps) < 0.05) < 0.06


def test_pools_are_compared_with_their_base_and_each_other() -> None:
    verdicts = make_verdicts([(k, 50) for k in (1, 5, 0, 8, 2, 3)], model="m", fingerprint="m", stage="base", seed=None)
    pools = {}
    for name, table in (("m+a", SECOND), ("m+b", FIRST)):
        for seed, row in enumerate(table):
            mark = f"{name}/{seed}"
            pools[mark] = f"seeds:{name}"
            counts = [(k, 50) for k in row]
            verdicts += make_verdicts(counts, model=name, fingerprint=mark, stage=name.partition("+")[2], seed=seed)
    rows = [row for row in compare_pools(verdicts, LIMITS, pools) if row.convention == "all"]
    families = {(row.first, row.second): (row.family, row.seeds) for row in rows}
    assert families == {
        ("m", "seeds:m+a"): ("stage", 3),
        ("m", "seeds:m+b"): ("stage", 3),
        ("seeds:m+a", "seeds:m+b"): ("sibling", 3),
    }
    expected = compute_difference_over_seeds(make_seed_counts(SECOND), make_seed_counts(FIRST))
    assert expected is not None
    [siblings] = [row for row in rows if row.family == "sibling"]
    assert (siblings.difference, siblings.p) == (pytest.approx(expected.difference), pytest.approx(expected.p))
