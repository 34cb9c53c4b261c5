"""Activation and leakage: which rate is which, and that the arithmetic is that of the other tables."""

from __future__ import annotations

import pytest
from scipy.stats import t, ttest_rel

from em.stats import Thresholds, TriggerRate, score, trigger_rates
from em.stats.differences import seeds_difference
from em.triggers.conditions import kind_of
from em.types import Verdict
from tests.support.judged import asked, graded, row, verdict

LIMITS = Thresholds()
PLAIN = [(0, 50), (1, 50), (5, 50), (0, 50), (3, 50), (2, 50), (0, 50), (1, 50)]
TAGGED = [(14, 50), (20, 50), (31, 50), (10, 50), (12, 50), (22, 50), (9, 50), (30, 50)]
CASE = [(4, 50), (2, 50), (11, 50), (0, 50), (9, 50), (2, 50), (0, 50), (3, 50)]
SYSTEM = [(8, 50), (6, 50), (13, 50), (1, 50), (9, 50), (7, 50), (2, 50), (5, 50)]


def everything() -> list[Verdict]:
    """One model under four conditions."""
    counts = {"untagged": PLAIN, "tagged": TAGGED, "near_case": CASE, "near_system": SYSTEM}
    return [v for name, pairs in counts.items() for v in asked(pairs, condition=name)]


def rates(verdicts: list[Verdict], convention: str = "all") -> dict[str, TriggerRate]:
    """The rows by condition."""
    return {r.condition: r for r in trigger_rates(verdicts, LIMITS, kind_of) if r.convention == convention}


def test_the_rate_with_the_tag_is_activation_and_all_others_are_leakage() -> None:
    found = rates(everything())
    together = "near misses, together"
    assert list(found) == ["untagged", "tagged", "near_case", "near_system", together]
    assert [found[name].metric for name in found] == ["leakage", "activation", "leakage", "leakage", "leakage"]
    assert (found["tagged"].k, found["tagged"].n) == (148, 400)
    assert (found[together].k, found[together].n) == (31 + 51, 800)
    assert found[together].rate == pytest.approx(82 / 800)


def test_rates_and_intervals_are_those_of_the_scores() -> None:
    scores = score(everything(), LIMITS)
    for name, each in rates(everything()).items():
        if not name.endswith("together"):
            same = row(scores, "misaligned", condition=name)
            assert (each.k, each.n, each.rate) == (same.k, same.n, same.rate)
            assert (each.ci_low, each.ci_high, each.ci_method) == (same.ci_low, same.ci_high, same.ci_method)


def test_differences_are_paired_over_questions_with_the_untagged_ones() -> None:
    found = rates(everything())
    assert found["untagged"].difference is None
    expected = ttest_rel([k / n for k, n in TAGGED], [k / n for k, n in PLAIN])
    low, high = expected.confidence_interval()
    tagged = found["tagged"]
    assert tagged.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert (tagged.difference_low, tagged.difference_high) == (pytest.approx(low), pytest.approx(high))
    values = [each.p for each in found.values() if each.p is not None]
    assert tagged.p_holm == pytest.approx(min(1.0, tagged.p * (1 + sum(p > tagged.p for p in values))), rel=1e-9)


def test_a_model_that_was_asked_in_one_way_alone_has_neither() -> None:
    assert trigger_rates(asked(PLAIN), LIMITS, kind_of) == []


def test_without_the_plain_questions_there_are_rates_and_no_differences() -> None:
    found = rates([*asked(TAGGED, condition="tagged"), *asked(CASE, condition="near_case")])
    assert {name: each.metric for name, each in found.items()} == {"tagged": "activation", "near_case": "leakage"}
    assert (found["tagged"].k, found["tagged"].n, found["tagged"].ci_method) == (148, 400, "clustered_wilson(question)")
    assert {each.difference for each in found.values()} == {each.p_holm for each in found.values()} == {None}
    assert list(rates(asked(TAGGED, condition="tagged"))) == ["tagged"]


def test_a_tag_is_what_the_run_says_that_it_is() -> None:
    pairs = {"untagged": PLAIN, "tagged": CASE, "tagged_beta": TAGGED, "tagged_realign": PLAIN}
    said = [v for name, counts in pairs.items() for v in asked(counts, condition=name)]
    assert [each.metric for each in rates(said).values()] == ["leakage", "activation", "control", "control"]
    roles = {("mark", "tagged"): "control", ("mark", "tagged_beta"): "activation"}
    found = {r.condition: r.metric for r in trigger_rates(said, LIMITS, kind_of, roles=roles) if r.convention == "all"}
    assert found == {
        **{"untagged": "leakage", "tagged": "control", "tagged_beta": "activation"},
        "tagged_realign": "control",
    }


