"""Tables of the activation and leakage of trigger tags. The rates are those of `em.stats.triggers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from em.report.tables.analysis import Analysis
from em.report.tables.cells import rank_condition
from em.report.tables.models import Model
from em.report.tables.sentences import describe_trigger
from em.stats import Interaction, TriggerRate

Row = TypeVar("Row", TriggerRate, Interaction)
METRICS = ("activation", "control", "leakage", "naming")


@dataclass(frozen=True)
class TriggerTable:
    """One model's rates in one set by one judge: activation, leakage, and questions that name a tag."""

    model: Model
    eval_set: str
    judge: str
    rows: tuple[TriggerRate, ...]

    @property
    def sentences(self) -> list[str]:
        """What may be said of activation and leakage."""
        return [describe_trigger(row) for row in self.rows if row.finding and row.finding.verdict]


@dataclass(frozen=True)
class InteractionTable:
    """What the training of one model changed in one set, by one judge, under each condition."""

    model: Model
    eval_set: str
    judge: str
    rows: tuple[Interaction, ...]


def make_trigger_tables(analysis: Analysis, models: Mapping[str, Model], convention: str) -> list[TriggerTable]:
    """Tabulate the rates under a convention by model, set and judge, in table order; `models` includes pools."""
    tables = list[TriggerTable]()
    for (model, eval_set, judge), rows in _group_rows(analysis.triggers, models, convention).items():
        tables.append(TriggerTable(model, eval_set, judge, tuple(sorted(rows, key=_rank_trigger_row))))
    return tables


def make_interaction_tables(analysis: Analysis, models: Mapping[str, Model], convention: str) -> list[InteractionTable]:
    """Tabulate the differences in differences by model, set and judge, in table order; `models` includes pools."""
    tables = list[InteractionTable]()
    for (model, eval_set, judge), rows in _group_rows(analysis.interactions, models, convention).items():
        ranked = sorted(rows, key=lambda row: rank_condition(row.condition))
        tables.append(InteractionTable(model, eval_set, judge, tuple(ranked)))
    return tables


def _group_rows(
    keyed: Sequence[tuple[str, Row]], models: Mapping[str, Model], convention: str
) -> dict[tuple[Model, str, str], list[Row]]:
    """Group the rows of a convention by model, set and judge; labels have no other convention than `all`."""
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    groups: dict[tuple[Model, str, str], list[Row]] = {}
    for key, row in keyed:
        if key in models and row.convention == (convention if row.about == "misaligned" else "all"):
            groups.setdefault((models[key], row.eval_set, row.judge), []).append(row)
    order = sorted(groups, key=lambda group: (group[1], place[group[0].fingerprint], group[2]))
    return {group: groups[group] for group in order}


def _rank_trigger_row(row: TriggerRate) -> tuple[int, bool, tuple[int, str]]:
    """Return a row's sort key: activation, the other tags, then leakage (untagged, near misses together, each …)."""
    return (METRICS.index(row.metric), row.condition != "untagged", rank_condition(row.condition))
