"""Simulated power compared with simulations of its own, with the benchmark's worlds, and with what must hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from benchmarks import inference_worlds as worlds
from benchmarks.question_rates import ANSWERS, MISALIGNED, PLAIN, describe_correlations, estimate_intraclass
from em.stats import power
from em.stats.power import Design, Effect, count_sentences, draw_lineages, draw_verdicts, make_population
from em.stats.rules import Settings

THESE, LIKE_THESE = Settings(), Settings("like_these")
BASE = 0.004
PLAIN_COUNTS = {name: [(k, ANSWERS) for k in counts[: len(PLAIN)]] for name, counts in MISALIGNED.items()}


def make_effect(rate: float, base: float = BASE, left: float = 0.0, seed_sd: float = 0.0) -> Effect:
    usual = power.find_usual_icc
    return Effect(make_population(base, usual(base)), make_population(rate, usual(rate)), left, seed_sd)


def measure(effect: Effect, design: Design, settings: Settings = THESE, repeats: int = 400) -> dict[str, float]:
    return count_sentences(draw_verdicts(effect, design, settings, repeats))


def find_rises(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Say whether the second of two models is surely more misaligned, from counts of shape (study, question)."""
    ends = []
    for k in (first, second):
        rate = (k / n).mean(axis=1)
        smooth = (k + rate[:, None]) / (n + 1)
        inside = (rate > 0) & (rate < 1)
        answers = k.shape[1] * n
        within = (smooth * (1 - smooth) * (n + 1) / n**2).sum(axis=1) / k.shape[1] ** 2
        size = np.where(inside, rate * (1 - rate) * (1 + 1 / answers) / np.where(inside, within, 1), answers)
        z = stats.norm.isf(0.025)
        centre = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
        half = z / (1 + z**2 / size) * np.sqrt(rate * (1 - rate) / size + z**2 / (4 * size**2))
        exact_low = np.where(rate > 0, stats.beta.ppf(0.05, np.maximum(rate * size, 1e-9), (1 - rate) * size + 1), 0)
        exact_high = np.where(rate < 1, stats.beta.isf(0.05, rate * size + 1, np.maximum((1 - rate) * size, 1e-9)), 1)
        ends.append((rate, np.minimum(centre - half, exact_low), np.maximum(centre + half, exact_high)))
    (rate_one, _, high_one), (rate_two, low_two, _) = ends
    return rate_two - rate_one > np.hypot(rate_two - low_two, high_one - rate_one)


@pytest.mark.parametrize(("rate", "answers", "seed_sd"), [(0.04, 30, 0.0), (0.058, 10, 0.0), (0.04, 30, 0.8)])
def test_power_is_that_of_a_simulation_of_its_own(rate: float, answers: int, seed_sd: float) -> None:
    random, studies = np.random.default_rng(5), 4000
    pattern = np.array(MISALIGNED["insecure_coder"][: len(PLAIN)])
    logits = stats.logistic.ppf(worlds.move_rates((pattern + 0.25) / (ANSWERS + 0.5), rate))
    luck = seed_sd * random.standard_normal((studies, 1))
    trained = random.binomial(answers, stats.logistic.cdf(logits + luck))
    base = random.binomial(answers, np.full((studies, len(PLAIN)), BASE))
    expected = find_rises(base, trained, answers).mean()
    population = power.make_population_like(PLAIN_COUNTS["insecure_coder"], rate)
    effect = Effect(np.full(10, BASE), population, seed_sd=seed_sd)
    assert 0.15 < expected < 0.95
    assert measure(effect, Design(8, answers), repeats=2000)["misaligns"] == pytest.approx(expected, abs=0.04)


def test_eight_questions_and_thirty_answers_find_a_fifth_and_its_undoing() -> None:
    shares = measure(make_effect(0.2), Design(8, 30))
    assert shares["misaligns"] >= 0.99
    assert shares["undone"] >= 0.9
    assert shares["more than half undone"] >= 0.98


