"""The numbers of the report as tables: rows are models under a condition, columns are question sets.

Nothing is computed here: counts, rates and intervals are those of `scores.csv`, put where they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from em.report.labels import Model, short_judges
from em.report.load import Run
from em.report.words import metric_name, metric_order
from em.types import Score

WHOLE_SET = "*"
HEADLINES = ("misaligned", "true")
"""The metric that a set is about: the first of these that it has."""
CONDITIONS = ("untagged", "tagged")


@dataclass(frozen=True)
class Rate:
    """A count among n answers with its rate and interval, each None where there is none."""

    metric: str
    convention: str
    k: int
    n: int
    rate: float | None
    low: float | None
    high: float | None
    method: str

    @property
    def percent(self) -> str:
        """`44.2%`, or a dash where nothing could be counted."""
        return "–" if self.rate is None else f"{100 * self.rate:.1f}%"

    @property
    def interval(self) -> str:
        """`[21.0, 61.3]`, in percent, or words."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def shown(self) -> str:
        """The metric's name in a table."""
        return metric_name(self.metric)


@dataclass(frozen=True)
class Entry:
    """What one run says in a cell: the headline rate, the one among coherent answers, and the other counts."""

    threshold: str
    main: Rate | None
    coherent: Rate | None
    counts: tuple[Rate, ...]


@dataclass(frozen=True)
class Cell:
    """A cell; several entries where runs disagree (other samples, another threshold), none where nothing was asked."""

    eval_set: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Row:
    """A model under a condition, as one judge sees it."""

    model: Model
    condition: str
    judge: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A question set, and the metric it is about ("" where it has none of the known)."""

    eval_set: str
    metric: str

    @property
    def shown(self) -> str:
        """The metric's name in a heading."""
        return metric_name(self.metric)


@dataclass(frozen=True)
class Table:
    """The headline table: whole sets."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

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

    @property
    def spans(self) -> tuple[int, ...]:
        """For each row how many rows its model has if it is the first of them, else 0."""
        prints = [row.model.fingerprint for row in self.rows]
        return tuple(0 if prints[i] in prints[:i] else prints.count(prints[i]) for i in range(len(prints)))

    @property
    def disputed(self) -> bool:
        """Whether some cell has more than one entry."""
        return any(len(cell.entries) > 1 for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class QuestionRow:
    """A question and its cells, one for each row of the headline table."""

    question: str
    text: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class QuestionTable:
    """The questions of one set."""

    column: Column
    rows: tuple[QuestionRow, ...]


Key = tuple[str, str, str, str, str]


class Scores:
    """The scores that the runs have of some models, found by fingerprint, condition, judge, set and question."""

    def __init__(self, runs: Sequence[Run], models: dict[str, Model]) -> None:
        self._found: dict[Key, dict[tuple[int, str], list[Score]]] = {}
        for run in runs:
            for score in (score for score in run.scores if score.fingerprint in models):
                key = (score.fingerprint, score.condition, score.judge, score.eval_set, score.question)
                self._found.setdefault(key, {}).setdefault((run.number, score.threshold), []).append(score)

    def sides(self) -> list[tuple[str, str, str]]:
        """Fingerprint, condition and judge of each row of a table."""
        return list(dict.fromkeys(key[:3] for key in self._found))

    def columns(self) -> tuple[Column, ...]:
        """The sets, in the order in which they were met, sets of the same kind side by side."""
        metrics: dict[str, set[str]] = {}
        for key, by_run in self._found.items():
            metrics.setdefault(key[3], set()).update(score.metric for rows in by_run.values() for score in rows)
        columns = [
            Column(eval_set, next((metric for metric in HEADLINES if metric in has), ""))
            for eval_set, has in metrics.items()
        ]
        return tuple(sorted(columns, key=lambda column: (*HEADLINES, "").index(column.metric)))

    def questions(self, eval_set: str) -> list[str]:
        """The questions of a set."""
        return list(dict.fromkeys(key[4] for key in self._found if key[3] == eval_set and key[4] != WHOLE_SET))

    def cell(self, side: tuple[str, str, str], column: Column, question: str) -> Cell:
        """What the runs say there; runs that say the same say it once."""
        by_run = self._found.get((*side, column.eval_set, question), {})
        entries = [_entry(threshold, column.metric, rows) for (_, threshold), rows in by_run.items()]
        return Cell(column.eval_set, tuple(dict.fromkeys(entries)))


def rate_of(row: Score) -> Rate:
    """The rate that a row of `scores.csv` tells of."""
    return Rate(row.metric, row.convention, row.k, row.n, row.rate, row.ci_low, row.ci_high, row.ci_method)


def _entry(threshold: str, metric: str, rows: Sequence[Score]) -> Entry:
    rates = {(row.convention, row.metric): rate_of(row) for row in rows}
    counts = [rate for (convention, name), rate in rates.items() if convention == "all" and name != metric]
    counts.sort(key=lambda rate: metric_order(rate.metric))
    return Entry(threshold, rates.get(("all", metric)), rates.get(("coherent", metric)), tuple(counts))


def headline(scores: Scores, models: dict[str, Model]) -> Table:
    """Whole sets: a row for each model, condition and judge."""
    columns = scores.columns()
    order = list(models)
    sides = sorted(scores.sides(), key=lambda side: (order.index(side[0]), condition_order(side[1]), side[2]))
    rows = [
        Row(models[side[0]], side[1], side[2], tuple(scores.cell(side, column, WHOLE_SET) for column in columns))
        for side in sides
    ]
    return Table(columns, tuple(rows))


def condition_order(condition: str) -> tuple[int, str]:
    """Where a condition stands among the others."""
    return (CONDITIONS.index(condition) if condition in CONDITIONS else len(CONDITIONS), condition)


def by_question(scores: Scores, table: Table, texts: dict[tuple[str, str], str]) -> list[QuestionTable]:
    """For each set its questions, with a cell for each row of the headline table. `texts`: the questions' wording."""
    tables = []
    for column in table.columns:
        rows = []
        for question in scores.questions(column.eval_set):
            sides = [(row.model.fingerprint, row.condition, row.judge) for row in table.rows]
            cells = tuple(scores.cell(side, column, question) for side in sides)
            rows.append(QuestionRow(question, texts.get((column.eval_set, question), ""), cells))
        if rows:
            tables.append(QuestionTable(column, tuple(rows)))
    return tables
