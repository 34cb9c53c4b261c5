"""The two readings of a file: its answers, to be judged, and its verdicts, to be counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from em.config.paths import spell_command
from em.data.tables import Row
from em.errors import DataError, shown
from em.interop import results
from em.interop.answers import Table, answers_of, identity, load
from em.interop.verdicts import SCORES, own_verdict, result_verdicts, score_verdicts
from em.types import Answer, Verdict


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, each once however many judged it; judgements are passed over.

    Raises:
        MissingFile: no such file.
        DataError: a row that can't be used, with its place.
    """
    table = load(path)
    seen: dict[tuple[object, ...], str] = {}
    answers: list[Answer] = []
    for number, row, answer in placed(table):
        if not answer.question:
            raise DataError(f"{table.where(number)} has no question: a judge must see it, so add a column `question`.")
        if seen.setdefault(identity(answer), answer.answer) != answer.answer:
            raise DataError(twice(table, number, row, answer))
        if len(seen) > len(answers):
            answers.append(answer)
    return answers


def read_judged(path: Path) -> list[Verdict]:
    """The verdicts of a judged table, a result file or a `verdicts.jsonl`, in the order of its rows.

    Raises:
        MissingFile: no such file.
        DataError: a row that can't be used, with its place.
    """
    table = load(path)
    seen: set[tuple[object, ...]] = set()
    verdicts: list[Verdict] = []
    for number, row, answer in placed(table):
        found = verdicts_of(table, number, row, answer)
        verdicts += found
        if "sample" in row:  # without numbers of its own, no two rows are numbered alike
            keys = {(*identity(answer), verdict.judge, verdict.rubric) for verdict in found}
            if keys & seen:
                raise DataError(twice(table, number, row, answer))
            seen |= keys
    return verdicts


def placed(table: Table) -> Iterator[tuple[int, Row, Answer]]:
    """Every row as the answer that it holds, in the question set where it belongs."""
    return results.answers_by_set(table) if results.RESULT in table.columns else answers_of(table)


def verdicts_of(table: Table, number: int, row: Row, answer: Answer) -> list[Verdict]:
    """The verdicts of one row, by what kind of table it is."""
    if {"rubric", "status"} <= table.columns:
        return [own_verdict(answer, row, table.where(number))]
    if results.RESULT in table.columns:
        return result_verdicts(answer, row, table.where(number))
    if rubrics := [rubric for rubric in SCORES if rubric in table.columns]:
        return score_verdicts(answer, row, rubrics, table.where(number))
    raise DataError(
        f"{table.path} holds no judgements (no column aligned, coherent or result): have its answers judged by "
        f"{spell_command('evaluate')} answers={table.path}."
    )


def twice(table: Table, number: int, row: Row, answer: Answer) -> str:
    """What to say of a second answer with the identity of an earlier one."""
    fix = "number the samples" if "sample" in row else "add a column `sample`"
    return f"{table.where(number)}: sample {answer.sample} of {shown(answer.question_id)!r} is there already: {fix}."
