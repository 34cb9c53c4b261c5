"""Rates under adaptive sampling: no bias, computed exactly over all that sampling can come to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from em.stats import Stopping, Thresholds, cluster_interval, compare, confidence_sequence, enough, score
from em.types import Verdict
from tests.support.judged import asked, graded, row, verdict

LIMITS = Thresholds()
RULE = Stopping(0.1)


def ends(rule: Stopping, rate: float, most: int, prompts: int = 1) -> Iterator[tuple[int, int, float]]:
    """All k of n at which the rule may end, with their exact probabilities."""
    looks = {prompts * asked for asked in rule.rounds(most)}
    reach = {0: 1.0}
    for n in range(1, prompts * most + 1):
        after: dict[int, float] = {}
        for k, chance in reach.items():
            after[k] = after.get(k, 0.0) + chance * (1 - rate)
            after[k + 1] = after.get(k + 1, 0.0) + chance * rate
        reach = after
        if n in looks:
            for k in [k for k in reach if n == prompts * most or enough(k, n, rule.half_width)]:
                yield k, n, reach.pop(k)


def share(rule: Stopping, k: int, n: int, prompts: int = 1) -> float:
    return rule.weight(k, n, prompts)[0] * k / n


@pytest.mark.parametrize("rule", [RULE, Stopping(0.05), Stopping(0.1, first=20, growth=2)])
@pytest.mark.parametrize(("most", "prompts"), [(100, 1), (30, 1), (20, 4)])
@pytest.mark.parametrize("rate", [0.005, 0.02, 0.1, 0.5, 0.97])
def test_the_share_is_right_on_average_whatever_the_rate(rule: Stopping, most: int, prompts: int, rate: float) -> None:
    found = list(ends(rule, rate, most, prompts))
    assert sum(chance for *_, chance in found) == pytest.approx(1)
    assert sum(chance * share(rule, k, n, prompts) for k, n, chance in found) == pytest.approx(rate, abs=1e-12)


def test_the_count_over_the_answers_is_not() -> None:
    assert sum(chance * k / n for k, n, chance in ends(RULE, 0.02, 100)) < 0.016


def test_without_an_earlier_look_nothing_is_changed() -> None:
    for k in range(11):
        assert share(RULE, k, 10) == pytest.approx(k / 10)


def test_weights_add_up_to_the_answers() -> None:
    for k, n, _ in ends(RULE, 0.1, 100):
        misaligned, other = RULE.weight(k, n, 1)
        assert misaligned * k + other * (n - k) == pytest.approx(n)


def test_answers_that_did_not_come_by_the_rule_weigh_the_same() -> None:
    # None of 80 would have ended at the look after 35.
    assert RULE.weight(0, 80, 1) == (1.0, 1.0)
    assert Stopping(0.4).weight(3, 80, 1) == (1.0, 1.0)


COUNTS = [(0, 35), (1, 53), (50, 100), (3, 80), (0, 35)]


def test_the_rates_of_a_set_are_without_the_bias_and_those_of_questions_are_as_counted() -> None:
    scores = score(asked(COUNTS), LIMITS, adaptive=RULE)
    shares = [share(RULE, k, n) for k, n in COUNTS]
    whole = row(scores, "misaligned")
    assert (whole.k, whole.n) == (54, 303)
    assert whole.rate == pytest.approx(sum(shares) / 5)
    assert whole.rate > sum(k / n for k, n in COUNTS) / 5
    expected = cluster_interval([(s * n, n) for s, (_, n) in zip(shares, COUNTS, strict=True)], average=True)
    assert (whole.ci_low, whole.ci_high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert whole.ci_method == "clustered_wilson(question means)"
    second = row(scores, "misaligned", question="q1")
    sequence = confidence_sequence(1, 53)
    assert (second.rate, second.ci_low, second.ci_high) == (1 / 53, sequence.low, sequence.high)


def test_the_other_classes_share_what_is_left() -> None:
    # One question: 5 of 53 misaligned, 3 incoherent, 2 refusals, 43 aligned.
    verdicts = asked([(5, 48)]) + [v for i in (48, 49, 50) for v in graded(90, 20, "q0", i)]
    verdicts += [v for i in (51, 52) for v in graded(90, 90, "q0", i, failed="refusal")]
    found = {(s.convention, s.metric): s.rate for s in score(verdicts, LIMITS, adaptive=RULE) if s.question == "*"}
    misaligned = share(RULE, 5, 53)
    assert misaligned > 5 / 53
    other = (1 - misaligned) / 48
    assert found["all", "misaligned"] == pytest.approx(misaligned)
    assert found["all", "incoherent"] == pytest.approx(3 * other)
    assert found["all", "refusal"] == pytest.approx(2 * other)
    assert found["coherent", "misaligned"] == pytest.approx(misaligned / (misaligned + 43 * other))
    assert found["refusal_as_aligned", "misaligned"] == pytest.approx(misaligned / (misaligned + 45 * other))


def test_wordings_of_a_question_are_prompts_of_it() -> None:
    def worded(k: int, n: int, prompts: int) -> list[Verdict]:
        plain = asked([(k, n)])
        return [Verdict(**(vars(v) | {"question": f"wording {v.sample % prompts}"})) for v in plain]

    found = row(score(worded(3, 70, 2), LIMITS, adaptive=RULE), "misaligned")
    assert found.rate == pytest.approx(share(RULE, 3, 70, prompts=2))
    assert found.rate != pytest.approx(share(RULE, 3, 70))


def test_labels_are_as_counted() -> None:
    said = [verdict("factual", None, sample=i, label="TRUE" if i < 3 else "FALSE") for i in range(35)]
    assert row(score(said, LIMITS, adaptive=RULE), "true").rate == 3 / 35


def test_seeds_are_pooled_without_the_bias() -> None:
    verdicts = [v for seed in (0, 1) for v in asked(COUNTS, seed=seed, fingerprint=str(seed))]
    pool = row(score(verdicts, LIMITS, adaptive=RULE), "misaligned", seed=None)
    assert pool.rate == pytest.approx(sum(share(RULE, k, n) for k, n in COUNTS) / 5)
    assert pool.ci_method == "clustered_wilson(question means,seed)"


def test_differences_are_without_the_bias() -> None:
    second = [(10, 100), (20, 100), (70, 100), (30, 100), (4, 80)]
    verdicts = asked(COUNTS) + asked(second, model="m+a", fingerprint="a")
    [found] = [r for r in compare(verdicts, LIMITS, RULE) if r.convention == "all"]
    shares = [[share(RULE, k, n) for k, n in counts] for counts in (COUNTS, second)]
    assert found.difference == pytest.approx((sum(shares[1]) - sum(shares[0])) / 5)
