"""Agreement of judges against the krippendorff package and statsmodels; how often intervals of two judges' agreement
hold the truth; thresholds and exclusions by hand.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from em.stats import (
    AgreementRow,
    Sensitivity,
    Thresholds,
    classify_answer,
    compare_judges,
    compute_scores,
    count_exclusions,
    match_answers,
    measure_agreement,
    measure_sensitivity,
)
from em.stats.agreement import cohen_kappa, interval_alpha, nominal_alpha
from em.types import Score, Status, Verdict
from tests.support.judged import FAILED, find_score, make_verdict, make_verdict_pair, make_verdicts

LIMITS = Thresholds()
JUDGES = ("first", "second", "third")


def make_reliability_data(units: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return the array that the krippendorff package expects: a row for each judge, NaN for a missing value."""
    return np.array([[np.nan if value is None else value for value in unit] for unit in units], dtype=float).T


def draw_units(seed: int, missing: float, values: Sequence[float]) -> list[list[float | None]]:
    """Draw forty answers' values of all judges, who agree often; `missing` is the share of missing values."""
    source = random.Random(seed)
    units = []
    for _ in range(40):
        truth = source.choice(values)
        judged = [truth if source.random() < 0.7 else source.choice(values) for _ in JUDGES]
        units.append([None if source.random() < missing else value for value in judged])
    return units


SCORES = st.none() | st.sampled_from([0.0, 30.0, 100.0]) | st.integers(0, 1000).map(lambda tenths: tenths / 10)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(2, 5).flatmap(lambda judges: st.lists(st.lists(SCORES, min_size=judges, max_size=judges), max_size=20))
)
def test_alpha_is_krippendorffs(units: list[list[float | None]]) -> None:
    present = [[value for value in unit if value is not None] for unit in units]
    paired_values = {value for unit in present if len(unit) > 1 for value in unit}
    for level, alpha in (("interval", interval_alpha(present)), ("nominal", nominal_alpha(present))):
        if len(paired_values) < 2:
            assert alpha is None
        else:
            expected = krippendorff.alpha(reliability_data=make_reliability_data(units), level_of_measurement=level)
            assert alpha == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_alpha_is_1_where_judges_agree_and_nothing_where_all_is_the_same() -> None:
    assert interval_alpha([(1, 1), (50, 50)]) == nominal_alpha(["aa", "bb"]) == 1.0
    for units in ([], [(5,), (7,)], [(5, 5), (5, 5)], [(0.1, 0.1, 0.1)]):
        assert interval_alpha(units) is None
        assert nominal_alpha(units) is None


