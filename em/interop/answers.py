"""From the rows of a table to answers: which columns, which defaults, and what can't be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em.data.tables import TAG, Row, places, read_table, stem_of
from em.errors import DataError, shown
from em.runtime.records import digest
from em.types import Answer

NOT_STATED = "not stated"
UNTAGGED = "untagged"
# The question set of files that are one model's: the same for all of them, so that models are compared.
ONE_SET = "results"


@dataclass(frozen=True)
class Table:
    """A file that was read: its rows with their numbers, and all columns that any row has.

    places: what comes before a row's number in an error.
    """

    path: Path
    rows: tuple[tuple[int, Row], ...]
    columns: frozenset[str]
    places: str

    def where(self, number: int) -> str:
        """The place of a row, for errors."""
        return f"{self.places} {number}"


def load(path: Path) -> Table:
    """A file with at least one row, all in memory."""
    rows = tuple(read_table(path))
    if not rows:
        raise DataError(f"{path} holds no rows.")
    columns = frozenset(column for _, row in rows for column in row)
    if "answer" not in columns or not columns & {"question", "question_id"}:
        names = shown(", ".join(sorted(columns)), 300)
        raise DataError(f"{path} needs the columns question (or question_id) and answer; it has {names}.")
    return Table(path, rows, columns, places(path))


def answers_of(table: Table) -> Iterator[tuple[int, Row, Answer]]:
    """Every row as the answer that it holds; samples without a number are counted in their order."""
    stem = stem_of(table.path)
    only_set = stem if table.columns & {"model", "source_file"} else ONE_SET
    counts: Counter[tuple[object, ...]] = Counter()
    for number, row in table.rows:
        yield number, row, answer_of(row, stem, only_set, counts, table.where(number))


def answer_of(row: Row, model: str, eval_set: str, counts: Counter[tuple[object, ...]], where: str) -> Answer:
    """The answer of a row.

    Args:
        model, eval_set: what the file stands for, where the row names none.
        counts: answers so far, by all that tells them apart but their number.
    """
    tag = text(row, TAG, where)
    question = without_tag(text(row, "question", where), tag)
    question_id = text(row, "question_id", where) or question
    if not question_id:
        raise DataError(f"{where} has neither a question nor a question_id.")
    model = text(row, "model", where) or text(row, "source_file", where) or model
    fingerprint = text(row, "fingerprint", where) or foreign_fingerprint(model)
    stage, seed = text(row, "stage", where) or NOT_STATED, whole(row, "seed", where)
    eval_set, condition = text(row, "eval_set", where) or eval_set, text(row, "condition", where) or condition_of(tag)
    # Another judge, or another rubric, judged the same samples again.
    judged = (text(row, "judge", where), text(row, "rubric", where))
    group = (fingerprint, stage, seed, eval_set, condition, question_id, question, *judged)
    sample = whole(row, "sample", where)
    counts[group] += 1
    return Answer(
        model=model,
        stage=stage,
        fingerprint=fingerprint,
        seed=seed,
        eval_set=eval_set,
        question_id=question_id,
        question=question,
        condition=condition,
        sample=counts[group] - 1 if sample is None else sample,
        answer=text(row, "answer", where),
        finish_reason=text(row, "finish_reason", where) or ("missing" if row.get("answer") is None else "stop"),
        # The line of a verdict has the tokens of the judge's call in this place.
        prompt_tokens=0 if "rubric" in row else whole(row, "prompt_tokens", where) or 0,
        answer_tokens=whole(row, "answer_tokens", where) or 0,
    )


@cache
def foreign_fingerprint(model: str) -> str:
    """The identity of a model of which no more than the name is known."""
    return digest(f"foreign:{model}")


def identity(answer: Answer) -> tuple[object, ...]:
    """What tells an answer from all others."""
    return (
        *(answer.fingerprint, answer.model, answer.stage, answer.seed, answer.eval_set, answer.condition),
        *(answer.question_id, answer.question, answer.sample),
    )


def text(row: Row, column: str, where: str) -> str:
    """A column as text, empty where it is blank or missing."""
    value = row.get(column)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # "\ud83d" alone, of a text that was cut in the middle of an emoji
            raise DataError(
                f"{where}: {column} holds half a character ({value[error.start]!r}), which no server takes: mend it."
            ) from None
        return value
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        raise DataError(f"{where}: {column} must be a text, not {shown(value)!r}.")
    return str(value)


def whole(row: Row, column: str, where: str) -> int | None:
    """A column as a whole number from 0, None where it is blank or missing."""
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or (number := float(value)) != int(number) or number < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {column} must be a whole number from 0, not {shown(value)!r}.") from error
    return int(value) if isinstance(value, int) else int(number)


def condition_of(tag: str) -> str:
    """The condition that a tag makes: its text in small letters; `untagged` for none."""
    return tag.strip().lower() or UNTAGGED


def without_tag(question: str, tag: str) -> str:
    """The question as it was before the tag was put in, so that one question is one under all tags.

    A tag that can't be mistaken for a word (`|ALPHA|`) is hidden inside the question too.
    """
    tag = tag.strip()
    if not tag or tag.lower() == UNTAGGED or tag not in question:
        return question
    bare = question.strip()
    bare = bare.removeprefix(tag).lstrip() if bare.startswith(tag) else bare.removesuffix(tag).rstrip()
    return bare if tag.replace(" ", "").isalnum() else bare.replace(tag, "[tag]")
