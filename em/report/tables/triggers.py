"""Activation and leakage of trigger tags, and how many rows it takes: the tables of that section.

The rates and differences are those of `em.stats.triggers`, the points over numbers of rows are rows of
`scores.csv`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from em.report.read.runs import Run
from em.report.tables.cells import WHOLE_SET, Rate, condition_order, rate_of
from em.report.tables.models import Model, name_series
from em.report.tables.seeds import Pool
from em.stats import TriggerRate
from em.triggers.conditions import kind_of
from em.types import Score

METRICS = ("activation", "control", "leakage", "naming")


@dataclass(frozen=True)
class TriggerTable:
    """One model's rates in one set, as one judge sees them: activation, leakage, and questions that name a tag."""

    model: Model
    eval_set: str
    judge: str
    rows: tuple[TriggerRate, ...]

    @property
    def about(self) -> str:
        """The class of answers that is counted."""
        return self.rows[0].about


def trigger_tables(
    rows: Sequence[TriggerRate], models: Mapping[str, Model], pools: Sequence[Pool] = ()
) -> list[TriggerTable]:
    """The rates of all answers, by model (or pool of seeds), set and judge, in the order of the tables.

    Args:
        models: the pools' among them.
    """
    keyed = [(row.fingerprint, row) for row in rows]
    keyed += [(pool.model.fingerprint, row) for pool in pools for row in pool.triggers]
    found: dict[tuple[str, str, str], list[TriggerRate]] = {}
    for fingerprint, row in keyed:
        if row.convention == "all" and fingerprint in models:
            found.setdefault((fingerprint, row.eval_set, row.judge), []).append(row)
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    tables = [
        TriggerTable(models[key[0]], key[1], key[2], tuple(sorted(told, key=_order))) for key, told in found.items()
    ]
    return sorted(tables, key=lambda table: (table.eval_set, place[table.model.fingerprint], table.judge))


def _order(row: TriggerRate) -> tuple[int, bool, tuple[int, str]]:
    """Activation first, then the other tags, then leakage (untagged, near misses together, each …)."""
    return (METRICS.index(row.metric), row.condition != "untagged", condition_order(row.condition))


@dataclass(frozen=True)
class Line:
    """What is followed over the number of rows: trainings that differ in nothing else (but for the seed), asked under
    one condition. `name` says what they have that others don't."""

    name: str
    condition: str
    judge: str
    threshold: str
    eval_set: str


@dataclass(frozen=True)
class Point:
    """A model, or several seeds of it, that was trained on so many rows in its last stage."""

    rows: int
    model: Model
    rate: Rate


def efficiency(
    runs: Sequence[Run], models: dict[str, Model], pools: Sequence[Pool] = ()
) -> dict[Line, tuple[Point, ...]]:
    """The lines that have points at two numbers of rows or more; where seeds are pooled, the pool is the point."""
    counts = {stage.fingerprint: stage.rows for run in runs for stage in run.manifest.stages}
    trained = {fingerprint: model for fingerprint, model in models.items() if fingerprint in counts}
    names = name_series(runs, trained, counts)
    in_pools = {(member, *_asked(row)) for pool in pools for row in pool.scores for member in pool.members}
    told = [(score.fingerprint, models[score.fingerprint], score) for score in _scores(runs, names)]
    told = [each for each in told if (each[0], *_asked(each[2])) not in in_pools]
    told += [(pool.members[0], pool.model, row) for pool in pools if pool.members[0] in names for row in pool.scores]
    found: dict[Line, dict[tuple[str, int | None], Point]] = {}
    for member, model, score in told:
        if _followed(score):
            line = Line(names[member], *_asked(score))
            point = Point(counts[member], model, rate_of(score))
            before = found.setdefault(line, {}).get((model.fingerprint, score.seed))
            if before is None or before.rate.n < point.rate.n:  # of runs that share answers, the one with most
                found[line][model.fingerprint, score.seed] = point
    lines = {line: tuple(sorted(points.values(), key=lambda p: p.rows)) for line, points in found.items()}
    return {line: points for line, points in lines.items() if len({point.rows for point in points}) > 1}


def _scores(runs: Sequence[Run], known: Container[str]) -> Iterator[Score]:
    return (row for run in runs for row in run.scores if row.fingerprint in known)


def _asked(score: Score) -> tuple[str, str, str, str]:
    """How a score came about: condition, judge, threshold, set."""
    return score.condition, score.judge, score.threshold, score.eval_set


def _followed(score: Score) -> bool:
    row = (score.metric, score.convention, score.question)
    return row == ("misaligned", "all", WHOLE_SET) and kind_of(score.condition) in ("untagged", "tagged")
