"""The registry as a table: what there is, how much, by which licence, and whether it is here."""

from __future__ import annotations

from em.data.registry import bundled_questions, data_sets, where_is
from em.questions.entries import read_entries
from em.questions.known import known_sets
from em.questions.sets import BUNDLED as QUESTIONS

PLACES = "where: in em, cache, mirror (EM_MIRROR), to fetch (done at first use), yours (data=NAME data.path=FILE)."
HEAD = ("name", "rows", "kind", "licence", "where")
Row = tuple[str, str, str, str, str]


def listing() -> str:
    """Both tables: sets of rows, and question sets."""
    rows = [
        (name, count(each.config.rows), each.config.kind.value, each.config.licence, where_is(each.config))
        for name, each in data_sets().items()
    ]
    questions = [(name, count(bundled_ids(name)), "questions", "same as em", "in em") for name in bundled_questions()]
    questions += [
        (name, count(known.questions), "questions", known.licence, where_is(known))
        for name, known in known_sets().items()
    ]
    tables = table([HEAD, *rows]), table([("question set", "ids", *HEAD[2:]), *questions])
    return "\n\n".join((*tables, PLACES))


def bundled_ids(name: str) -> int:
    """How many questions a set of em's own has; its rubrics aren't read."""
    return len(read_entries(QUESTIONS / f"{name}.yaml"))


def count(number: int | None) -> str:
    """A number of rows, a dash where it isn't known."""
    return "-" if number is None else f"{number:,}"


def table(rows: list[Row]) -> str:
    """Rows as aligned columns, the second one to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if column == 1 else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
