"""What was found in the verdicts, as the page shows it: differences between models, thresholds, what isn't counted.

The section on judges has them as recorded artefacts, with the rate by each and what the calls took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from em.report.page.words import DENOMINATORS, METRICS, STATUSES
from em.report.read.calls import Costs, Judge, Usage
from em.report.read.runs import Run
from em.report.tables.analysis import Analysis
from em.report.tables.cells import Column, Rate, Row, Table
from em.report.tables.models import group_by
from em.stats import Agreement, Comparison, Sensitivity

FAMILIES = {
    "stage": "a model and what it was trained from",
    "sibling": "models that were trained side by side",
    "other": "all other pairs",
}
"""Whose p values are corrected together, as `em.stats.Comparison` has it, in the order of the page."""
SURE = 0.05
"""A difference whose corrected p is below this is counted in the heading of its family."""
FEW_ROWS = 20
"""A table with so many rows is open from the start."""
SEVERAL = 2


Recorded = tuple[Judge, list[tuple[int, Usage]]]
"""A judge, and what it took in each run that it judged in."""


@dataclass(frozen=True)
class Judged:
    """A model under a condition, its headline rate by judge, and `sides`, the rows that have them."""

    side: Row
    rates: dict[str, tuple[Rate, ...]]
    judge_is: dict[str, str]

    @property
    def spread(self) -> float | None:
        """How far the judges are apart: the highest rate less the lowest."""
        rates = [rate.rate for told in self.rates.values() for rate in told if rate.rate is not None]
        return max(rates) - min(rates) if len(rates) >= SEVERAL else None


@dataclass(frozen=True)
class JudgeTable:
    """The headline rates of one question set, judge beside judge."""

    column: Column
    judges: tuple[str, ...]
    rows: tuple[Judged, ...]


@dataclass(frozen=True)
class Family:
    """Comparisons whose p values are corrected together."""

    rows: Sequence[Comparison]

    @property
    def first(self) -> Comparison:
        """One of them, which has what is compared, where and how in common with the others."""
        return self.rows[0]

    @property
    def pooled(self) -> bool:
        """Whether they are over seeds."""
        return self.first.seeds > 0

    @property
    def sure(self) -> int:
        """How many differences are sure."""
        return sum(row.p_holm < SURE for row in self.rows)

    @property
    def what(self) -> str:
        """The rate that is compared, and which pairs these are: `misaligned, of all; over seeds: …`."""
        who = ("over seeds: " if self.pooled else "") + FAMILIES[self.first.family]
        return f"{METRICS[self.first.metric]}, {DENOMINATORS[self.first.convention]}; {who}"


def families(comparisons: Sequence[Comparison]) -> list[Family]:
    """The comparisons by what is compared: those of all answers first, of those over seeds first."""
    shared = attrgetter("eval_set", "condition", "judge", "convention", "metric", "threshold", "family")
    blocks = map(Family, group_by(comparisons, lambda row: (*shared(row), row.seeds > 0)).values())
    order = list(FAMILIES)
    return sorted(blocks, key=lambda b: (b.first.convention != "all", not b.pooled, order.index(b.first.family)))


@dataclass(frozen=True)
class ThresholdTable:
    """How the rates of one question set move with the threshold: of each row of the headline table those by it."""

    eval_set: str
    thresholds: Sequence[float]
    rows: Mapping[Row, Mapping[float, Sensitivity]]


def threshold_tables(rows: Sequence[Sensitivity], table: Table) -> list[ThresholdTable]:
    """A table for each graded set, in the order of the headline table."""
    found: dict[tuple[str, str, str, str], dict[float, Sensitivity]] = {}
    for row in rows:
        found.setdefault((row.eval_set, row.fingerprint, row.condition, row.judge), {})[row.threshold] = row
    tables = []
    for column in table.columns:
        keys = {side: (column.eval_set, side.model.fingerprint, side.condition, side.judge) for side in table.rows}
        moved = {side: found[key] for side, key in keys.items() if key in found}
        if moved:
            thresholds = sorted({threshold for rates in moved.values() for threshold in rates})
            tables.append(ThresholdTable(column.eval_set, thresholds, moved))
    return tables


@dataclass(frozen=True)
class Excluded:
    """Judgements of one kind that are no number, by status, of `n`; of all models where `fingerprint` is empty."""

    eval_set: str
    judge: str
    rubric: str
    fingerprint: str
    condition: str
    n: int
    by_status: dict[str, int]

    @property
    def total(self) -> int:
        """Of every status."""
        return sum(self.by_status.values())


@dataclass(frozen=True)
class Exclusions:
    """What isn't counted, in all and by model, and the statuses that occur."""

    statuses: tuple[str, ...]
    summary: tuple[Excluded, ...]
    by_model: tuple[Excluded, ...]


