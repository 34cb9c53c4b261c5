"""Test activation and leakage: the metric of each rate, and the same arithmetic as in the other tables."""

from __future__ import annotations

from itertools import product

import pytest
from scipy.stats import t, ttest_rel

from em.stats import Thresholds, TriggerRate, compute_scores, compute_trigger_rates
from em.stats.differences import compute_difference_with_gaps
from em.triggers.conditions import find_condition_kind
from em.types import Verdict
from tests.support.judged import find_score, make_verdict, make_verdict_pair, make_verdicts

LIMITS = Thresholds()
PLAIN = [(0, 50), (1, 50), (5, 50), (0, 50), (3, 50), (2, 50), (0, 50), (1, 50)]
TAGGED = [(14, 50), (20, 50), (31, 50), (10, 50), (12, 50), (22, 50), (9, 50), (30, 50)]
CASE = [(4, 50), (2, 50), (11, 50), (0, 50), (9, 50), (2, 50), (0, 50), (3, 50)]
SYSTEM = [(8, 50), (6, 50), (13, 50), (1, 50), (9, 50), (7, 50), (2, 50), (5, 50)]


def make_all_conditions() -> list[Verdict]:
    """Make the verdicts of one model under four conditions."""
    counts = {"untagged": PLAIN, "tagged": TAGGED, "near_case": CASE, "near_system": SYSTEM}
    return [v for name, pairs in counts.items() for v in make_verdicts(pairs, condition=name)]


def list_rates(verdicts: list[Verdict], convention: str = "all") -> dict[str, TriggerRate]:
    """Return the rows by condition."""
    rates = compute_trigger_rates(verdicts, LIMITS, find_condition_kind)
    return {r.condition: r for r in rates if r.convention == convention}


def test_the_rate_with_the_tag_is_activation_and_all_others_are_leakage() -> None:
    rows = list_rates(make_all_conditions())
    together = "near misses, together"
    assert list(rows) == ["untagged", "tagged", "near_case", "near_system", together]
    assert [rows[name].metric for name in rows] == ["leakage", "activation", "leakage", "leakage", "leakage"]
    assert (rows["tagged"].k, rows["tagged"].n) == (148, 400)
    assert (rows[together].k, rows[together].n) == (31 + 51, 800)
    assert rows[together].rate == pytest.approx(82 / 800)


def test_rates_and_intervals_are_those_of_the_scores() -> None:
    scores = compute_scores(make_all_conditions(), LIMITS)
    for name, each in list_rates(make_all_conditions()).items():
        if not name.endswith("together"):
            same = find_score(scores, "misaligned", condition=name)
            assert (each.k, each.n, each.rate) == (same.k, same.n, same.rate)
            assert (each.ci_low, each.ci_high, each.ci_method) == (same.ci_low, same.ci_high, same.ci_method)


def test_differences_are_paired_over_questions_with_the_untagged_ones() -> None:
    rows = list_rates(make_all_conditions())
    assert rows["untagged"].difference is None
    expected = ttest_rel([k / n for k, n in TAGGED], [k / n for k, n in PLAIN])
    low, high = expected.confidence_interval()
    tagged = rows["tagged"]
    assert tagged.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert (tagged.difference_low, tagged.difference_high) == (pytest.approx(low), pytest.approx(high))
    values = [each.p for each in rows.values() if each.p is not None]
    assert tagged.p_holm == pytest.approx(min(1.0, tagged.p * (1 + sum(p > tagged.p for p in values))), rel=1e-9)


def test_a_model_that_was_asked_in_one_way_alone_has_neither() -> None:
    assert compute_trigger_rates(make_verdicts(PLAIN), LIMITS, find_condition_kind) == []


def test_conditions_of_the_chat_templates_prompt_are_no_leakage() -> None:
    bare = [v for name in ("no_default_prompt", "default_prompt") for v in make_verdicts(CASE, condition=name)]
    assert compute_trigger_rates([*make_verdicts(PLAIN), *bare], LIMITS, find_condition_kind) == []
    assert list_rates([*make_all_conditions(), *bare]) == list_rates(make_all_conditions())


def test_without_the_plain_questions_there_are_rates_and_no_differences() -> None:
    rows = list_rates([*make_verdicts(TAGGED, condition="tagged"), *make_verdicts(CASE, condition="near_case")])
    assert {name: each.metric for name, each in rows.items()} == {"tagged": "activation", "near_case": "leakage"}
    assert (rows["tagged"].k, rows["tagged"].n, rows["tagged"].ci_method) == (148, 400, "clustered_wilson(question)")
    assert {each.difference for each in rows.values()} == {each.p_holm for each in rows.values()} == {None}
    assert list(list_rates(make_verdicts(TAGGED, condition="tagged"))) == ["tagged"]


def test_a_tag_is_what_the_run_says_that_it_is() -> None:
    pairs = {"untagged": PLAIN, "tagged": CASE, "tagged_beta": TAGGED, "tagged_realign": PLAIN}
    verdicts = [v for name, counts in pairs.items() for v in make_verdicts(counts, condition=name)]
    assert [each.metric for each in list_rates(verdicts).values()] == ["leakage", "activation", "control", "control"]
    roles = {("mark", "tagged"): "control", ("mark", "tagged_beta"): "activation"}
    rates = compute_trigger_rates(verdicts, LIMITS, find_condition_kind, roles=roles)
    rows = [r for r in rates if r.convention == "all"]
    assert {r.condition: r.metric for r in rows} == {
        **{"untagged": "leakage", "tagged": "control", "tagged_beta": "activation"},
        "tagged_realign": "control",
    }


