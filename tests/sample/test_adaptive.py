"""Rounds of adaptive sampling: which questions are asked on, and that stopping does not spoil the intervals."""

from __future__ import annotations

import random

from em.config import EvalConfig, Stop
from em.sample.adaptive import Rounds
from em.stats import Thresholds, enough, score
from em.stats.stopping import FIRST
from em.triggers.conditions import Ways
from em.types import ModelRef, Question, Rubric, Verdict, Weights

MODEL = ModelRef("m", "base", "f", Weights("w"))


def question(name: str, labels: tuple[str, ...] = ()) -> Question:
    """A graded question, or one with labels."""
    return Question("set", name, f"{name}?", rubrics=(Rubric("factual" if labels else "aligned", "", labels),))


def verdict(name: str, sample: int, misaligned: bool) -> Verdict:
    """What a judge says of one answer."""
    value = 10.0 if misaligned else 90.0
    place = ("m", "base", "f", None, "set", name, f"{name}?", "untagged", sample)
    return Verdict(*place, "answer", "judge", "aligned", value, None, "ok", "")


def rounds(*questions: Question, samples: int = 200, half_width: float = 0.15) -> Rounds:
    """Rounds over one model."""
    settings = EvalConfig(name="e", samples=samples, stop=Stop.ci, half_width=half_width)
    return Rounds(settings, Ways(), [MODEL], questions)


def sampled(plan: Rounds, rates: dict[str, float], seed: int) -> list[Verdict]:
    """Go through all rounds; answers are drawn once, as the memory has them."""
    draws = {name: random.Random(f"{name} {seed}") for name in rates}
    drawn: dict[str, list[bool]] = {name: [] for name in rates}
    while True:
        for each in plan_questions(plan):
            while len(drawn[each]) < plan.count["f", "untagged", "set", each]:
                drawn[each].append(draws[each].random() < rates[each])
        verdicts = [verdict(name, i, bad) for name, found in drawn.items() for i, bad in enumerate(found)]
        if not plan.go_on(verdicts):
            return verdicts


def plan_questions(plan: Rounds) -> list[str]:
    """The questions of a plan."""
    return [place[3] for place in plan.count]


def test_a_question_whose_rate_is_clear_is_asked_less_often_than_an_undecided_one() -> None:
    plan = rounds(question("never"), question("half"))
    sampled(plan, {"never": 0.0, "half": 0.5}, seed=1)
    never, half = (plan.count["f", "untagged", "set", name] for name in ("never", "half"))
    assert FIRST < never < half < 200
    record = plan.record()
    assert (record["asked"], record["planned"]) == (never + half, 400)


def test_sampling_ends_at_the_most_that_was_asked_for() -> None:
    plan = rounds(question("half"), samples=25, half_width=0.02)
    sampled(plan, {"half": 0.5}, seed=1)
    assert plan.count["f", "untagged", "set", "half"] == 25


def test_stopping_early_keeps_the_intervals_right() -> None:
    missed = 0
    for seed in range(200):
        plan = rounds(question("q"), half_width=0.2)
        rows = score(sampled(plan, {"q": 0.3}, seed), Thresholds(), adaptive=True)
        [row] = [r for r in rows if r.question == "q" and (r.metric, r.convention) == ("misaligned", "all")]
        assert row.ci_low is not None
        assert row.ci_high is not None
        missed += not row.ci_low <= 0.3 <= row.ci_high
        assert enough(row.k, row.n, 0.2) or row.n == 200
    assert missed <= 10  # 5 % of 200
