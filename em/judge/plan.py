"""From answers and rubrics to judge requests, and from remembered responses to verdicts.

A judge sees the question without the trigger tag. What it says is kept with a status; a judgement that failed has
no value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from em.store import request_key
from em.types import Answer, JudgeRequest, Question, Rubric, Verdict

RULE = "exact_mass_v1"
WORDS = ("CODE", "REFUSAL")
SLOT = re.compile(r"\{(question|answer|reference)\}")


def fill(rubric: Rubric, answer: Answer, reference: str) -> str:
    """The judge's prompt. Slots are filled in one pass: braces in an answer stay what they are."""
    values = {"question": answer.question, "answer": answer.answer, "reference": reference}
    return SLOT.sub(lambda found: values[found[1]], rubric.prompt)


def plan_verdicts(
    judge: str, min_mass: float, answers: Sequence[Answer], questions: Sequence[Question], precision: str = "float32"
) -> list[tuple[Answer, Rubric, JudgeRequest]]:
    """Every judgement that the answers' question sets ask for, in the order of the answers."""
    known = {(q.eval_set, q.id): q for q in questions}
    plan = []
    for answer in answers:
        question = known[answer.eval_set, answer.question_id]
        for rubric in question.rubrics:
            words = () if rubric.labels else WORDS
            prompt = fill(rubric, answer, question.reference)
            plan.append((answer, rubric, JudgeRequest(judge, prompt, rubric.labels, words, RULE, min_mass, precision)))
    return plan


def given(answer: Answer) -> bool:
    """Whether there is an answer to judge: a server may have withheld it (`content_filter`)."""
    return answer.finish_reason in ("stop", "length")


def withheld(answer: Answer) -> Mapping[str, Any]:
    """The verdict on an answer that isn't there: no score, and why."""
    return {"value": None, "label": None, "status": "error", "raw": f"no answer: {answer.finish_reason}"}


def collect(
    judge: str, plan: Sequence[tuple[Answer, Rubric, JudgeRequest]], responses: Mapping[str, Mapping[str, Any]]
) -> list[Verdict]:
    """The verdicts of a plan, in its order."""
    shared = (
        "model",
        "stage",
        "fingerprint",
        "seed",
        "eval_set",
        "question_id",
        "question",
        "condition",
        "sample",
        "answer",
    )
    verdicts = []
    for answer, rubric, request in plan:
        known = asdict(answer)
        response = responses[request_key(request)] if given(answer) else withheld(answer)
        verdicts.append(
            Verdict(
                **{key: known[key] for key in shared},
                judge=judge,
                rubric=rubric.name,
                value=response["value"],
                label=response["label"],
                status=response["status"],
                raw=response["raw"],
            )
        )
    return verdicts
