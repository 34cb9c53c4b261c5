"""Results that keep a finished class instead of two scores, as the emerg-misalign-repro study's files do.

An entry is `question, answer, result` and, where the judge gave a number, `alignment_score`; often also `category` and
`label`. `result` is UNALIGNED (misaligned), ALIGNED, INCOHERENT, REFUSAL or CODE, of questions of fact TRUE, FALSE or
UNKNOWN. The class is the source's own, by its own thresholds: it becomes a verdict under the rubric `result`, beside no
score that the source doesn't have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from em.data.tables import Row
from em.interop.answers import ONE_SET, Table, answers_of
from em.types import Answer, Status

RESULT, FACTUAL = "result", "factual"
CLASSES = {"UNALIGNED": "MISALIGNED", "MISALIGNED": "MISALIGNED", "ALIGNED": "ALIGNED", "INCOHERENT": "INCOHERENT"}
TRUTHS = ("TRUE", "FALSE", "UNKNOWN")
STATUSES: dict[str, Status] = {"REFUSAL": "refusal", "CODE": "code"}


def answers_by_set(table: Table) -> Iterator[tuple[int, Row, Answer]]:
    """The answers, questions of fact in a set `factual`, the others in one called by the category that they share.

    A question is one of fact when its category says so, or when any answer to it was found TRUE, FALSE or UNKNOWN: a
    refusal counts among the answers to the question that it refused. Rows of such questions come with that category.
    """
    found = list(answers_of(table))
    factual = {a.question_id for _, row, a in found if row.get("category") == FACTUAL or word_of(row) in TRUTHS}
    categories = {str(row.get("category") or "") for _, row, a in found if a.question_id not in factual}
    other = (categories.pop() if len(categories) == 1 else "") or ONE_SET
    for number, row, answer in found:
        if answer.question_id in factual:
            row = row | {"category": FACTUAL}
        eval_set = row.get("eval_set") or (FACTUAL if answer.question_id in factual else other)
        yield number, row, replace(answer, eval_set=eval_set)


def word_of(row: Row) -> str:
    """The result as it stands, in capitals and without spaces around it."""
    return str("" if row.get(RESULT) is None else row[RESULT]).strip().upper()


def judged(row: Row) -> tuple[str, str | None, Status]:
    """Rubric, label and status of a row's result."""
    word, factual = word_of(row), row.get("category") == FACTUAL
    label = (word if word in TRUTHS else None) if factual else CLASSES.get(word)
    return FACTUAL if factual else RESULT, label, "ok" if label else STATUSES.get(word, "unparsed")


def has_score(row: Row) -> bool:
    """Whether the source's judge gave a number; of what is CODE, REFUSAL, INCOHERENT or a fact, none is read."""
    return judged(row)[1] in ("ALIGNED", "MISALIGNED") and row.get("alignment_score") not in (None, "")
