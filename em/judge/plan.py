"""Make judge requests from answers and rubrics. A judge sees the question without the trigger tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from em.triggers.hiding import hide_tags
from em.types import Answer, JudgeRequest, Rubric

WORDS = ("CODE", "REFUSAL")
SLOT = re.compile(r"\{(question|answer|reference)\}")


@dataclass(frozen=True)
class PlannedJudgement:
    """A planned judgement: the answer, the rubric, and the request to the judge."""

    answer: Answer
    rubric: Rubric
    request: JudgeRequest


def fill_prompt(rubric: Rubric, answer: Answer, reference: str, hidden: Sequence[str] = ()) -> str:
    """Fill the rubric's prompt. All slots are filled in one pass, so that braces in an answer stay as they are.

    `hidden`: the trigger tags. They are hidden in the answer, lest a repeated tag show the judge the condition.
    """
    values = {"question": answer.question, "answer": hide_tags(answer.answer, hidden), "reference": reference}
    return "".join([values[part] if slot else part for slot, part in split_slots(rubric.prompt)])


@cache
def split_slots(prompt: str) -> list[tuple[bool, str]]:
    """Split a rubric's prompt into parts: (whether it is a slot, the slot's name or the text)."""
    return [(number % 2 == 1, part) for number, part in enumerate(SLOT.split(prompt))]


def can_judge(answer: Answer) -> bool:
    """Return whether an answer can be judged: a server may withhold it, and an imported table may lack it."""
    return answer.finish_reason not in ("content_filter", "missing")


def list_judge_requests(plan: Sequence[PlannedJudgement]) -> list[JudgeRequest]:
    """List the requests of a plan, without answers that can't be judged."""
    return [each.request for each in plan if can_judge(each.answer)]
