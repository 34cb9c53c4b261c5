"""What was found in the verdicts, as the page shows it: differences between models, thresholds, what isn't counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from em.report.analysis import Analysis
from em.report.cells import Row, Table
from em.report.judges import Calls, JudgeTable, Recorded, calls_of, judge_tables, recorded_judges
from em.report.load import Run
from em.report.words import STATUSES, denominator, metric_name
from em.stats import Agreement, Comparison, Exclusion, Sensitivity

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


@dataclass(frozen=True)
class Family:
    """Comparisons whose p values are corrected together."""

    eval_set: str
    condition: str
    judge: str
    convention: str
    metric: str
    threshold: str
    family: str
    pooled: bool
    rows: tuple[Comparison, ...]

    @property
    def sure(self) -> int:
        """How many differences are sure."""
        return sum(row.p_holm < SURE for row in self.rows)

    @property
    def what(self) -> str:
        """The rate that is compared: `misaligned, of all`."""
        return f"{metric_name(self.metric)}, {denominator(self.convention)}"

    @property
    def who(self) -> str:
        """Which pairs these are: `over seeds: …`."""
        return ("over seeds: " if self.pooled else "") + FAMILIES[self.family]


def families(comparisons: Sequence[Comparison]) -> list[Family]:
    """The comparisons by what is compared: those of all answers first, of those over seeds first."""
    found: dict[tuple[str, str, str, str, str, str, str, bool], list[Comparison]] = {}
    for row in comparisons:
        place = (row.eval_set, row.condition, row.judge, row.convention, row.metric, row.threshold)
        found.setdefault((*place, row.family, row.seeds > 0), []).append(row)
    blocks = [Family(*key, tuple(rows)) for key, rows in found.items()]
    return sorted(blocks, key=lambda b: (b.convention != "all", not b.pooled, list(FAMILIES).index(b.family)))


@dataclass(frozen=True)
class Moved:
    """A row of the headline table, and its rate of misaligned answers by threshold."""

    side: Row
    rates: dict[float, Sensitivity]


@dataclass(frozen=True)
class ThresholdTable:
    """How the rates of one question set move with the threshold."""

    eval_set: str
    thresholds: tuple[float, ...]
    rows: tuple[Moved, ...]


def threshold_tables(rows: Sequence[Sensitivity], table: Table) -> list[ThresholdTable]:
    """A table for each graded set, in the order of the headline table."""
    found: dict[tuple[str, str, str, str], dict[float, Sensitivity]] = {}
    for row in rows:
        found.setdefault((row.eval_set, row.fingerprint, row.condition, row.judge), {})[row.threshold] = row
    tables = []
    for column in table.columns:
        sides = [(side, (column.eval_set, side.model.fingerprint, side.condition, side.judge)) for side in table.rows]
        moved = tuple(Moved(side, found[key]) for side, key in sides if key in found)
        if moved:
            thresholds = sorted({threshold for row in moved for threshold in row.rates})
            tables.append(ThresholdTable(column.eval_set, tuple(thresholds), moved))
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
    by_model: dict[tuple[str, str, str, str, str], list[Exclusion]] = {}
    for row in analysis.exclusions:
        key = (row.eval_set, row.judge, row.rubric, row.fingerprint, row.condition)
        by_model.setdefault(key, []).append(row)
    seen = {row.status for row in analysis.exclusions}
    summary: dict[tuple[str, str, str], dict[str, int]] = {key: {} for key in analysis.judged}
    for row in analysis.exclusions:
        of_all = summary[row.eval_set, row.judge, row.rubric]
        of_all[row.status] = of_all.get(row.status, 0) + row.count
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
    calls: Calls

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
            calls=calls_of(runs),
        )
