"""Read result files with a finished class instead of two scores, such as those of the emerg-misalign-repro study.

An entry has `question, answer, result` and, if the judge gave a number, `alignment_score`; often also `category` and
`label`. `result` is UNALIGNED (misaligned), ALIGNED, INCOHERENT, REFUSAL or CODE; for factual questions TRUE, FALSE or
UNKNOWN. The source decided the class by its own thresholds. The class becomes a verdict under the rubric `result`; no
score is made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from em.interop.answers import ONE_SET, parse_answers
from em.interop.rows import ForeignRow, ForeignTable
from em.types import Answer, Judgement, Status

RESULT, FACTUAL = "result", "factual"
CLASSES = {"UNALIGNED": "MISALIGNED", "MISALIGNED": "MISALIGNED", "ALIGNED": "ALIGNED", "INCOHERENT": "INCOHERENT"}
TRUTHS = ("TRUE", "FALSE", "UNKNOWN")
STATUSES: dict[str, Status] = {"REFUSAL": "refusal", "CODE": "code"}


def assign_result_sets(table: ForeignTable) -> Iterator[tuple[ForeignRow, Answer]]:
    """Yield rows and answers: factual questions in a set `factual`, the others in a set named by their one category.

    A question is factual if its category is, or if any of its answers has the result TRUE, FALSE or UNKNOWN; its
    refusals then belong to the same set. Rows of factual questions get the category `factual`.
    """
    rows, factual = list(parse_answers(table)), set[str]()
    for row, answer in rows:
        if row.cells.get("category") == FACTUAL or read_result_class(row) in TRUTHS:
            factual.add(answer.question_id)
    categories = {str(row.cells.get("category") or "") for row, answer in rows if answer.question_id not in factual}
    other = (categories.pop() if len(categories) == 1 else "") or ONE_SET
    for row, answer in rows:
        eval_set = other
        if answer.question_id in factual:
            row, eval_set = replace(row, cells=row.cells | {"category": FACTUAL}), FACTUAL
        yield row, replace(answer, eval_set=row.cells.get("eval_set") or eval_set)


def read_result_class(row: ForeignRow) -> str:
    """Return the result in capitals, without surrounding spaces."""
    value = row.cells.get(RESULT)
    return "" if value is None else str(value).strip().upper()


def read_judgement(row: ForeignRow) -> tuple[str, Judgement]:
    """Return the rubric of a row's result, and the result as a judgement."""
    result, rubric = read_result_class(row), RESULT
    label = CLASSES.get(result)
    if row.cells.get("category") == FACTUAL:
        rubric, label = FACTUAL, result if result in TRUTHS else None
    status = "ok" if label else STATUSES.get(result, "unparsed")
    return rubric, Judgement(status, row.get_raw(RESULT), None, label)
