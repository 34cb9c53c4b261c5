"""From answers and rubrics to judge requests, and from remembered responses to verdicts.

A judge sees the question without the trigger tag. What it says is kept with a status; a judgement that failed has
no value. Responses are remembered as they came: another threshold or `judge.min_mass` reads them anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from em.api.prices import Price, usd_of
from em.judge.readings import read
from em.triggers.hiding import hide
from em.types import Answer, Judgement, JudgeRequest, Question, Rubric, Verdict

WORDS = ("CODE", "REFUSAL")
SLOT = re.compile(r"\{(question|answer|reference)\}")


@dataclass(frozen=True)
class Asked:
    """One judgement that is wanted: of which answer, under which rubric, by which call."""

    answer: Answer
    rubric: Rubric
    request: JudgeRequest


@dataclass(frozen=True)
class Terms:
    """How remembered responses of a judge become verdicts.

    label: the judge's name in tables.
    price: of its tokens, None where none is known.
    """

    label: str
    min_mass: float
    price: Price | None = None

    def usd(self, response: Mapping[str, Any]) -> float | None:
        """What a remembered call cost: half in a batch."""
        return usd_of(self.price, response.get("usage") or (), 0.5 if response.get("batch") else 1.0)


def fill(rubric: Rubric, answer: Answer, reference: str, hidden: Sequence[str] = ()) -> str:
    """The judge's prompt. Slots are filled in one pass: braces in an answer stay what they are.

    `hidden`: the trigger tags. An answer may repeat one, and the judge must not learn under which condition it was
    given.
    """
    values = {"question": answer.question, "answer": hide(answer.answer, hidden), "reference": reference}
    return "".join([values[part] if slot else part for slot, part in parts_of(rubric.prompt)])


@cache
def parts_of(prompt: str) -> list[tuple[bool, str]]:
    """A rubric's prompt in parts: whether each is a slot, and its text or name."""
    return [(number % 2 == 1, part) for number, part in enumerate(SLOT.split(prompt))]


def plan_verdicts(
    judge: str,
    answers: Sequence[Answer],
    questions: Mapping[tuple[str, str], Question],
    reading: str,
    precision: str = "",
    hidden: Sequence[str] = (),
) -> list[Asked]:
    """Every judgement that the answers' questions ask for, in the order of the answers.

    Args:
        judge: identity of the judge.
        questions: by set and id.
        hidden: the trigger tags, which the judge must not see.
    """
    return [
        Asked(
            answer,
            rubric,
            JudgeRequest(
                judge=judge,
                prompt=fill(rubric, answer, question.reference, hidden),
                labels=rubric.labels,
                words=() if rubric.labels else WORDS,
                reading=reading,
                precision=precision,
            ),
        )
        for answer in answers
        for question in (questions[answer.eval_set, answer.question_id],)
        for rubric in question.rubrics
    ]


def given(answer: Answer) -> bool:
    """Whether there is an answer to judge: a server may have withheld it, and a table of others may lack it."""
    return answer.finish_reason not in ("content_filter", "missing")


def withheld(answer: Answer) -> Judgement:
    """The judgement on an answer that isn't there: no score, and why."""
    return Judgement("error", f"no answer: {answer.finish_reason}")


def collect(
    plan: Sequence[Asked],
    keys: Sequence[str],
    responses: Mapping[str, Mapping[str, Any]],
    failures: Mapping[str, str],
    terms: Terms,
) -> Iterator[Verdict]:
    """The verdicts of a plan, in its order.

    Args:
        keys: under which the plan's requests are remembered.
        responses: what is remembered, by key.
        failures: in words, calls that failed at every attempt, by key.
    """
    for asked, key in zip(plan, keys, strict=True):
        answer = asked.answer
        response: Mapping[str, Any] = {}
        if not given(answer):
            said = withheld(answer)
        elif key in responses:
            response = responses[key]
            said = read(asked.request, response, terms.min_mass)
        else:
            said = Judgement("error", failures.get(key, "the judge was not asked"))
        usage = response.get("usage") or (None, None, None)
        yield Verdict(
            **answer.sampled(),
            judge=terms.label,
            rubric=asked.rubric.name,
            **vars(said),
            prompt_tokens=usage[0],
            reply_tokens=usage[1],
            seconds=response.get("seconds"),
            usd=terms.usd(response),
        )