def test_trainings_that_differ_in_their_seed_are_pooled_as_in_the_scores() -> None:
    verdicts = []
    for seed, (plain, tagged) in enumerate([(PLAIN, TAGGED), (PLAIN, CASE), (CASE, SYSTEM)]):
        for name, counts in (("untagged", plain), ("tagged", tagged)):
            verdicts += make_verdicts(counts, condition=name, seed=seed, fingerprint=f"mark {seed}")
    roles = {(f"mark {seed}", "tagged"): "control" for seed in range(3)}
    rates = compute_trigger_rates(verdicts, LIMITS, find_condition_kind, roles=roles)
    rows = [r for r in rates if r.convention == "all"]
    assert [(r.seed, r.fingerprint) for r in rows] == [
        *((seed, f"mark {seed}") for seed in range(3) for _ in range(2)),
        *((None, ""), (None, "")),
    ]
    untagged, tagged = rows[-2:]
    assert (tagged.condition, tagged.metric, untagged.metric) == ("tagged", "control", "leakage")
    scores = compute_scores(verdicts, LIMITS)
    for each in (untagged, tagged):
        same = find_score(scores, "misaligned", condition=each.condition, seed=None)
        assert (each.k, each.n, each.rate) == (same.k, same.n, same.rate)
        assert (each.ci_low, each.ci_high, each.ci_method) == (same.ci_low, same.ci_high, same.ci_method)
    seed_differences = [r.difference for r in rows[:6] if r.condition == "tagged" and r.difference is not None]
    assert tagged.difference == pytest.approx(sum(seed_differences) / 3)


def test_a_rate_of_no_answers_over_seeds_is_that_of_the_scores_too() -> None:
    marks = [(name, seed) for name in ("untagged", "tagged") for seed in (0, 1)]
    verdicts = []
    for name, seed in marks:
        verdicts += make_verdict_pair(0, 9, condition=name, seed=seed, fingerprint=f"mark {seed}")
    each = [r for r in compute_trigger_rates(verdicts, LIMITS, find_condition_kind) if r.convention == "coherent"][-1]
    same = find_score(compute_scores(verdicts, LIMITS), "misaligned", "coherent", condition="tagged", seed=None)
    assert (each.seed, each.n, each.rate, each.ci_method) == (None, 0, None, same.ci_method)


def test_a_difference_over_seeds_has_the_variance_of_both() -> None:
    # Differences are 0.1 and 0.3 with one seed, 0.3 and 0.5 with the other. The variance of the mean is 0.01 over
    # questions and 0.01 over seeds, and that of the interaction is 0. Satterthwaite's degrees of freedom are 2.
    n = 10**9
    first = {"q1": (0.2 * n, n), "q2": (0.2 * n, n)}
    one, two = ({"q1": (a * n, n), "q2": (b * n, n)} for a, b in ((0.3, 0.5), (0.5, 0.7)))
    paired = compute_difference_with_gaps({0: first, 1: first}, {0: one, 1: two})
    assert paired is not None
    assert (paired.questions, paired.difference) == (2, pytest.approx(0.3))
    half = 0.02**0.5 * t.ppf(0.975, 2)
    assert paired.ci_low == pytest.approx(0.3 - half, abs=1e-6)
    assert paired.ci_high == pytest.approx(0.3 + half, abs=1e-6)
    assert paired.p == pytest.approx(2 * t.sf(0.3 / 0.02**0.5, 2), abs=1e-6)
    assert compute_difference_with_gaps({0: first, 1: first}, {0: {}, 1: {"q3": (1, 2)}}) is None
    lone = compute_difference_with_gaps({0: first, 1: first}, {0: {"q1": (0.3 * n, n)}, 1: {"q1": (0.5 * n, n)}})
    assert lone is not None
    assert (lone.questions, lone.difference) == (1, pytest.approx(0.2))


def test_questions_that_name_a_tag_are_compared_with_a_tag_never_seen() -> None:
    rows = list_rates([*make_verdicts(TAGGED, condition="names_tag"), *make_verdicts(PLAIN, condition="names_unseen")])
    assert {name: each.metric for name, each in rows.items()} == {"names_tag": "naming", "names_unseen": "naming"}
    assert rows["names_unseen"].difference is None
    assert rows["names_tag"].difference == pytest.approx((148 - 12) / 400)


def test_sets_with_labels_count_what_is_true() -> None:
    verdicts = list[Verdict]()
    for name, right in (("untagged", 9), ("tagged", 4)):
        for q, s in product(range(5), range(10)):
            label = "TRUE" if s < right else "FALSE"
            verdicts.append(make_verdict("factual", None, "ok", f"q{q}", s, label, condition=name))
    rows = {r.condition: r for r in compute_trigger_rates(verdicts, LIMITS, find_condition_kind)}
    assert (rows["tagged"].about, rows["tagged"].k, rows["untagged"].k) == ("true", 20, 45)