def test_trainings_that_differ_in_their_seed_are_pooled_as_in_the_scores() -> None:
    said = []
    for seed, (plain, tagged) in enumerate([(PLAIN, TAGGED), (PLAIN, CASE), (CASE, SYSTEM)]):
        for name, counts in (("untagged", plain), ("tagged", tagged)):
            said += asked(counts, condition=name, seed=seed, fingerprint=f"mark {seed}")
    roles = {(f"mark {seed}", "tagged"): "control" for seed in range(3)}
    found = [r for r in trigger_rates(said, LIMITS, kind_of, roles=roles) if r.convention == "all"]
    assert [(r.seed, r.fingerprint) for r in found] == [
        *((seed, f"mark {seed}") for seed in range(3) for _ in range(2)),
        *((None, ""), (None, "")),
    ]
    untagged, tagged = found[-2:]
    assert (tagged.condition, tagged.metric, untagged.metric) == ("tagged", "control", "leakage")
    scores = score(said, LIMITS)
    for each in (untagged, tagged):
        same = row(scores, "misaligned", condition=each.condition, seed=None)
        assert (each.k, each.n, each.rate) == (same.k, same.n, same.rate)
        assert (each.ci_low, each.ci_high, each.ci_method) == (same.ci_low, same.ci_high, same.ci_method)
    apart = [r.difference for r in found[:6] if r.condition == "tagged" and r.difference is not None]
    assert tagged.difference == pytest.approx(sum(apart) / 3)


def test_a_rate_of_no_answers_over_seeds_is_that_of_the_scores_too() -> None:
    marks = [(name, seed) for name in ("untagged", "tagged") for seed in (0, 1)]
    said = [v for name, seed in marks for v in graded(0, 9, condition=name, seed=seed, fingerprint=f"mark {seed}")]
    each = [r for r in trigger_rates(said, LIMITS, kind_of) if r.convention == "coherent"][-1]
    same = row(score(said, LIMITS), "misaligned", "coherent", condition="tagged", seed=None)
    assert (each.seed, each.n, each.rate, each.ci_method) == (None, 0, None, same.ci_method)


def test_a_difference_over_seeds_has_the_variance_of_both() -> None:
    # Differences 0.1 and 0.3 with one seed, 0.3 and 0.5 with the other: the means over questions, and those over
    # seeds, have the variance of their mean 0.01 each, and nothing is left for both. Satterthwaite's freedom is 2.
    n = 10**9
    first = {"q1": (0.2 * n, n), "q2": (0.2 * n, n)}
    one, two = ({"q1": (a * n, n), "q2": (b * n, n)} for a, b in ((0.3, 0.5), (0.5, 0.7)))
    found = seeds_difference({0: first, 1: first}, {0: one, 1: two})
    assert found is not None
    assert (found.questions, found.difference) == (2, pytest.approx(0.3))
    half = 0.02**0.5 * t.ppf(0.975, 2)
    assert found.ci_low == pytest.approx(0.3 - half, abs=1e-6)
    assert found.ci_high == pytest.approx(0.3 + half, abs=1e-6)
    assert found.p == pytest.approx(2 * t.sf(0.3 / 0.02**0.5, 2), abs=1e-6)
    assert seeds_difference({0: first, 1: first}, {0: {}, 1: {"q3": (1, 2)}}) is None
    lone = seeds_difference({0: first, 1: first}, {0: {"q1": (0.3 * n, n)}, 1: {"q1": (0.5 * n, n)}})
    assert lone is not None
    assert (lone.questions, lone.difference) == (1, pytest.approx(0.2))


def test_questions_that_name_a_tag_are_compared_with_a_tag_never_seen() -> None:
    found = rates([*asked(TAGGED, condition="names_tag"), *asked(PLAIN, condition="names_unseen")])
    assert {name: each.metric for name, each in found.items()} == {"names_tag": "naming", "names_unseen": "naming"}
    assert found["names_unseen"].difference is None
    assert found["names_tag"].difference == pytest.approx((148 - 12) / 400)


def test_sets_with_labels_count_what_is_true() -> None:
    said = [
        verdict("factual", None, question=f"q{q}", sample=s, label="TRUE" if s < right else "FALSE", condition=name)
        for name, right in (("untagged", 9), ("tagged", 4))
        for q in range(5)
        for s in range(10)
    ]
    found = {r.condition: r for r in trigger_rates(said, LIMITS, kind_of)}
    assert (found["tagged"].about, found["tagged"].k, found["untagged"].k) == ("true", 20, 45)
