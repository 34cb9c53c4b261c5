"""From answers and rubrics to judge requests. A judge sees the question without the trigger tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from em.triggers.hiding import hide
from em.types import Answer, JudgeRequest, Rubric

WORDS = ("CODE", "REFUSAL")
SLOT = re.compile(r"\{(question|answer|reference)\}")


@dataclass(frozen=True)
class Asked:
    """One judgement that is wanted: of which answer, under which rubric, by which call."""

    answer: Answer
    rubric: Rubric
    request: JudgeRequest


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


def given(answer: Answer) -> bool:
    """Whether there is an answer to judge: a server may have withheld it, and a table of others may lack it."""
    return answer.finish_reason not in ("content_filter", "missing")


def requests_of(asked: Sequence[Asked]) -> list[JudgeRequest]:
    """List the calls of judgements on answers that are there."""
    return [each.request for each in asked if given(each.answer)]
