"""The headline table (rows: models under a condition; columns: question sets) and the tables by question."""

from __future__ import annotations

from collections.abc import Sequence

from em.report.page.words import rank_metric
from em.report.read.runs import RecordedRun
from em.report.tables.cells import (
    HEADLINES,
    WHOLE_SET,
    Cell,
    Column,
    Entry,
    HeadlineTable,
    ModelRow,
    QuestionRow,
    QuestionTable,
    make_table_rate,
    rank_condition,
)
from em.report.tables.models import Model
from em.report.tables.seeds import SeedPool
from em.stats import Convention
from em.triggers.conditions import find_condition_kind
from em.types import Score

Side = tuple[str, str, str]
"""Fingerprint, condition and judge."""
Key = tuple[str, str, str, str, str]
"""A side, its question set and its question."""


class Scores:
    """The scores of some models, indexed by fingerprint, condition, judge, set and question."""

    def __init__(
        self,
        runs: Sequence[RecordedRun],
        models: dict[str, Model],
        pools: Sequence[SeedPool] = (),
        convention: Convention = "all",
    ) -> None:
        self.convention = convention
        self._scores: dict[Key, dict[tuple[int, str, int | None], list[Score]]] = {}
        self.judge_is: dict[Side, str] = {}  # what the judge of a side is to its model
        rows = [(run.number, row.fingerprint, row) for run in runs for row in run.scores if row.fingerprint in models]
        rows += [(0, pool.model.fingerprint, row) for pool in pools for row in pool.scores]
        for run, fingerprint, row in rows:
            side = (fingerprint, row.condition, row.judge)
            by_run = self._scores.setdefault((*side, row.eval_set, row.question), {})
            by_run.setdefault((run, row.threshold, row.seed), []).append(row)
            self.judge_is[side] = row.judge_is or self.judge_is.get(side, "")

    def list_columns(self) -> tuple[Column, ...]:
        """List the question sets in the order of the scores, sets with the same headline metric side by side."""
        metrics: dict[str, set[str]] = {}
        for key, by_run in self._scores.items():
            metrics.setdefault(key[3], set()).update(score.metric for rows in by_run.values() for score in rows)
        columns = list[Column]()
        for eval_set, its_metrics in metrics.items():
            metric = next((metric for metric in HEADLINES if metric in its_metrics), "")
            columns.append(Column(eval_set, metric, self.convention if metric == "misaligned" else "all"))
        return tuple(sorted(columns, key=lambda column: (*HEADLINES, "").index(column.metric)))

    def list_set_questions(self, eval_set: str) -> list[str]:
        """List the questions of a set."""
        return list(dict.fromkeys(key[4] for key in self._scores if key[3] == eval_set and key[4] != WHOLE_SET))

    def find_rows(self, side: Side, eval_set: str, question: str) -> list[Score]:
        """Return the rows of `scores.csv` of all runs for a side, set and question."""
        return [row for rows in self._scores.get((*side, eval_set, question), {}).values() for row in rows]

    def make_cell(self, side: Side, column: Column, question: str) -> Cell:
        """Make the cell of a side, set and question, with one entry for runs that agree."""
        by_run = self._scores.get((*side, column.eval_set, question), {})
        entries = [_make_entry(threshold, seed, column, rows) for (_, threshold, seed), rows in by_run.items()]
        entries.sort(key=lambda entry: -(entry.main.n if entry.main else 0))  # like differences, first the fullest run
        return tuple(dict.fromkeys(entries))


def _make_entry(threshold: str, seed: int | None, column: Column, rows: Sequence[Score]) -> Entry:
    rates = {(row.convention, row.metric): make_table_rate(row) for row in rows}
    main = rates.get((column.convention, column.metric))
    counts = [rate for (convention, name), rate in rates.items() if convention == "all" and name != column.metric]
    counts.sort(key=lambda rate: rank_metric(rate.metric))
    others = [rate for (_, name), rate in rates.items() if name == column.metric and rate is not main]
    return Entry(threshold, seed, main, tuple(others), tuple(counts))


def make_headline_table(scores: Scores, models: dict[str, Model]) -> HeadlineTable:
    """Make the table of whole sets: a row for each model, condition and judge.

    The many near misses, cues and neutral prompts are left out: the section on triggers shows them.
    """
    columns = scores.list_columns()
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    shown = [side for side in scores.judge_is if find_condition_kind(side[1]) not in ("near", "cue", "neutral")]
    sides = sorted(shown, key=lambda side: (place[side[0]], rank_condition(side[1]), side[2]))
    rows = []
    for side in sides:
        cells = tuple(scores.make_cell(side, column, WHOLE_SET) for column in columns)
        rows.append(ModelRow(models[side[0]], side[1], side[2], scores.judge_is[side], cells))
    return HeadlineTable(columns, tuple(rows))


def make_question_tables(
    scores: Scores, table: HeadlineTable, texts: dict[tuple[str, str], str]
) -> list[QuestionTable]:
    """Make the table of questions of each set, one column per side with answers. `texts`: the questions' wording."""
    tables = []
    for column in table.columns:
        questions = scores.list_set_questions(column.eval_set)
        cells = {}
        for row in table.rows:
            cells[row] = [scores.make_cell(make_side(row), column, question) for question in questions]
        answered = {row: row_cells for row, row_cells in cells.items() if any(row_cells)}
        if answered:
            wordings = [texts.get((column.eval_set, question), "") for question in questions]
            cells_by_question = zip(*answered.values(), strict=True)
            contents = zip(questions, wordings, cells_by_question, strict=True)
            rows = tuple(QuestionRow(*parts) for parts in contents)
            tables.append(QuestionTable(column, tuple(answered), rows))
    return tables


def make_side(row: ModelRow) -> Side:
    """Return fingerprint, condition and judge of a row of the headline table."""
    return (row.model.fingerprint, row.condition, row.judge)
