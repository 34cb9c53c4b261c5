"""Tables of the activation and leakage of trigger tags. The rates are those of `em.stats.triggers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from em.report.tables.analysis import Analysis
from em.report.tables.cells import rank_condition
from em.report.tables.models import Model, group_by
from em.report.tables.sentences import describe_trigger
from em.stats import Interaction, TriggerRate

METRICS = ("activation", "control", "leakage", "naming")


@dataclass(frozen=True)
class TriggerTable:
    """One model's rates in one set by one judge: activation, leakage, and questions that name a tag."""

    model: Model
    eval_set: str
    judge: str
    rows: tuple[TriggerRate, ...]
    interactions: tuple[Interaction, ...]

    @property
    def sentences(self) -> list[str]:
        """What may be said of activation and leakage."""
        return [describe_trigger(row) for row in self.rows if row.finding and row.finding.verdict]


def make_trigger_tables(analysis: Analysis, models: Mapping[str, Model], convention: str) -> list[TriggerTable]:
    """Tabulate the rates under a convention by model, set and judge, in table order; `models` includes pools."""

    def is_shown(key: str, row: TriggerRate | Interaction) -> bool:
        return key in models and row.convention == (convention if row.about == "misaligned" else "all")

    keyed = [(key, row) for key, row in analysis.triggers if is_shown(key, row)]
    effects = [(key, row) for key, row in analysis.interactions if is_shown(key, row)]
    interactions = group_by(effects, lambda pair: (pair[0], pair[1].eval_set, pair[1].judge))
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    groups = group_by(keyed, lambda pair: (pair[0], pair[1].eval_set, pair[1].judge))
    tables = list[TriggerTable]()
    for (key, eval_set, judge), group in groups.items():
        rates = sorted((row for _, row in group), key=_rank_trigger_row)
        differing = tuple(row for _, row in interactions.get((key, eval_set, judge), ()))
        tables.append(TriggerTable(models[key], eval_set, judge, tuple(rates), differing))
    return sorted(tables, key=lambda table: (table.eval_set, place[table.model.fingerprint], table.judge))


def _rank_trigger_row(row: TriggerRate) -> tuple[int, bool, tuple[int, str]]:
    """Return a row's sort key: activation, the other tags, then leakage (untagged, near misses together, each …)."""
    return (METRICS.index(row.metric), row.condition != "untagged", rank_condition(row.condition))
