"""Who judges, and what that changes: judges as recorded artefacts, the rate by each, what the calls took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from em.report.calls import Costs, Judge, Sampling, Usage
from em.report.cells import Column, Rate, Row, Table
from em.report.load import Run

UNKNOWN = Usage(None, None, None, None)
SEVERAL = 2


@dataclass(frozen=True)
class Recorded:
    """A judge, and what it took in each run that it judged in."""

    judge: Judge
    used: tuple[tuple[int, Usage], ...]


def recorded_judges(runs: Sequence[Run]) -> list[Recorded]:
    """Every judge that the manifests tell of, once."""
    found: list[tuple[Judge, list[tuple[int, Usage]]]] = []
    for run in runs:
        for judge in run.manifest.judges:
            alone = replace(judge, usage=UNKNOWN)
            used = next((used for other, used in found if other == alone), None)
            if used is None:
                found.append((alone, used := []))
            used.append((run.number, judge.usage))
    return [Recorded(judge, tuple(used)) for judge, used in found]


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


def judge_tables(table: Table) -> list[JudgeTable]:
    """For each set that several judges judged, what each of them makes of the models."""
    tables = []
    for place, column in enumerate(table.columns):
        found: dict[tuple[str, str], Judged] = {}
        for row in table.rows if column.metric else ():
            rates = tuple(entry.main for entry in row.cells[place].entries if entry.main is not None)
            if rates:
                judged = found.setdefault((row.model.fingerprint, row.condition), Judged(row, {}, {}))
                judged.rates[row.judge] = rates
                judged.judge_is[row.judge] = row.judge_is
        rows = tuple(judged for judged in found.values() if len(judged.rates) >= SEVERAL)
        judges = dict.fromkeys(judge for judged in rows for judge in judged.rates)
        if rows:
            tables.append(JudgeTable(column, tuple(judges), rows))
    return tables


@dataclass(frozen=True)
class Calls:
    """What sampling and judging took in each run, by its number, and where sampling stopped by itself."""

    costs: tuple[tuple[int, Costs], ...]
    stopped: tuple[tuple[int, Sampling], ...]


def calls_of(runs: Sequence[Run]) -> Calls:
    """The costs of each run. There is no sum over runs: what several share was paid once."""
    return Calls(
        costs=tuple((run.number, run.manifest.costs) for run in runs if run.manifest.costs.by),
        stopped=tuple((run.number, run.manifest.sampling) for run in runs if run.manifest.sampling is not None),
    )
