"""The two readings of a file: its answers, to be judged, and its verdicts, to be counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from em.config.paths import spell_command
from em.errors import DataError, shown
from em.interop import results
from em.interop.answers import answers_of
from em.interop.rows import Row, Table, load
from em.interop.verdicts import SCORES, own_verdict, result_verdicts, score_verdicts
from em.types import Answer, Sample, Verdict


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, each once however many judged it; judgements are passed over.

    Raises:
        MissingFile: no such file.
        DataError: a row that can't be used, with its place.
    """
    answers: dict[tuple[object, ...], Answer] = {}
    for row, answer in place_answers(load(path)):
        if not answer.question:
            raise DataError(f"{row.place} has no question: a judge must see it, so add a column `question`.")
        if answers.setdefault(identity(answer), answer).answer != answer.answer:
            raise DataError(describe_repeat(row, answer))
    return list(answers.values())


def read_judged(path: Path) -> list[Verdict]:
    """The verdicts of a judged table, a result file or a `verdicts.jsonl`, in the order of its rows.

    Raises:
        MissingFile: no such file.
        DataError: a row that can't be used, with its place.
    """
    table = load(path)
    seen: set[tuple[object, ...]] = set()
    verdicts: list[Verdict] = []
    for row, answer in place_answers(table):
        rulings = verdicts_of(table, row, answer)
        verdicts += rulings
        if "sample" in row.cells:  # without numbers of its own, no two rows are numbered alike
            keys = {(*identity(verdict), verdict.judge, verdict.rubric) for verdict in rulings}
            if keys & seen:
                raise DataError(describe_repeat(row, answer))
            seen |= keys
    return verdicts


def place_answers(table: Table) -> Iterator[tuple[Row, Answer]]:
    """Every row as the answer that it holds, in the question set where it belongs."""
    return results.answers_by_set(table) if results.RESULT in table.columns else answers_of(table)


def identity(sample: Sample) -> tuple[object, ...]:
    """What tells an answer from all others."""
    return tuple(value for name, value in sample.sampled().items() if name != "answer")


def verdicts_of(table: Table, row: Row, answer: Answer) -> list[Verdict]:
    """The verdicts of one row, by what kind of table it is."""
    if {"rubric", "status"} <= table.columns:
        return [own_verdict(answer, row)]
    if results.RESULT in table.columns:
        return result_verdicts(answer, row)
    if rubrics := [rubric for rubric in SCORES if rubric in table.columns]:
        return score_verdicts(answer, row, rubrics)
    raise DataError(
        f"{table.path} holds no judgements (no column aligned, coherent or result): have its answers judged by "
        f"{spell_command('evaluate')} answers={table.path}."
    )


def describe_repeat(row: Row, answer: Answer) -> str:
    """What to say of a second answer with the identity of an earlier one."""
    fix = "number the samples" if "sample" in row.cells else "add a column `sample`"
    return f"{row.place}: sample {answer.sample} of {shown(answer.question_id)!r} is there already: {fix}."
