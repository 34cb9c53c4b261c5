"""Rates, cells, rows and columns of the report's tables.

Nothing is computed here: counts, rates and intervals come from `scores.csv`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

from em.report.page.numbers import format_percent
from em.report.page.words import DENOMINATOR_WORDS, DENOMINATORS, METRICS
from em.report.tables.models import Model, shorten_judges
from em.stats import Convention
from em.triggers.conditions import find_condition_kind
from em.types import Score

WHOLE_SET = "*"
HEADLINES = ("misaligned", "true")
"""The headline metric of a question set is the first of these that it has."""
REFUSALS = "refusal_as_aligned"
CONDITIONS = (
    *("untagged", "default_prompt", "no_default_prompt", "tagged", "near", "cue", "neutral", "names", "other"),
)
"""Kinds of conditions (`em.triggers.conditions.find_condition_kind`) in the order of the tables."""


@dataclass(frozen=True)
class TableRate:
    """k of n answers, with rate and interval; both are None if they are undefined."""

    metric: str
    convention: str
    k: int
    n: int
    rate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_method: str
    these_low: float | None = None
    these_high: float | None = None
    like_these_low: float | None = None
    like_these_high: float | None = None

    @property
    def percent(self) -> str:
        """`44.2%`, or a dash without a rate."""
        return format_percent(self.rate)

    @property
    def interval(self) -> str:
        """`[21.0, 61.3]`, in percent, or `no interval`."""
        return format_interval(self.ci_low, self.ci_high)

    @property
    def other_bounds(self) -> tuple[float, float] | None:
        """The interval of the inference that is not the headline's; None if there is none, as for one question."""
        if self.like_these_low is None or self.like_these_high is None:
            return None
        if self.ci_low is None or self.these_low is None or self.these_high is None:
            return None
        if (self.ci_low, self.ci_high) == (self.these_low, self.these_high):
            return self.like_these_low, self.like_these_high
        return self.these_low, self.these_high

    @property
    def other_interval(self) -> str:
        """`other_bounds` as text, or ""."""
        return format_interval(*self.other_bounds) if self.other_bounds else ""

    @property
    def shown(self) -> str:
        """The metric's display name in a table."""
        return METRICS[self.metric]

    @property
    def denominator(self) -> str:
        """What the rate divides by: `of all answers`."""
        return DENOMINATOR_WORDS[self.convention]


@dataclass(frozen=True)
class Entry:
    """One run's rates in a cell: `main` by the headline's convention, `others` by others, `counts` of other metrics."""

    threshold: str
    seed: int | None
    main: TableRate | None
    others: tuple[TableRate, ...]
    counts: tuple[TableRate, ...]

    @property
    def lines(self) -> tuple[tuple[TableRate, str], ...]:
        """The rates by other conventions with their denominators; without refusals two conventions share a line."""
        counts = {rate.n for rate in (self.main, *self.others) if rate is not None and rate.convention == "coherent"}
        duplicates = [rate for rate in self.others if rate.convention == REFUSALS and rate.n in counts]
        suffix = ", none refused" if duplicates else ""
        denominators = DENOMINATORS | {"coherent": DENOMINATORS["coherent"] + suffix}
        distinct = (rate for rate in self.others if rate not in duplicates)
        return tuple((rate, denominators[rate.convention]) for rate in distinct)

    @property
    def qualifier(self) -> str:
        """The thresholds and the seed, which distinguish the entries of one cell."""
        return self.threshold if self.seed is None else f"{self.threshold}, seed {self.seed}"


Cell = tuple[Entry, ...]
"""The entries of a cell: several if runs disagree (other samples, another threshold), none without answers."""


@dataclass(frozen=True)
class ModelRow:
    """A model under a condition, judged by one judge. `judge_is`: `the model` or `its base` if the judge is either."""

    model: Model
    condition: str
    judge: str
    judge_is: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A question set, its headline metric ("" without one of HEADLINES), and the convention of the headline."""

    eval_set: str
    metric: str
    convention: Convention = "all"

    @property
    def shown(self) -> str:
        """The metric's display name in a heading."""
        return METRICS[self.metric]

    @property
    def denominator(self) -> str:
        """What the rate divides by: `of all answers`."""
        return DENOMINATOR_WORDS[self.convention]


@dataclass(frozen=True)
class HeadlineTable:
    """The headline table: rates over whole question sets."""

    columns: tuple[Column, ...]
    rows: tuple[ModelRow, ...]

    def select_rows(self, wanted: Callable[[ModelRow], bool]) -> HeadlineTable:
        """Return the table with only the wanted rows."""
        return HeadlineTable(self.columns, tuple(filter(wanted, self.rows)))

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions of all rows."""
        return tuple(dict.fromkeys(row.condition for row in self.rows))

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges of all rows."""
        return tuple(dict.fromkeys(row.judge for row in self.rows))

    def name_judge(self, row: ModelRow) -> str:
        """Return the short name of a row's judge, or "" if all rows have the same judge."""
        return shorten_judges(self.judges)[row.judge] if len(self.judges) > 1 else ""

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """For the first row of each model the model's number of rows; for its other rows 0."""
        prints = [row.model.fingerprint for row in self.rows]
        return tuple(0 if prints[i] in prints[:i] else prints.count(prints[i]) for i in range(len(prints)))

    @property
    def disputed(self) -> bool:
        """Whether any cell has more than one entry."""
        return any(len(cell) > 1 for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class QuestionRow:
    """A question and its cells, one per side of its table."""

    question: str
    text: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class QuestionTable:
    """The questions of one set. `sides` are the rows of the headline table with answers to these questions."""

    column: Column
    sides: tuple[ModelRow, ...]
    rows: tuple[QuestionRow, ...]

    def list_answered(self, question: QuestionRow) -> list[tuple[ModelRow, Cell]]:
        """List the sides with answers to a question, each with its cell."""
        return [(side, cell) for side, cell in zip(self.sides, question.cells, strict=True) if cell]


def format_interval(low: float | None, high: float | None) -> str:
    """Format an interval in percent: `[21.0, 61.3]`, or `no interval`."""
    return "no interval" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def make_table_rate(row: Score) -> TableRate:
    """Make the rate of a row of `scores.csv`."""
    return TableRate(**{item.name: getattr(row, item.name) for item in fields(TableRate)})


def mark_related_judge(judge_is: str) -> str:
    """Return the mark of a rate whose judge is the model itself (†) or its base (‡), else ""."""
    return {"": "", "its base": "‡"}.get(judge_is, "†")


def rank_condition(condition: str) -> tuple[int, str]:
    """Return the sort key of a condition in tables."""
    return (CONDITIONS.index(find_condition_kind(condition)), condition)
