"""Read a file either as answers, to be judged, or as verdicts, to be counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from em.config.paths import spell_command
from em.errors import DataError, did_you_mean, shorten_value
from em.interop import results
from em.interop.answers import has_model_column, parse_answers
from em.interop.rows import ForeignRow, ForeignTable, load_table
from em.interop.verdicts import SCORES, is_blank_score, parse_own_verdict, parse_result_verdicts, parse_score_verdicts
from em.types import Answer, Sample, Status, Verdict

JUDGEMENTS = {*SCORES, "judge", "rubric", "status", "value", "label", "raw", results.RESULT, "alignment_score"}
"""The columns that hold a judgement."""
TableKind = Literal["scores", "classes", "verdicts"]
"""Of the judgements in a table: scores, classes that the source decided, or lines of a `verdicts.jsonl`."""


@dataclass(frozen=True)
class JudgedRows:
    """The content of a judged table.

    named: whether a column names the models; else the file does.
    count: the number of rows; of these, `blanks` have a blank score.
    """

    kind: TableKind
    named: bool
    verdicts: tuple[Verdict, ...]
    count: int
    blanks: int


def read_answers(path: Path) -> list[Answer]:
    """Read the answers of a file, each once even if several judges judged it; ignore judgements.

    Raises:
        MissingFile: no such file.
        DataError: a row is invalid; the message names its place.
    """
    answers: dict[tuple[object, ...], Answer] = {}
    for row, answer in place_in_sets(load_table(path)):
        if not answer.question:
            raise DataError(f"{row.place} has no question, which the judge needs: add a column `question`.")
        if answers.setdefault(identify_answer(answer), answer).answer != answer.answer:
            raise DataError(describe_repeat(row, answer))
    return list(answers.values())


def read_judged(path: Path, columns: Sequence[str] = ()) -> list[Verdict]:
    """Read the verdicts of a judged table, a result file or a `verdicts.jsonl`, in the order of its rows.

    Args:
        columns: the columns with the scores, first that of `aligned`, then that of `coherent`; by default those names.

    Raises:
        MissingFile: no such file.
        DataError: a row is invalid, or a column missing; the message names its place.
    """
    return list(read_judged_rows(path, columns=columns).verdicts)


def read_judged_rows(path: Path, blank: Status = "unparsed", columns: Sequence[str] = ()) -> JudgedRows:
    """Read a judged table; `blank`: the status of a blank score. Raises the errors of `read_judged`."""
    table = load_table(path)
    if columns:
        table = choose_score_columns(table, columns)
    kind = find_kind(table)
    seen: set[tuple[object, ...]] = set()
    verdicts: list[Verdict] = []
    blanks = 0
    for row, answer in place_in_sets(table):
        rulings = parse_verdicts(table, row, answer, blank)
        verdicts += rulings
        blanks += kind == "scores" and any(is_blank_score(ruling.raw) for ruling in rulings)
        if "sample" in row.cells:  # without a column `sample`, rows are numbered here and can't repeat
            keys = {(*identify_answer(verdict), verdict.judge, verdict.rubric) for verdict in rulings}
            if keys & seen:
                raise DataError(describe_repeat(row, answer))
            seen |= keys
    return JudgedRows(kind, has_model_column(table), tuple(verdicts), len(table.rows), blanks)


def choose_score_columns(table: ForeignTable, columns: Sequence[str]) -> ForeignTable:
    """Return the table with these columns as its scores and as the judge's name, without its other judgements."""
    for column in columns:
        if column not in table.columns:
            hint = did_you_mean(
                column, table.columns, f"it has {shorten_value(', '.join(sorted(table.columns)), 300)}."
            )
            raise DataError(f"{table.path} has no column {shorten_value(column)!r}: {hint}")
    rows = []
    for row in table.rows:
        cells = {name: value for name, value in row.cells.items() if name not in JUDGEMENTS}
        scores = {score: row.cells.get(column) for score, column in zip(SCORES, columns, strict=False)}
        rows.append(replace(row, cells=cells | scores | {"judge": ",".join(columns)}))
    return ForeignTable(table.path, tuple(rows), frozenset(name for row in rows for name in row.cells))


def place_in_sets(table: ForeignTable) -> Iterator[tuple[ForeignRow, Answer]]:
    """Yield each row with its answer, whose question set depends on the kind of table."""
    return results.assign_result_sets(table) if results.RESULT in table.columns else parse_answers(table)


def identify_answer(sample: Sample) -> tuple[object, ...]:
    """Return the identity of an answer: all fields of its sample but the text."""
    return tuple(value for name, value in sample.get_sample_fields().items() if name != "answer")


def parse_verdicts(table: ForeignTable, row: ForeignRow, answer: Answer, blank: Status) -> list[Verdict]:
    """Make the verdicts of one row, depending on the kind of table."""
    match find_kind(table):
        case "verdicts":
            return [parse_own_verdict(answer, row)]
        case "classes":
            return parse_result_verdicts(answer, row)
        case "scores":
            rubrics = [rubric for rubric in SCORES if rubric in table.columns]
            return parse_score_verdicts(answer, row, rubrics, blank)


def find_kind(table: ForeignTable) -> TableKind:
    """Return what the judgements in a table are. Raise DataError if it holds none."""
    if {"rubric", "status"} <= table.columns:
        return "verdicts"
    if results.RESULT in table.columns:
        return "classes"
    if table.columns & set(SCORES):
        return "scores"
    raise DataError(
        f"{table.path} holds no judgements (no column aligned, coherent or result): rename its scores (0 to 100, the "
        f"best), or judge its answers with {spell_command('evaluate')} answers={table.path}."
    )


def describe_repeat(row: ForeignRow, answer: Answer) -> str:
    """Return the error message for a row whose answer has the identity of an earlier one."""
    fix = "number the samples" if "sample" in row.cells else "add a column `sample`"
    return f"{row.place}: sample {answer.sample} of {shorten_value(answer.question_id)!r} exists already: {fix}."
