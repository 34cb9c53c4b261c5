"""Tables of the sections on statistics and judges: differences, thresholds, excluded judgements, judges, costs.

Judges are shown as the manifests record them, with the rates by each judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from em.report.page.words import DENOMINATORS, METRICS, STATUSES
from em.report.read.calls import Costs, RecordedJudge, Usage
from em.report.read.runs import RecordedRun
from em.report.tables.analysis import Analysis
from em.report.tables.cells import Column, HeadlineTable, ModelRow, TableRate
from em.report.tables.models import group_by
from em.stats import Agreement, Comparison, Sensitivity

FAMILIES = {
    "first": "first training and base",
    "second": "later training and first training",
    "control": "later training and its control",
    "stage": "other stages of a lineage",
    "sibling": "models that differ in their last training stage only",
    "other": "all other pairs",
}
"""Families of pairs (`em.stats.Comparison`), in the order of the page; the first three have a p."""
UNSURE = ("no sure difference", "can't tell", "fell by other outcomes")
FEW_ROWS = 20
"""The page opens with tables of at most this many rows unfolded."""
LEAST_JUDGES = 2
Recorded = tuple[RecordedJudge, list[tuple[int, RecordedJudge]]]
"""A judge without counts and, by run number, its record with the usage and the counts of that run."""


@dataclass(frozen=True)
class ModelByJudge:
    """A model under a condition (`side`), its headline rates by judge, and what each judge is to the model."""

    side: ModelRow
    rates: dict[str, tuple[TableRate, ...]]
    judge_is: dict[str, str]

    @property
    def spread(self) -> float | None:
        """How far the judges are apart: the highest rate minus the lowest."""
        rates = [rate.rate for by_judge in self.rates.values() for rate in by_judge if rate.rate is not None]
        return max(rates) - min(rates) if len(rates) >= LEAST_JUDGES else None


@dataclass(frozen=True)
class JudgeTable:
    """The headline rates of one question set, one column per judge."""

    column: Column
    judges: tuple[str, ...]
    rows: tuple[ModelByJudge, ...]


@dataclass(frozen=True)
class ComparisonFamily:
    """Comparisons of one kind, in one set, under one condition and convention, by one judge."""

    rows: Sequence[Comparison]

    @property
    def first(self) -> Comparison:
        """The first comparison; the others share its set, condition, judge, convention, metric and threshold."""
        return self.rows[0]

    @property
    def pooled(self) -> bool:
        """Whether the comparisons are over several seeds."""
        return self.first.seeds > 0

    @property
    def sure_count(self) -> int:
        """How many differences are sure at the 5% level, of those that have a p."""
        return sum(row.p is not None and row.finding.verdict not in UNSURE for row in self.rows)

    @property
    def is_primary(self) -> bool:
        """Whether the pairs have a p."""
        return any(row.is_primary for row in self.rows)

    @property
    def description(self) -> str:
        """The compared rate and the kind of pairs: `misaligned, of all; over seeds: …`."""
        prefix = "over seeds: " if self.pooled else ""
        rate = f"{METRICS[self.first.metric]}, {DENOMINATORS[self.first.convention]}"
        return f"{rate}; {prefix}{FAMILIES[self.first.family]}"


def group_comparisons(comparisons: Sequence[Comparison], convention: str) -> list[ComparisonFamily]:
    """Group comparisons into families: rates of the headline first, and among these families over seeds first."""
    shared = attrgetter("eval_set", "condition", "judge", "convention", "metric", "threshold", "family")
    blocks = map(ComparisonFamily, group_by(comparisons, lambda row: (*shared(row), row.seeds > 0)).values())
    order = list(FAMILIES)
    return sorted(blocks, key=lambda b: (b.first.convention != convention, not b.pooled, order.index(b.first.family)))


@dataclass(frozen=True)
class ThresholdTable:
    """The rates of one question set by threshold, for each row of the headline table."""

    eval_set: str
    thresholds: Sequence[float]
    rows: Mapping[ModelRow, Mapping[float, Sensitivity]]


def make_threshold_tables(rows: Sequence[Sensitivity], table: HeadlineTable) -> list[ThresholdTable]:
    """Make a table for each graded set, in the order of the headline table."""
    by_side: dict[tuple[str, str, str, str], dict[float, Sensitivity]] = {}
    for row in rows:
        by_side.setdefault((row.eval_set, row.fingerprint, row.condition, row.judge), {})[row.threshold] = row
    tables = []
    for column in table.columns:
        keys = {side: (column.eval_set, side.model.fingerprint, side.condition, side.judge) for side in table.rows}
        by_row = {side: by_side[key] for side, key in keys.items() if key in by_side}
        if by_row:
            thresholds = sorted({threshold for rates in by_row.values() for threshold in rates})
            tables.append(ThresholdTable(column.eval_set, thresholds, by_row))
    return tables


@dataclass(frozen=True)
class Excluded:
    """How many of `n` judgements are excluded, by status; over all models if `fingerprint` is empty."""

    eval_set: str
    judge: str
    rubric: str
    fingerprint: str
    condition: str
    n: int
    by_status: dict[str, int]

    @property
    def total(self) -> int:
        """The number of excluded judgements of any status."""
        return sum(self.by_status.values())


@dataclass(frozen=True)
class Exclusions:
    """Excluded judgements over all models and by model, and the statuses that occur."""

    statuses: tuple[str, ...]
    summary: tuple[Excluded, ...]
    by_model: tuple[Excluded, ...]


def make_exclusion_tables(analysis: Analysis) -> Exclusions:
    """Count excluded judgements by set, judge and rubric: over all models together, and for each model."""
    by_model = list[Excluded]()
    key_of = attrgetter("eval_set", "judge", "rubric", "fingerprint", "condition")
    for key, rows in group_by(analysis.exclusions, key_of).items():
        eval_set, judge, rubric, fingerprint, condition = key
        counts = {row.status: row.count for row in rows}
        by_model.append(Excluded(eval_set, judge, rubric, fingerprint, condition, rows[0].n, counts))
    seen = {row.status for row in analysis.exclusions}
    summary = {key: Counter[str]() for key in analysis.judged}
    for row in analysis.exclusions:
        summary[row.eval_set, row.judge, row.rubric][row.status] += row.count
    return Exclusions(
        statuses=tuple(status for status in STATUSES if status in seen),
        summary=tuple(Excluded(*key, "", "", analysis.judged[key], counts) for key, counts in summary.items()),
        by_model=tuple(by_model),
    )


@dataclass(frozen=True)
class ReportFindings:
    """The content of the sections on judges and statistics."""

    families: Sequence[ComparisonFamily]
    thresholds: Sequence[ThresholdTable]
    judges: Sequence[Recorded]
    by_judge: Sequence[JudgeTable]
    agreement: Sequence[Agreement]
    exclusions: Exclusions
    costs: tuple[tuple[int, Costs], ...]

    @classmethod
    def collect(
        cls, runs: Sequence[RecordedRun], table: HeadlineTable, analysis: Analysis, convention: str
    ) -> ReportFindings:
        """Collect the findings in the order of the headline table."""
        return cls(
            families=group_comparisons(
                [row for row in analysis.comparisons if row.condition in table.conditions], convention
            ),
            thresholds=make_threshold_tables(analysis.sensitivity, table),
            judges=list_recorded_judges(runs),
            by_judge=make_judge_tables(table),
            agreement=analysis.agreement,
            exclusions=make_exclusion_tables(analysis),
            costs=tuple((run.number, run.manifest.costs) for run in runs if run.manifest.costs.by),
        )


def list_recorded_judges(runs: Sequence[RecordedRun]) -> list[Recorded]:
    """List every judge of the manifests once."""
    judges: list[Recorded] = []
    for run in runs:
        for judge in run.manifest.judges:
            alone = replace(judge, **vars(Usage()), word_verdicts=0, words_changed=0)
            records = next((records for other, records in judges if other == alone), None)
            if records is None:
                judges.append((alone, records := []))
            records.append((run.number, judge))
    return judges


def make_judge_tables(table: HeadlineTable) -> list[JudgeTable]:
    """Make a table of the rates by judge for each set that several judges judged."""
    tables = []
    for place, column in enumerate(table.columns):
        by_model: dict[tuple[str, str], ModelByJudge] = {}
        for row in table.rows if column.metric else ():
            rates = tuple(entry.main for entry in row.cells[place] if entry.main is not None)
            if rates:
                judged = by_model.setdefault((row.model.fingerprint, row.condition), ModelByJudge(row, {}, {}))
                judged.rates[row.judge] = rates
                judged.judge_is[row.judge] = row.judge_is
        rows = tuple(judged for judged in by_model.values() if len(judged.rates) >= LEAST_JUDGES)
        judges = dict.fromkeys(judge for judged in rows for judge in judged.rates)
        if rows:
            tables.append(JudgeTable(column, tuple(judges), rows))
    return tables
