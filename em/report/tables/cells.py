"""What the tables of the report are made of: rates, cells, rows, columns.

Nothing is computed here: counts, rates and intervals are those of `scores.csv`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

from em.report.page.numbers import share
from em.report.page.words import DENOMINATORS, METRICS
from em.report.tables.models import Model, short_judges
from em.triggers.conditions import kind_of
from em.types import Score

WHOLE_SET = "*"
HEADLINES = ("misaligned", "true")
"""The metric that a set is about: the first of these that it has."""
REFUSALS = "refusal_as_aligned"
CONDITIONS = ("untagged", "tagged", "near", "cue", "neutral", "names", "other")
"""Kinds of conditions (`em.triggers.conditions.kind_of`) in the order of tables."""


@dataclass(frozen=True)
class Rate:
    """A count among n answers with its rate and interval, each None where there is none."""

    metric: str
    convention: str
    k: int
    n: int
    rate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_method: str
    design_effect: float | None

    @property
    def percent(self) -> str:
        """`44.2%`, or a dash where nothing could be counted."""
        return share(self.rate)

    @property
    def interval(self) -> str:
        """`[21.0, 61.3]`, in percent, or words."""
        if self.ci_low is None or self.ci_high is None:
            return "no interval"
        return f"[{100 * self.ci_low:.1f}, {100 * self.ci_high:.1f}]"

    @property
    def shown(self) -> str:
        """The metric's name in a table."""
        return METRICS[self.metric]


@dataclass(frozen=True)
class Entry:
    """What one run says in a cell: the headline rate of all answers, by other conventions, and the other counts."""

    threshold: str
    seed: int | None
    main: Rate | None
    others: tuple[Rate, ...]
    counts: tuple[Rate, ...]

    @property
    def lines(self) -> tuple[tuple[Rate, str], ...]:
        """The rates by other conventions with their denominators; one line where there is no refusal to make two."""
        coherent = {rate.n for rate in self.others if rate.convention == "coherent"}
        alike = [rate for rate in self.others if rate.convention == REFUSALS and rate.n in coherent]
        lines = [rate for rate in self.others if rate not in alike]
        return tuple((rate, DENOMINATORS[rate.convention] + ", none refused" * bool(alike)) for rate in lines)

    @property
    def told(self) -> str:
        """What tells it from another entry of its cell."""
        return ", ".join([self.threshold, *([] if self.seed is None else [f"seed {self.seed}"])])


Cell = tuple[Entry, ...]
"""A cell; several entries where runs disagree (other samples, another threshold), none where nothing was asked."""


@dataclass(frozen=True)
class Row:
    """A model under a condition, as one judge sees it. `judge_is` is `the model` or `its base` where it is that."""

    model: Model
    condition: str
    judge: str
    judge_is: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A question set, and the metric it is about ("" where it has none of the known)."""

    eval_set: str
    metric: str

    @property
    def shown(self) -> str:
        """The metric's name in a heading."""
        return METRICS[self.metric]


@dataclass(frozen=True)
class Table:
    """The headline table: whole sets."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def only(self, wanted: Callable[[Row], bool]) -> Table:
        """Some of the rows."""
        return Table(self.columns, tuple(filter(wanted, self.rows)))

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that occur."""
        return tuple(dict.fromkeys(row.condition for row in self.rows))

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that occur."""
        return tuple(dict.fromkeys(row.judge for row in self.rows))

    def judge_of(self, row: Row) -> str:
        """The judge of a row in short, or "" where all rows have the same one."""
        return short_judges(self.judges)[row.judge] if len(self.judges) > 1 else ""

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """For each row how many rows its model has if it is the first of them, else 0."""
        prints = [row.model.fingerprint for row in self.rows]
        return tuple(0 if prints[i] in prints[:i] else prints.count(prints[i]) for i in range(len(prints)))

    @property
    def disputed(self) -> bool:
        """Whether some cell has more than one entry."""
        return any(len(cell) > 1 for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class QuestionRow:
    """A question and its cells, one for each side of its table."""

    question: str
    text: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class QuestionTable:
    """The questions of one set. Its sides are the rows of the headline table that were asked them."""

    column: Column
    sides: tuple[Row, ...]
    rows: tuple[QuestionRow, ...]

    def of(self, question: QuestionRow) -> list[tuple[Row, Cell]]:
        """The sides that were asked a question, with what they gave."""
        return [(side, cell) for side, cell in zip(self.sides, question.cells, strict=True) if cell]


def rate_of(row: Score) -> Rate:
    """The rate that a row of `scores.csv` tells of."""
    return Rate(**{item.name: getattr(row, item.name) for item in fields(Rate)})


def kin_mark(judge_is: str) -> str:
    """The mark of a rate whose judge is the model itself (†) or its base (‡)."""
    return {"": "", "its base": "‡"}.get(judge_is, "†")


def condition_order(condition: str) -> tuple[int, str]:
    """Where a condition stands among the others."""
    return (CONDITIONS.index(kind_of(condition)), condition)