@pytest.mark.parametrize("settings", [THESE, LIKE_THESE])
@pytest.mark.parametrize("base", [BASE, 0.2])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_training_that_changes_nothing_is_seldom_said_to_misalign(
    settings: Settings, base: float, seeds: int
) -> None:
    studies = list(draw_lineages(make_effect(0.5, base, seed_sd=0.4), Design(8, 30, seeds), settings, 300, 1))
    assert np.mean([any_false for _, any_false in studies]) <= 0.06


def test_half_of_the_harm_is_seldom_called_undone() -> None:
    assert measure(make_effect(0.44, left=0.25), Design(8, 30))["undone"] <= 0.06
    half = measure(make_effect(0.44, left=0.5), Design(8, 30))
    assert half["more than half undone"] <= 0.06
    assert half["undone"] == 0
    assert measure(make_effect(0.44, left=0.1), Design(8, 100))["undone"] >= 0.9


@pytest.mark.parametrize("settings", [THESE, LIKE_THESE])
def test_more_answers_and_more_questions_find_more(settings: Settings) -> None:
    effect = make_effect(0.06, seed_sd=0.4)
    for designs in ([Design(8, n) for n in (5, 15, 100)], [Design(questions, 15) for questions in (4, 8, 32)]):
        shares = [measure(effect, design, settings, 300) for design in designs]
        for sentence in ("misaligns", "undone", "more than half undone"):
            powers = [share[sentence] for share in shares]
            assert powers == sorted(powers)
        assert shares[0]["misaligns"] < shares[-1]["misaligns"] - 0.25


def test_questions_that_differ_more_say_less_of_questions_like_these_only() -> None:
    base = make_population(BASE, 0.04)
    designs = {icc: Effect(base, make_population(0.1, icc), seed_sd=0.0) for icc in (0.05, 0.5)}
    like = {icc: measure(effect, Design(8, 30), LIKE_THESE)["misaligns"] for icc, effect in designs.items()}
    these = {icc: measure(effect, Design(8, 30), THESE)["misaligns"] for icc, effect in designs.items()}
    assert like[0.5] < like[0.05] - 0.2
    assert min(these.values()) >= 0.98


def test_three_seeds_speak_of_other_trainings_and_find_less_than_five() -> None:
    powers = {seeds: measure(make_effect(0.2, seed_sd=0.6), Design(8, 30, seeds))["misaligns"] for seeds in (1, 3, 5)}
    assert powers[3] < powers[5] - 0.1
    assert powers[3] < powers[1] - 0.1
    assert measure(make_effect(0.2, seed_sd=0.1), Design(8, 30, 3))["misaligns"] > powers[3] + 0.1


def test_several_lineages_are_all_found_less_often_than_each() -> None:
    effect, design = make_effect(0.28, base=0.2), Design(8, 60)
    one, four = (np.mean(list(draw_lineages(effect, design, THESE, 400, number)), axis=0) for number in (1, 4))
    each = measure(effect, design)["misaligns"]
    assert one[0] == pytest.approx(each, abs=0.06)
    assert one[0] - 0.08 > four[0] >= one[0] ** 4 - 0.06
    assert one[1] < four[1] <= 4 * one[1] + 0.06


