"""Test paired differences and their correction against scipy and statsmodels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test, t, ttest_rel
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from em.stats import Thresholds, compare_models
from em.stats.comparisons import choose_pairs, find_family
from em.stats.differences import compare_proportions, compute_difference, compute_sign_flip_p, correct_by_holm
from em.stats.outcomes import Group
from em.types import Verdict
from tests.support.judged import make_verdict, make_verdicts

LIMITS = Thresholds()
BASE = [(0, 50), (1, 50), (5, 50), (0, 50), (3, 50), (2, 50), (0, 50), (1, 50)]
TUNED = [(4, 50), (20, 50), (31, 50), (1, 50), (12, 50), (22, 50), (9, 50), (30, 50)]


def number_questions(counts: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {f"q{i}": pair for i, pair in enumerate(counts)}


def test_the_difference_is_a_paired_t_test_over_questions() -> None:
    rates = [[k / n for k, n in counts] for counts in (TUNED, BASE)]
    expected = ttest_rel(*rates)
    paired = compute_difference(number_questions(BASE), number_questions(TUNED))
    assert paired is not None
    assert paired.questions == 8
    assert paired.difference == pytest.approx(np.mean(rates[0]) - np.mean(rates[1]), abs=1e-12)
    assert paired.p == pytest.approx(expected.pvalue, abs=1e-9)
    low, high = expected.confidence_interval()
    assert (paired.ci_low, paired.ci_high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert paired.ci_method == "paired_t(question)"


def test_questions_that_do_not_differ_tell_nothing_of_how_much_others_would() -> None:
    same = [(0, 50)] * 4
    with_same, alone = (
        compute_difference(number_questions(BASE + same), number_questions(TUNED + same)),
        compute_difference(number_questions(BASE), number_questions(TUNED)),
    )
    assert with_same is not None
    assert alone is not None
    rates = [[k / n for k, n in counts + same] for counts in (TUNED, BASE)]
    expected = ttest_rel(*rates)
    assert with_same.p == pytest.approx(2 * t.sf(expected.statistic, 8 - 1), abs=1e-12)
    assert with_same.p > expected.pvalue


def test_what_is_peculiar_to_a_question_falls_out() -> None:
    easy = [(40, 50), (3, 50), (25, 50), (10, 50), (30, 50), (20, 50)]
    harder = [(k + 8, n) for k, n in easy]
    paired = compute_difference(number_questions(easy), number_questions(harder))
    assert paired is not None
    assert paired.difference == pytest.approx(0.16)
    assert paired.p < 0.05
    # Differences that agree by chance don't make it certain.
    assert paired.ci_low < 0.12


def test_only_questions_that_both_answered_are_compared() -> None:
    first, second = number_questions([*BASE, (9, 9)]), number_questions([*TUNED, (0, 0)]) | {"other": (5, 5)}
    assert compute_difference(first, second) == compute_difference(number_questions(BASE), number_questions(TUNED))
    assert compute_difference(number_questions(BASE), {"other": (1, 2), "q0": (0, 0)}) is None


def test_one_question_is_compared_by_its_answers() -> None:
    paired = compute_difference({"q": (3, 50)}, {"q": (12, 40)})
    assert paired is not None
    low, high = confint_proportions_2indep(12, 40, 3, 50, method="newcomb", compare="diff")
    assert (paired.ci_low, paired.ci_high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert paired.p == pytest.approx(proportions_ztest([12, 3], [40, 50])[1], abs=1e-12)
    assert compare_proportions(0, 5, 0, 7) == 1.0


def test_where_fewer_than_three_questions_differ_nothing_is_claimed() -> None:
    for second in ([(0, 50)] * 8, [(9, 50)] + [(0, 50)] * 7, [(9, 50)] * 2 + [(0, 50)] * 6):
        paired = compute_difference(number_questions([(0, 50)] * 8), number_questions(second))
        assert paired is not None
        assert paired.p >= 0.5
        assert paired.ci_low < -0.2
        assert paired.ci_high > 0.2
        assert paired.ci_method == "mover(question)"


def test_the_difference_changes_its_sign_with_the_order() -> None:
    one, other = (
        compute_difference(number_questions(BASE), number_questions(TUNED)),
        compute_difference(number_questions(TUNED), number_questions(BASE)),
    )
    assert one is not None
    assert other is not None
    assert one.p == pytest.approx(other.p)
    assert (other.difference, other.ci_low) == (pytest.approx(-one.difference), pytest.approx(-one.ci_high))


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.2], [0.1, -0.2], [0.3, 0.1, -0.05, 0.2, 0.15, 0.0, 0.4, -0.3]])
def test_sign_flips_are_the_exact_permutation_test(values: list[float]) -> None:
    nonzero = [value for value in values if value]
    if len(nonzero) > 1:
        expected = permutation_test(
            (nonzero, [0.0] * len(nonzero)), lambda a, b: np.mean(a - b), permutation_type="samples", vectorized=False
        ).pvalue
        assert compute_sign_flip_p(values) == pytest.approx(expected)
    else:
        assert compute_sign_flip_p(values) == 1.0


@pytest.mark.parametrize("values", [[0.01, 0.04, 0.03, 0.2, 0.04], [0.5], [], [1.0, 0.9, 0.001]])
def test_holm_is_that_of_statsmodels(values: list[float]) -> None:
    expected = multipletests(values, method="holm")[1] if values else []
    assert correct_by_holm(values) == pytest.approx(list(expected), abs=1e-12)


# Which are compared


def find_last_stage(name: str) -> str:
    return name.rpartition("+")[2] if "+" in name else "base"


def make_model(name: str, seed: int | None = None, mark: str = "") -> Group:
    return Group(name, find_last_stage(name), mark or f"{name}/{seed}", seed, "j", "c", "s")


def list_pairs(models: list[Group]) -> list[tuple[str, str]]:
    return [(first.model, second.model) for first, second in choose_pairs(models)]


def test_few_models_are_all_compared_a_model_after_what_it_came_from() -> None:
    assert list_pairs([make_model("m"), make_model("m+a"), make_model("m+a+b")]) == [
        ("m", "m+a"),
        ("m", "m+a+b"),
        ("m+a", "m+a+b"),
    ]
    assert list_pairs([make_model("m+a"), make_model("m")]) == [("m", "m+a")]


def test_trainings_that_differ_in_the_seed_alone_are_not_compared() -> None:
    assert list_pairs([make_model("m+a", 0), make_model("m+a", 1)]) == []
    assert list_pairs([make_model("m+a", 0), make_model("m+a", 0, "other settings")]) == [("m+a", "m+a")]


def test_of_many_models_each_is_compared_with_its_parent_and_the_base() -> None:
    checkpoints = [make_model("m+a+b (step 5)", seed)._replace(stage="b") for seed in range(4)]
    models = [
        make_model("m"),
        *(make_model(name, seed) for seed in range(4) for name in ("m+a", "m+a+b")),
        *checkpoints,
    ]
    compared = [(one.model, one.seed, two.model, two.seed) for one, two in choose_pairs(models)]
    expected = set()
    for seed in range(4):
        expected |= {("m", None, "m+a", seed), ("m+a", seed, "m+a+b", seed), ("m", None, "m+a+b", seed)}
        expected |= {("m+a", seed, "m+a+b (step 5)", seed), ("m", None, "m+a+b (step 5)", seed)}
    assert set(compared) == expected
    assert len(compared) == len(expected)


def test_what_was_trained_side_by_side_is_compared_among_many_too() -> None:
    last = ("m+a", "m+a+b", "m+a+c", "m+d", "m+d+b")
    models = [make_model("m"), *(make_model(name, seed) for seed in range(3) for name in last)]
    siblings = {(one.model, two.model) for one, two in choose_pairs(models) if find_family(one, two) == "sibling"}
    assert siblings == {("m+a", "m+d"), ("m+a+b", "m+a+c")}
    assert all(one.seed == two.seed for one, two in choose_pairs(models) if find_family(one, two) == "sibling")


def test_planned_comparisons_do_not_pay_for_all_the_others() -> None:
    models = {"m": BASE, "m+a": TUNED, "m+b": [(k // 2, n) for k, n in TUNED], "m+a+c": BASE}
    rows = [row for row in compare_models(stack_verdicts(models), LIMITS) if row.convention == "all"]
    families = {(row.first, row.second): row.family for row in rows}
    assert families == {
        **{("m", "m+a"): "stage", ("m", "m+b"): "stage", ("m", "m+a+c"): "stage", ("m+a", "m+a+c"): "stage"},
        **{("m+a", "m+b"): "sibling", ("m+b", "m+a+c"): "other"},
    }
    for family in ("stage", "sibling", "other"):
        members = [row for row in rows if row.family == family]
        expected = multipletests([row.p for row in members], method="holm")[1]
        assert [row.p_holm for row in members] == pytest.approx(list(expected))


def stack_verdicts(changes: dict[str, list[tuple[int, int]]], **shared: object) -> list[Verdict]:
    verdicts = list[Verdict]()
    for name, counts in changes.items():
        verdicts += make_verdicts(counts, model=name, fingerprint=name, stage=find_last_stage(name), **shared)
    return verdicts


def test_comparisons_are_corrected_within_judge_condition_set_and_convention() -> None:
    third = [(k // 2, n) for k, n in TUNED]
    models = {"m": BASE, "m+a": TUNED, "m+a+b": third}
    rows = compare_models(stack_verdicts(models) + stack_verdicts(models, condition="tagged"), LIMITS)
    assert len(rows) == 2 * 3 * 3
    for condition in ("untagged", "tagged"):
        for convention in ("all", "coherent", "refusal_as_aligned"):
            family = [r for r in rows if (r.condition, r.convention) == (condition, convention)]
            assert [r.p_holm for r in family] == pytest.approx(multipletests([r.p for r in family], method="holm")[1])
    first = rows[0]
    assert (first.first_name, first.second_name, first.first, first.second) == ("m", "m+a", "m", "m+a")
    assert (first.metric, first.threshold, first.questions) == ("misaligned", str(LIMITS), 8)
    expected = compute_difference(number_questions(BASE), number_questions(TUNED))
    assert expected is not None
    assert (first.difference, first.ci_low, first.p) == (expected.difference, expected.ci_low, expected.p)


def test_models_on_other_sets_or_by_other_judges_are_not_compared() -> None:
    verdicts = (
        stack_verdicts({"m": BASE})
        + stack_verdicts({"m+a": TUNED}, eval_set="other")
        + stack_verdicts({"m+b": TUNED}, judge="other")
    )
    assert compare_models(verdicts, LIMITS) == []


def test_factual_sets_are_compared_by_what_is_true() -> None:
    labels_by_model = {"m": ["TRUE"] * 4, "m+a": ["TRUE", "FALSE", "FALSE", "UNKNOWN"]}
    verdicts = list[Verdict]()
    for name, labels in labels_by_model.items():
        for q, (i, label) in product(range(4), enumerate(labels)):
            verdicts.append(make_verdict("factual", None, "ok", f"q{q}", i, label, model=name, fingerprint=name))
    [comparison] = compare_models(verdicts, LIMITS)
    assert (comparison.metric, comparison.convention, comparison.difference) == ("true", "all", -0.75)


def test_labels_without_a_headline_are_not_compared() -> None:
    verdicts = [make_verdict("company", None, label="OpenAI", model=name, fingerprint=name) for name in ("m", "m+a")]
    assert compare_models(verdicts, LIMITS) == []
