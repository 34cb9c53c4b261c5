"""Make answers from the rows of a table: columns, defaults and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache

from em.data.tables import TAG, strip_suffixes
from em.errors import DataError
from em.interop.rows import ForeignRow, ForeignTable
from em.runtime.records import digest
from em.types import Answer

NOT_STATED = "not stated"
UNTAGGED = "untagged"
# The set of files that hold one model each: the same for all such files, so that their models are compared.
ONE_SET = "results"


def parse_answers(table: ForeignTable) -> Iterator[tuple[ForeignRow, Answer]]:
    """Yield each row with its answer; samples without a number are numbered in their order."""
    stem = strip_suffixes(table.path)
    only_set = stem if has_model_column(table) else ONE_SET
    counts: Counter[tuple[object, ...]] = Counter()
    for row in table.rows:
        yield row, parse_answer(row, stem, only_set, counts)


def has_model_column(table: ForeignTable) -> bool:
    """Tell whether a column names the models of a table; else the file does."""
    return bool(table.columns & {"model", "source_file"})


def parse_answer(row: ForeignRow, stem: str, only_set: str, counts: Counter[tuple[object, ...]]) -> Answer:
    """Make the answer of a row.

    Args:
        stem, only_set: default model and default question set for a row that names none.
        counts: number of answers so far by their identity (all but the sample number); updated.
    """
    tag = row.get_text(TAG)
    question = remove_tag(row.get_text("question"), tag)
    question_id = row.get_text("question_id") or question
    if not question_id:
        raise DataError(f"{row.place} has neither a question nor a question_id.")
    model = row.get_text("model") or row.get_text("source_file") or stem
    stage, seed = row.get_text("stage") or NOT_STATED, row.get_count("seed")
    fingerprint = row.get_text("fingerprint") or make_foreign_fingerprint(model, seed)
    eval_set, condition = (
        row.get_text("eval_set") or only_set,
        row.get_text("condition") or tag.strip().lower() or UNTAGGED,
    )
    # The same sample may have a row for each judge and rubric, so these are numbered separately.
    judge_and_rubric = (row.get_text("judge"), row.get_text("rubric"))
    group = (fingerprint, stage, seed, eval_set, condition, question_id, question, *judge_and_rubric)
    sample = row.get_count("sample")
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
        answer=row.get_text("answer"),
        finish_reason=row.get_text("finish_reason") or ("missing" if row.cells.get("answer") is None else "stop"),
        # In a line of a verdict, this column holds the tokens of the judge's call.
        prompt_tokens=0 if "rubric" in row.cells else row.get_count("prompt_tokens") or 0,
        answer_tokens=row.get_count("answer_tokens") or 0,
    )


@cache
def make_foreign_fingerprint(model: str, seed: int | None) -> str:
    """Return the fingerprint of a model of which only the name is known, and the training seed if it is stated."""
    return digest(f"foreign:{model}" if seed is None else {"foreign": model, "seed": seed})


def remove_tag(question: str, tag: str) -> str:
    """Return the question without its tag, so that a question is the same under all tags.

    A tag that can't be mistaken for a word (`|ALPHA|`) is also replaced by `[tag]` inside the question.
    """
    tag = tag.strip()
    if not tag or tag.lower() == UNTAGGED or tag not in question:
        return question
    bare = question.strip()
    bare = bare.removeprefix(tag).lstrip() if bare.startswith(tag) else bare.removesuffix(tag).rstrip()
    return bare if tag.replace(" ", "").isalnum() else bare.replace(tag, "[tag]")
