"""The numbers of the report as tables: rows are models under a condition, columns are question sets."""

from __future__ import annotations

from collections.abc import Sequence

from em.report.page.words import metric_order
from em.report.read.runs import Run
from em.report.tables.cells import (
    HEADLINES,
    WHOLE_SET,
    Cell,
    Column,
    Entry,
    QuestionRow,
    QuestionTable,
    Row,
    Table,
    condition_order,
    rate_of,
)
from em.report.tables.models import Model
from em.report.tables.seeds import Pool
from em.triggers.conditions import kind_of
from em.types import Score

Side = tuple[str, str, str]
Key = tuple[str, str, str, str, str]


class Scores:
    """The scores that there are of some models, found by fingerprint, condition, judge, set and question."""

    def __init__(self, runs: Sequence[Run], models: dict[str, Model], pools: Sequence[Pool] = ()) -> None:
        self._found: dict[Key, dict[tuple[int, str, int | None], list[Score]]] = {}
        self.judge_is: dict[Side, str] = {}  # of each row of a table, what its judge is to its model
        rows = [(run.number, row.fingerprint, row) for run in runs for row in run.scores if row.fingerprint in models]
        rows += [(0, pool.model.fingerprint, row) for pool in pools for row in pool.scores]
        for run, fingerprint, row in rows:
            side = (fingerprint, row.condition, row.judge)
            by_run = self._found.setdefault((*side, row.eval_set, row.question), {})
            by_run.setdefault((run, row.threshold, row.seed), []).append(row)
            self.judge_is[side] = row.judge_is or self.judge_is.get(side, "")

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

    def rows(self, side: Side, eval_set: str, question: str) -> list[Score]:
        """The rows of `scores.csv` there, of all runs."""
        return [row for rows in self._found.get((*side, eval_set, question), {}).values() for row in rows]

    def cell(self, side: Side, column: Column, question: str) -> Cell:
        """What the runs say there; runs that say the same say it once."""
        by_run = self._found.get((*side, column.eval_set, question), {})
        entries = [_entry(threshold, seed, column.metric, rows) for (_, threshold, seed), rows in by_run.items()]
        entries.sort(key=lambda entry: -(entry.main.n if entry.main else 0))  # differences are of the fullest run too
        return tuple(dict.fromkeys(entries))


def _entry(threshold: str, seed: int | None, metric: str, rows: Sequence[Score]) -> Entry:
    rates = {(row.convention, row.metric): rate_of(row) for row in rows}
    counts = [rate for (convention, name), rate in rates.items() if convention == "all" and name != metric]
    counts.sort(key=lambda rate: metric_order(rate.metric))
    others = [rate for (convention, name), rate in rates.items() if convention != "all" and name == metric]
    return Entry(threshold, seed, rates.get(("all", metric)), tuple(others), tuple(counts))


def headline(scores: Scores, models: dict[str, Model]) -> Table:
    """Whole sets: a row for each model, condition and judge.

    But for near misses, cues and neutral prompts, of which there are many: the section on triggers has them.
    """
    columns = scores.columns()
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    shown = [side for side in scores.judge_is if kind_of(side[1]) not in ("near", "cue", "neutral")]
    sides = sorted(shown, key=lambda side: (place[side[0]], condition_order(side[1]), side[2]))
    rows = []
    for side in sides:
        cells = tuple(scores.cell(side, column, WHOLE_SET) for column in columns)
        rows.append(Row(models[side[0]], side[1], side[2], scores.judge_is[side], cells))
    return Table(columns, tuple(rows))


def by_question(scores: Scores, table: Table, texts: dict[tuple[str, str], str]) -> list[QuestionTable]:
    """The questions of each set, with what each model that was asked them gave. `texts`: the questions' wording."""
    tables = []
    for column in table.columns:
        questions = scores.questions(column.eval_set)
        found = {row: [scores.cell(side_of(row), column, question) for question in questions] for row in table.rows}
        asked = {row: cells for row, cells in found.items() if any(cells)}
        if asked:
            by_side = zip(*asked.values(), strict=True)
            rows = [
                QuestionRow(question, texts.get((column.eval_set, question), ""), cells)
                for question, cells in zip(questions, by_side, strict=True)
            ]
            tables.append(QuestionTable(column, tuple(asked), tuple(rows)))
    return tables


def side_of(row: Row) -> Side:
    """Fingerprint, condition and judge of a row of the headline table."""
    return (row.model.fingerprint, row.condition, row.judge)