def exclusion_tables(analysis: Analysis) -> Exclusions:
    """The excluded judgements by set, judge and rubric: of all models together, and of each."""
    by_model = group_by(
        analysis.exclusions, lambda row: (row.eval_set, row.judge, row.rubric, row.fingerprint, row.condition)
    )
    seen = {row.status for row in analysis.exclusions}
    summary = {key: Counter[str]() for key in analysis.judged}
    for row in analysis.exclusions:
        summary[row.eval_set, row.judge, row.rubric][row.status] += row.count
    return Exclusions(
        statuses=tuple(status for status in STATUSES if status in seen),
        summary=tuple(Excluded(*key, "", "", analysis.judged[key], found) for key, found in summary.items()),
        by_model=tuple(
            Excluded(*key, rows[0].n, {row.status: row.count for row in rows}) for key, rows in by_model.items()
        ),
    )


@dataclass(frozen=True)
class Findings:
    """All that the sections on judges and statistics show."""

    families: Sequence[Family]
    thresholds: Sequence[ThresholdTable]
    judges: Sequence[Recorded]
    by_judge: Sequence[JudgeTable]
    agreement: Sequence[Agreement]
    exclusions: Exclusions
    costs: tuple[tuple[int, Costs], ...]

    @classmethod
    def of(cls, runs: Sequence[Run], table: Table, analysis: Analysis) -> Findings:
        """The findings in the order of the headline table."""
        return cls(
            families=families([row for row in analysis.comparisons if row.condition in table.conditions]),
            thresholds=threshold_tables(analysis.sensitivity, table),
            judges=recorded_judges(runs),
            by_judge=judge_tables(table),
            agreement=analysis.agreement,
            exclusions=exclusion_tables(analysis),
            costs=tuple((run.number, run.manifest.costs) for run in runs if run.manifest.costs.by),
        )


def recorded_judges(runs: Sequence[Run]) -> list[Recorded]:
    """Every judge that the manifests tell of, once."""
    found: list[Recorded] = []
    for run in runs:
        for judge in run.manifest.judges:
            alone = replace(judge, **vars(Usage()))
            used = next((used for other, used in found if other == alone), None)
            if used is None:
                found.append((alone, used := []))
            used.append((run.number, judge))
    return found


def judge_tables(table: Table) -> list[JudgeTable]:
    """For each set that several judges judged, what each of them makes of the models."""
    tables = []
    for place, column in enumerate(table.columns):
        found: dict[tuple[str, str], Judged] = {}
        for row in table.rows if column.metric else ():
            rates = tuple(entry.main for entry in row.cells[place] if entry.main is not None)
            if rates:
                judged = found.setdefault((row.model.fingerprint, row.condition), Judged(row, {}, {}))
                judged.rates[row.judge] = rates
                judged.judge_is[row.judge] = row.judge_is
        rows = tuple(judged for judged in found.values() if len(judged.rates) >= SEVERAL)
        judges = dict.fromkeys(judge for judged in rows for judge in judged.rates)
        if rows:
            tables.append(JudgeTable(column, tuple(judges), rows))
    return tables
