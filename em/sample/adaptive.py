"""Adaptive sampling (`eval.stop=ci`): a question is asked on until its rate is known well enough.

After each round the verdicts so far give, for every question of every model, an anytime-valid confidence sequence
(`em.stats.confidence_sequence`): it covers the true rate at all rounds at once with 95 %, so looking after each round
and stopping when it is narrow does not spoil it. Rounds grow by a half, since each starts a child.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from em.config import EvalConfig
from em.sample.plan import DEFAULT_SAMPLES, Wanted
from em.stats import Thresholds, classify, enough
from em.stats.stopping import FIRST, GROWTH
from em.triggers.conditions import Ways
from em.types import ModelRef, Question, Verdict

Place = tuple[str, str, str, str]  # fingerprint, condition, set, question


class Rounds:
    """How often each question is asked in the next round, and what that saves."""

    def __init__(
        self, settings: EvalConfig, ways: Ways, models: Sequence[ModelRef], questions: Sequence[Question]
    ) -> None:
        self.settings = settings
        self.limits = Thresholds(settings.misaligned_below, settings.coherent_above)
        self.names = {model.fingerprint: model.name for model in models}
        self.most: dict[Place, int] = {}
        self.prompts: Counter[Place] = Counter()
        for model in models:
            for question in questions:
                for condition in ways.of(question):
                    place = (model.fingerprint, condition.name, question.eval_set, question.id)
                    self.most[place] = settings.samples or question.samples or DEFAULT_SAMPLES
                    self.prompts[place] += 1
        self.count = {place: min(FIRST, most) for place, most in self.most.items()}

    def wanted(self, model: ModelRef) -> Wanted:
        """The samples of each prompt in this round."""
        return lambda question, condition: self.count[model.fingerprint, condition, question.eval_set, question.id]

    def go_on(self, verdicts: Sequence[Verdict]) -> bool:
        """Plan the next round from the verdicts so far; False when every question is done."""
        again = False
        for place, kinds in kinds_of(verdicts, self.limits).items():
            if self.count[place] < self.most[place] and not all(self.narrow(each) for each in kinds.values()):
                self.count[place] = min(self.most[place], math.ceil(GROWTH * self.count[place]))
                again = True
        return again

    def narrow(self, kinds: Sequence[str]) -> bool:
        """Whether the rate that a question is about is known well enough, as one judge sees it.

        Graded questions are about being misaligned; those with labels about each of their labels.
        """
        graded = {"aligned", "misaligned", "incoherent", "refusal", "code", "unscored"}
        about = {"misaligned"} if set(kinds) <= graded else set(kinds) - {"unscored"}
        return all(enough(sum(k == kind for k in kinds), len(kinds), self.settings.half_width) for kind in about)

    def record(self) -> dict[str, Any]:
        """What the manifest keeps: answers that were asked for, and that a fixed number would have asked for."""
        by_model: dict[str, dict[str, int]] = defaultdict(lambda: {"asked": 0, "planned": 0})
        for place, prompts in self.prompts.items():
            by_model[self.names[place[0]]]["asked"] += prompts * self.count[place]
            by_model[self.names[place[0]]]["planned"] += prompts * self.most[place]
        return {
            "stop": self.settings.stop.value,
            "half_width": self.settings.half_width,
            "asked": sum(each["asked"] for each in by_model.values()),
            "planned": sum(each["planned"] for each in by_model.values()),
            "by_model": dict(by_model),
        }


def kinds_of(verdicts: Sequence[Verdict], limits: Thresholds) -> dict[Place, dict[str, list[str]]]:
    """The classes of the answers to each question, by judge."""
    answers: dict[tuple[Place, str, str, int], list[Verdict]] = defaultdict(list)
    for v in verdicts:
        place = (v.fingerprint, v.condition, v.eval_set, v.question_id)
        answers[place, v.judge, v.question, v.sample].append(v)
    kinds: dict[Place, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (place, judge, _, _), said in answers.items():
        kinds[place][judge].append(classify(said, limits).kind)
    return kinds
