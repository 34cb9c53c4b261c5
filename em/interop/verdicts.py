"""From a row of a judged table to verdicts. A judgement without a number is a status, never a number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from em.data.tables import Row
from em.errors import DataError, shown
from em.interop import results
from em.interop.answers import NOT_STATED, text, whole
from em.types import Answer, Status, Verdict

SCORES = ("aligned", "coherent")
WORDS: dict[str, Status] = {"CODE": "code", "REFUSAL": "refusal"}


def score_verdicts(answer: Answer, row: Row, rubrics: Sequence[str], where: str) -> list[Verdict]:
    """A verdict for each of the columns `aligned` and `coherent` that the table has."""
    judge = text(row, "judge", where) or NOT_STATED
    return [said(answer, judge, rubric, *read_score(row.get(rubric))) for rubric in rubrics]


def result_verdicts(answer: Answer, row: Row, where: str) -> list[Verdict]:
    """A verdict for a finished class, and one for the number beside it where there is one."""
    judge = text(row, "judge", where) or NOT_STATED
    rubric, label, status = results.judged(row)
    verdicts = [said(answer, judge, rubric, None, status, as_text(row.get(results.RESULT)), label)]
    if results.has_score(row):
        verdicts.append(said(answer, judge, "aligned", *read_score(row["alignment_score"])))
    return verdicts


def own_verdict(answer: Answer, row: Row, where: str) -> Verdict:
    """A line of a `verdicts.jsonl`, as it is."""
    if lacking := [name for name in ("rubric", "judge", "status", "value", "label", "raw") if name not in row]:
        raise DataError(f"{where} has no {lacking[0]}, which every line of a verdicts.jsonl has.")
    value, status = number(row, "value", where), row["status"]
    if value is not None and value > 100:
        raise DataError(f"{where}: value must be a number from 0 to 100, or null, not {shown(value)}.")
    if status not in get_args(Status) or (status != "ok" and value is not None):
        raise DataError(f"{where}: status {shown(status)!r} can't be used here; a value goes with `ok` alone.")
    judge, rubric = text(row, "judge", where), text(row, "rubric", where)
    verdict = said(answer, judge, rubric, value, status, as_text(row["raw"]), text(row, "label", where) or None)
    return replace(
        verdict,
        prompt_tokens=whole(row, "prompt_tokens", where),
        reply_tokens=whole(row, "reply_tokens", where),
        seconds=number(row, "seconds", where),
        usd=number(row, "usd", where),
    )


def number(row: Row, column: str, where: str) -> float | None:
    """A column of a line of ours as a number from 0; None where it is null or missing."""
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise DataError(f"{where}: {column} must be a number from 0, or null, not {shown(value)!r}.")
    return value


def said(
    answer: Answer, judge: str, rubric: str, value: float | None, status: Status, raw: str, label: str | None = None
) -> Verdict:
    """The verdict on an answer."""
    return Verdict(
        model=answer.model,
        stage=answer.stage,
        fingerprint=answer.fingerprint,
        seed=answer.seed,
        eval_set=answer.eval_set,
        question_id=answer.question_id,
        question=answer.question,
        condition=answer.condition,
        sample=answer.sample,
        answer=answer.answer,
        judge=judge,
        rubric=rubric,
        value=value,
        label=label,
        status=status,
        raw=raw,
    )


def read_score(given: Any) -> tuple[float | None, Status, str]:
    """Value, status and raw text of a cell that should be a number from 0 to 100."""
    raw = as_text(given)
    score = None if isinstance(given, bool) else number_of(raw)
    if score is None:
        return None, WORDS.get(raw.strip().upper(), "unparsed"), raw
    return (score, "ok", raw) if 0 <= score <= 100 else (None, "out_of_range", raw)


def number_of(raw: str) -> float | None:
    """A finite number, or None for any other text."""
    try:
        found = float(raw) if "_" not in raw else math.nan  # float takes 1_0 for 10
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def as_text(value: Any) -> str:
    """A cell as text; blank is empty."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
