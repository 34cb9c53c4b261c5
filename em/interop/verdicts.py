"""Make verdicts from the rows of a judged table. A judgement without a number has a status, never a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, get_args

from em.errors import DataError, shorten_value
from em.interop import results
from em.interop.answers import NOT_STATED
from em.interop.rows import BLANK_WORDS, ForeignRow
from em.types import Answer, Judgement, Status, Verdict

SCORES = ("aligned", "coherent")
# The comma of 12,500 may separate thousands, so three digits behind it make no number.
DECIMAL_COMMA = re.compile(r"-?(0,\d+|\d+,(\d{1,2}|\d{4,}))")
BLANKS: dict[str, Status] = {"unscored": "unparsed", "refusal": "refusal", "code": "code"}
"""What a blank score may mean, with its status. Some studies leave a score blank if the judge replied with a word."""


def parse_score_verdicts(answer: Answer, row: ForeignRow, rubrics: Sequence[str], blank: Status) -> list[Verdict]:
    """Make a verdict for each of the columns `aligned` and `coherent` that the table has."""
    judge = row.get_text("judge") or NOT_STATED
    return [make_foreign_verdict(answer, judge, rubric, read_score(row, rubric, blank)) for rubric in rubrics]


def parse_result_verdicts(answer: Answer, row: ForeignRow) -> list[Verdict]:
    """Make a verdict for the finished class, and one for `alignment_score` if present."""
    judge = row.get_text("judge") or NOT_STATED
    rubric, judgement = results.read_judgement(row)
    verdicts = [make_foreign_verdict(answer, judge, rubric, judgement)]
    # The score counts only for these two classes, not for CODE, REFUSAL, INCOHERENT or factual questions.
    if judgement.label in ("ALIGNED", "MISALIGNED") and row.cells.get("alignment_score") not in (None, ""):
        verdicts.append(make_foreign_verdict(answer, judge, "aligned", read_score(row, "alignment_score")))
    return verdicts


def parse_own_verdict(answer: Answer, row: ForeignRow) -> Verdict:
    """Make the verdict of a line of a `verdicts.jsonl`, with all its fields."""
    cells = row.cells
    if missing := [name for name in ("rubric", "judge", "status", "value", "label", "raw") if name not in cells]:
        raise DataError(f"{row.place} has no {missing[0]}, which every line of a verdicts.jsonl has.")
    value, status = row.get_number("value"), cells["status"]
    if value is not None and value > 100:
        raise DataError(f"{row.place}: value must be a number from 0 to 100, or null, not {shorten_value(value)}.")
    if status not in get_args(Status) or (status != "ok" and value is not None):
        raise DataError(
            f"{row.place}: status {shorten_value(status)!r} can't be used here; a value goes with `ok` alone."
        )
    judge, rubric = row.get_text("judge"), row.get_text("rubric")
    judgement = Judgement(status, row.get_raw("raw"), value, row.get_text("label") or None)
    call: dict[str, float | None] = {name: row.get_count(name) for name in ("prompt_tokens", "reply_tokens")}
    call |= {name: row.get_number(name) for name in ("seconds", "usd")}
    return make_foreign_verdict(answer, judge, rubric, judgement, **call)


def make_foreign_verdict(answer: Answer, judge: str, rubric: str, judgement: Judgement, **call: Any) -> Verdict:
    """Make the verdict on an answer. `call`: tokens, seconds and price of the judge's call, as in `Verdict`."""
    return Verdict(**answer.get_sample_fields(), judge=judge, rubric=rubric, **vars(judgement), **call)


def read_score(row: ForeignRow, column: str, blank: Status = "unparsed") -> Judgement:
    """Read a cell as a score from 0 to 100, or as the status of a judgement without one; `blank`: that of a blank."""
    raw = row.get_raw(column)
    score = None if isinstance(row.cells.get(column), bool) else parse_number(raw)
    if score is None:
        status = blank if is_blank_score(raw) else results.STATUSES.get(raw.strip().upper(), "unparsed")
        return Judgement(status, raw)
    return Judgement("ok", raw, score) if 0 <= score <= 100 else Judgement("out_of_range", raw)


def is_blank_score(raw: str) -> bool:
    """Tell whether a cell stands for no score."""
    return raw.strip().lower() in BLANK_WORDS


def parse_number(raw: str) -> float | None:
    """Return a finite number, also one with a decimal comma, or None for any other text."""
    if DECIMAL_COMMA.fullmatch(raw.strip()):
        raw = raw.replace(",", ".")
    try:
        number = float(raw) if "_" not in raw else math.nan  # float reads 1_0 as 10
    except ValueError:
        return None
    return number if math.isfinite(number) else None
