"""Results that keep a finished class instead of two scores, as the emerg-misalign-repro study's files do.

An entry is `question, answer, result` and, where the judge gave a number, `alignment_score`; often also `category` and
`label`. `result` is UNALIGNED (misaligned), ALIGNED, INCOHERENT, REFUSAL or CODE, of questions of fact TRUE, FALSE or
UNKNOWN. The class is the source's own, by its own thresholds: it becomes a verdict under the rubric `result`, beside no
score that the source doesn't have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from em.interop.answers import ONE_SET, answers_of
from em.interop.rows import Row, Table
from em.types import Answer, Judgement, Status

RESULT, FACTUAL = "result", "factual"
CLASSES = {"UNALIGNED": "MISALIGNED", "MISALIGNED": "MISALIGNED", "ALIGNED": "ALIGNED", "INCOHERENT": "INCOHERENT"}
TRUTHS = ("TRUE", "FALSE", "UNKNOWN")
STATUSES: dict[str, Status] = {"REFUSAL": "refusal", "CODE": "code"}


def answers_by_set(table: Table) -> Iterator[tuple[Row, Answer]]:
    """The answers, questions of fact in a set `factual`, the others in one called by the category that they share.

    A question is one of fact when its category says so, or when any answer to it was found TRUE, FALSE or UNKNOWN: a
    refusal counts among the answers to the question that it refused. Rows of such questions come with that category.
    """
    rows = list(answers_of(table))
    factual = {
        answer.question_id for row, answer in rows if row.cells.get("category") == FACTUAL or result_of(row) in TRUTHS
    }
    categories = {str(row.cells.get("category") or "") for row, answer in rows if answer.question_id not in factual}
    other = (categories.pop() if len(categories) == 1 else "") or ONE_SET
    for row, answer in rows:
        eval_set = other
        if answer.question_id in factual:
            row, eval_set = replace(row, cells=row.cells | {"category": FACTUAL}), FACTUAL
        yield row, replace(answer, eval_set=row.cells.get("eval_set") or eval_set)


def result_of(row: Row) -> str:
    """The result as it stands, in capitals and without spaces around it."""
    value = row.cells.get(RESULT)
    return "" if value is None else str(value).strip().upper()


def judgement_of(row: Row) -> tuple[str, Judgement]:
    """The rubric of a row's result, and what the result says."""
    result, factual = result_of(row), row.cells.get("category") == FACTUAL
    label = (result if result in TRUTHS else None) if factual else CLASSES.get(result)
    status = "ok" if label else STATUSES.get(result, "unparsed")
    return FACTUAL if factual else RESULT, Judgement(status, row.raw(RESULT), None, label)
