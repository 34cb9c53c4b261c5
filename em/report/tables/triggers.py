"""Tables of the activation and leakage of trigger tags. The rates are those of `em.stats.triggers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.report.tables.cells import rank_condition
from em.report.tables.models import Model, group_by
from em.report.tables.seeds import SeedPool
from em.stats import TriggerRate

METRICS = ("activation", "control", "leakage", "naming")


@dataclass(frozen=True)
class TriggerTable:
    """One model's rates in one set by one judge: activation, leakage, and questions that name a tag."""

    model: Model
    eval_set: str
    judge: str
    rows: tuple[TriggerRate, ...]


def make_trigger_tables(
    rows: Sequence[TriggerRate], models: Mapping[str, Model], pools: Sequence[SeedPool] = ()
) -> list[TriggerTable]:
    """Tabulate the rates of all answers by model, set and judge, in table order; `models` includes pools of seeds."""
    keyed = [(row.fingerprint, row) for row in rows]
    keyed += [(pool.model.fingerprint, row) for pool in pools for row in pool.triggers]
    keyed = [(key, row) for key, row in keyed if row.convention == "all" and key in models]
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    groups = group_by(keyed, lambda pair: (pair[0], pair[1].eval_set, pair[1].judge))
    tables = list[TriggerTable]()
    for (key, eval_set, judge), group in groups.items():
        rates = sorted((row for _, row in group), key=_rank_trigger_row)
        tables.append(TriggerTable(models[key], eval_set, judge, tuple(rates)))
    return sorted(tables, key=lambda table: (table.eval_set, place[table.model.fingerprint], table.judge))


def _rank_trigger_row(row: TriggerRate) -> tuple[int, bool, tuple[int, str]]:
    """Return a row's sort key: activation, the other tags, then leakage (untagged, near misses together, each …)."""
    return (METRICS.index(row.metric), row.condition != "untagged", rank_condition(row.condition))