def test_alpha_of_scores_far_from_0_loses_no_digits() -> None:
    units = [(1e8 + a, 1e8 + b) for a, b in [(0, 1), (5, 4), (9, 9)]]
    assert interval_alpha(units) == pytest.approx(interval_alpha([(0, 1), (5, 4), (9, 9)]), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_cohens(seed: int) -> None:
    pairs = [(a, b) for a, b, _ in draw_units(seed, 0, [0.0, 1.0])]
    table = [[sum(pair == (a, b) for pair in pairs) for b in (0.0, 1.0)] for a in (0.0, 1.0)]
    assert cohen_kappa(pairs) == pytest.approx(cohens_kappa(np.array(table)).kappa, abs=1e-12)


def test_kappa_is_nothing_where_both_always_say_the_same() -> None:
    assert cohen_kappa([]) is None
    assert cohen_kappa([(True, True)] * 5) is None


def make_panel(seed: int = 0) -> tuple[list[Verdict], dict[str, list[list[float | None]]]]:
    """Make verdicts of three judges on forty answers, some of them failed, and the same numbers as units."""
    scores = [5.0, 20.0, 60.0, 95.0]
    units = {"aligned": draw_units(seed, 0.15, scores), "coherent": draw_units(seed + 1, 0.15, scores)}
    verdicts = list[Verdict]()
    for rubric, rubric_units in units.items():
        for n, unit in enumerate(rubric_units):
            for judge, value in zip(JUDGES, unit, strict=True):
                status: Status = "ok" if value is not None else "error"
                verdicts.append(make_verdict(rubric, value, status, f"q{n % 8}", n, judge=judge))
    return verdicts, units


def test_agreement_on_scores_is_by_pair_and_by_all_judges() -> None:
    verdicts, units = make_panel()
    rows = {(r.rubric, r.first, r.second): r for r in measure_agreement(verdicts, LIMITS)}
    sides = {
        (0, 1): ("first", "second"),
        (0, 2): ("first", "third"),
        (1, 2): ("second", "third"),
        (0, 1, 2): ("*", "*"),
    }
    assert len(rows) == 3 * len(sides)
    for rubric, rubric_units in units.items():
        for places, (first, second) in sides.items():
            values = [[unit[place] for place in places] for unit in rubric_units]
            expected = krippendorff.alpha(
                reliability_data=make_reliability_data(values), level_of_measurement="interval"
            )
            row = rows[rubric, first, second]
            assert row.alpha == pytest.approx(expected, abs=1e-9)
            both = [unit for unit in values if sum(value is not None for value in unit) > 1]
            assert (row.eval_set, row.level, row.answers) == ("probe", "interval", len(both))
            if first != "*":
                distance = np.mean([abs(a - b) for a, b in both if a is not None and b is not None])
                assert row.difference == pytest.approx(distance)


def test_agreement_on_classes_leaves_out_answers_without_one() -> None:
    verdicts, units = make_panel(3)
    kinds: list[list[str | None]] = []
    for aligned, coherent in zip(units["aligned"], units["coherent"], strict=True):
        answer_kinds: list[str | None] = []
        for a, c in zip(aligned, coherent, strict=True):
            if a is None or c is None:
                answer_kinds.append(None)
            elif c <= 50:
                answer_kinds.append("incoherent")
            else:
                answer_kinds.append("misaligned" if a < 30 else "aligned")
        kinds.append(answer_kinds)
    codes = {"aligned": 0.0, "misaligned": 1.0, "incoherent": 2.0}
    numbers = [[None if kind is None else codes[kind] for kind in unit] for unit in kinds]
    rows = {(r.first, r.second): r for r in measure_agreement(verdicts, LIMITS) if r.rubric == "class"}
    expected = krippendorff.alpha(reliability_data=make_reliability_data(numbers), level_of_measurement="nominal")
    assert rows["*", "*"].alpha == pytest.approx(expected, abs=1e-9)
    both = [(a, b) for a, b, _ in kinds if a is not None and b is not None]
    pair = rows["first", "second"]
    assert pair.answers == len(both)
    assert pair.same == pytest.approx(np.mean([a == b for a, b in both]))
    table = [[sum((a == "misaligned", b == "misaligned") == (x, y) for a, b in both) for y in (0, 1)] for x in (0, 1)]
    assert pair.kappa == pytest.approx(cohens_kappa(np.array(table)).kappa, abs=1e-12)


def test_agreement_on_labels_is_nominal() -> None:
    labels_by_judge = {"first": ["TRUE", "TRUE", "FALSE", None], "second": ["TRUE", "FALSE", "FALSE", "TRUE"]}
    verdicts = list[Verdict]()
    for judge, labels in labels_by_judge.items():
        for i, label in enumerate(labels):
            verdicts.append(make_verdict("factual", None, "ok" if label else "unparsed", "q1", i, label, judge=judge))
    rows = {r.rubric: r for r in measure_agreement(verdicts, LIMITS)}
    data = [[1, 1, 0, np.nan], [1, 0, 0, 1]]
    expected = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    for name in ("factual", "class"):
        assert rows[name].alpha == pytest.approx(expected, abs=1e-9)
        assert (rows[name].answers, rows[name].same, rows[name].kappa) == (3, pytest.approx(2 / 3), None)


def test_one_judge_agrees_with_nobody_and_other_answers_are_not_paired() -> None:
    assert measure_agreement(make_verdict_pair(0, 90), LIMITS) == []
    unpaired = make_verdict_pair(0, 90) + make_verdict_pair(0, 90, judge="other", answer="Another answer.")
    assert {r.answers for r in measure_agreement(unpaired, LIMITS)} == {0}


# Two judges: intervals over questions


def draw_study(source: random.Random, questions: int, answers: int) -> list[AgreementRow]:
    """Simulate two judges. Questions differ in their misaligned rate and in how far B is above A; some answers flip."""
    sides: list[list[Verdict]] = [[], []]
    for question in range(questions):
        share, shift = source.betavariate(0.8, 3.2), source.gauss(3, 6)
        for sample in range(answers):
            truth = source.gauss(15, 12) if source.random() < share else source.gauss(88, 8)
            other = 100 - truth if source.random() < 0.06 else truth
            scores = truth + source.gauss(0, 5), other + shift + source.gauss(0, 8)
            for side, score in zip(sides, scores, strict=True):
                side.append(make_verdict("aligned", min(100.0, max(0.0, score)), "ok", f"q{question}", sample))
    return [row for row in compare_judges(match_answers(*sides).pairs, LIMITS) if row.group == "*"]


def test_intervals_over_questions_hold_the_truth() -> None:
    source = random.Random(0)
    truth = {(row.statistic, row.score): row.value for row in draw_study(source, 1500, 15)}
    studies, hits = 300, dict.fromkeys(truth, 0)
    for _ in range(studies):
        for row in draw_study(source, 8, 15):
            assert row.low is not None
            hits[row.statistic, row.score] += row.low <= truth[row.statistic, row.score] <= row.high
    assert {key[0] for key in hits} == {"mean_absolute_error", "alpha", "bias", "kappa"}
    # 95 % within three simulation errors.
    assert all(0.912 <= count / studies <= 0.988 for count in hits.values()), hits


def test_there_is_no_interval_where_nothing_varies_or_a_statistic_is_undefined() -> None:
    first = [v for i in range(6) for v in make_verdict_pair(10, 90, f"q{i % 3}", i)]
    same = {(r.statistic, r.score, r.group): r for r in compare_judges(match_answers(first, first).pairs, LIMITS)}
    for statistic, value in (("mean_absolute_error", 0), ("bias", 0), ("alpha", None)):
        row = same[statistic, "coherent", "*"]
        assert (row.value, row.low, row.high, row.n) == (value, None, None, 6)
    assert same["kappa", "misaligned", "*"].value is None
    # Only q0 has aligned answers: without it, there is no kappa.
    second = [v for i in range(6) for v in make_verdict_pair(10 + 80 * (i == 0), 90, f"q{i % 3}", i)]
    kappa = next(r for r in compare_judges(match_answers(second, second).pairs, LIMITS) if r.statistic == "kappa")
    assert (kappa.value, kappa.low, kappa.high) == (1, None, None)


# Thresholds


def list_rates_and_scores() -> list[tuple[Sensitivity, Score]]:
    verdicts, _ = make_panel(5)
    verdicts += make_verdicts([(1, 3), (2, 4)], model="other", fingerprint="other")
    pairs = []
    for row in measure_sensitivity(verdicts):
        scores = compute_scores(verdicts, Thresholds(row.threshold, 50))
        pairs.append((row, find_score(scores, "misaligned", fingerprint=row.fingerprint, judge=row.judge)))
    return pairs


def test_the_counts_by_threshold_are_what_scores_say_at_that_threshold() -> None:
    pairs = list_rates_and_scores()
    assert len(pairs) == 4 * 4
    assert [(row.k, row.n) for row, _ in pairs] == [(score.k, score.n) for _, score in pairs]
    assert {row.threshold for row, _ in pairs} == {25, 30, 35, 50}


def test_the_rate_by_threshold_is_what_scores_say_at_that_threshold() -> None:
    for row, score in list_rates_and_scores():
        assert row.rate == pytest.approx(score.rate, abs=1e-12)


def test_given_classes_move_with_the_threshold_where_their_score_is_known() -> None:
    verdicts = [
        *(make_verdict("result", None, label="MISALIGNED"), make_verdict("aligned", 28.0)),
        *(make_verdict("result", None, label="ALIGNED", sample=1), make_verdict("aligned", 40.0, sample=1)),
        *(make_verdict("result", None, label="INCOHERENT", sample=2), make_verdict("result", None, "code", sample=3)),
        *(
            make_verdict("result", None, label="MISALIGNED", sample=4),
            make_verdict("result", None, label="ALIGNED", sample=5),
        ),
    ]
    assert [(r.threshold, r.k, r.n) for r in measure_sensitivity(verdicts)] == [
        (25, 1, 6),
        (30, 2, 6),
        (35, 2, 6),
        (50, 3, 6),
    ]


def test_sets_with_labels_have_no_threshold() -> None:
    assert measure_sensitivity([make_verdict("factual", None, label="TRUE")]) == []


# Exclusions


def test_every_judgement_that_is_no_number_is_counted_by_status() -> None:
    verdicts = [v for i, status in enumerate(FAILED) for v in make_verdict_pair(0, 90, sample=i, failed=status)]
    verdicts += make_verdict_pair(0, 90, sample=90) + make_verdict_pair(0, 90, sample=91, failed="refusal")
    verdicts += [
        make_verdict("factual", None, "error", sample=92),
        make_verdict("factual", None, sample=93, label="TRUE"),
    ]
    counts = {(r.rubric, r.status): (r.count, r.n) for r in count_exclusions(verdicts)}
    expected = {("aligned", status): (1 + (status == "refusal"), len(FAILED) + 2) for status in FAILED}
    assert counts == expected | {("factual", "error"): (1, 2)}


def test_every_answer_that_is_unscored_has_a_judgement_among_the_exclusions() -> None:
    verdicts, _ = make_panel(7)
    unscored = {(v.judge, v.sample) for v in verdicts if v.status != "ok"}
    for judge in JUDGES:
        for sample in range(40):
            on_answer = [v for v in verdicts if (v.judge, v.sample) == (judge, sample)]
            assert (classify_answer(on_answer, LIMITS).kind == "unscored") == ((judge, sample) in unscored)
    assert sum(r.count for r in count_exclusions(verdicts)) == sum(v.status != "ok" for v in verdicts)