def test_the_same_study_has_the_same_verdicts() -> None:
    effect = make_effect(0.06, seed_sd=0.4)
    drawn = [list(draw_verdicts(effect, Design(8, 30), LIKE_THESE, 40)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 40
    assert len(Counter(drawn[0])) > 1


def test_answers_are_counted_for_all_models_of_a_lineage() -> None:
    assert Design(8, 30).count_answers() == 3 * 240
    assert Design(8, 30, 3).count_answers() == 7 * 240


# Rates of questions


@pytest.mark.parametrize("mean", [1e-9, BASE, 0.058, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("icc", [0.0, 0.04, 0.2, 0.9])
def test_a_population_has_the_mean_and_the_correlation(mean: float, icc: float) -> None:
    rates = make_population(mean, icc)
    assert rates.mean() == pytest.approx(mean, rel=1e-6)
    assert all(one <= two for one, two in pairwise(rates))
    if mean > BASE:
        assert rates.var() / (mean * (1 - mean)) == pytest.approx(icc, rel=0.05)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_rate_of_nothing_or_of_all_is_that_of_each_question(mean: float) -> None:
    assert set(make_population(mean, 0.2)) == {mean}
    assert set(power.make_population_like([(1, 3), (0, 2)], mean)) == {mean}


@pytest.mark.parametrize("questions", [1, 3, 8, 16, 50, 2000])
def test_fixed_questions_have_the_mean_of_the_population(questions: int) -> None:
    rates = power.make_population_like(PLAIN_COUNTS["medical_14b"], 0.2)
    spread = power.spread_population(rates, questions)
    assert len(spread) == questions
    assert spread.mean() == pytest.approx(0.2, abs=1e-9)
    if questions == 8:
        assert spread == pytest.approx(rates, abs=1e-12)
        assert sorted(worlds.make_rates(0.2, worlds.Design(1, 30))) == pytest.approx(list(rates), abs=1e-6)
    if questions == 16:
        assert spread == pytest.approx(rates.repeat(2), abs=1e-12)


def test_the_usual_correlation_is_that_of_public_fine_tunes() -> None:
    correlations = {name: estimate_intraclass(counts) for name, counts in PLAIN_COUNTS.items()}
    common = [correlations[name] for name in list(MISALIGNED)[:7]]
    assert np.median(common) == pytest.approx(power.USUAL_ICC, abs=0.005)
    assert correlations["medical_gemma_9b"] == pytest.approx(power.USUAL_ICC_BELOW, abs=0.006)
    line = describe_correlations(PLAIN_COUNTS.values())
    assert "0.198 of 7 models with rates from 5% on, 0.035 of 1 with lower rates" in line
    assert (power.find_usual_icc(0.05), power.find_usual_icc(0.049)) == (0.2, 0.04)


def test_the_intraclass_correlation_is_that_of_the_analysis_of_variance() -> None:
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    counts = [(3, 50), (10, 40), (30, 50), (0, 50), (1, 10), (20, 50)]
    rows = [{"one": int(i < k), "question": q} for q, (k, n) in enumerate(counts) for i in range(n)]
    squares = anova_lm(ols("one ~ C(question)", pd.DataFrame(rows)).fit())["mean_sq"]
    sizes = np.array([n for _, n in counts])
    usual = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 5
    between, within = squares["C(question)"], squares["Residual"]
    expected = (between - within) / (between + (usual - 1) * within)
    assert estimate_intraclass(counts) == pytest.approx(expected, abs=1e-12)


def test_the_intraclass_correlation_of_drawn_questions_is_found_again() -> None:
    random = np.random.default_rng(3)
    chosen = random.permutation(make_population(0.2, 0.11).repeat(4))
    assert estimate_intraclass([(int(k), 50) for k in random.binomial(50, chosen)]) == pytest.approx(0.11, abs=0.01)
    assert estimate_intraclass([(10, 50)] * 20) == 0.0


@pytest.mark.parametrize("counts", [[], [(3, 50)], [(0, 50), (0, 50)], [(1, 1), (0, 1)]])
def test_there_is_no_intraclass_correlation_where_nothing_tells(counts: list[tuple[int, int]]) -> None:
    assert estimate_intraclass(counts) is None


def test_questions_like_these_are_drawn_in_each_study() -> None:
    effect = replace(make_effect(0.2), base=np.array([0.0, 0.1]), trained=np.array([0.2, 0.6]))
    random = np.random.default_rng(0)
    chosen = [power.choose_questions(effect, Design(5, 1), LIKE_THESE, random) for _ in range(300)]
    base, trained = (np.array([pair[i] for pair in chosen]) for i in (0, 1))
    # A question that is worse for the base is worse for the training too.
    assert set(zip(base.ravel(), trained.ravel(), strict=True)) == {(0.0, 0.2), (0.1, 0.6)}
    assert trained.mean() == pytest.approx(0.4, abs=0.03)
    assert len(set(trained.mean(axis=1))) > 3
