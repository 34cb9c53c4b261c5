"""Statistics over the verdicts of all runs of a report: differences between models, sensitivity to the threshold,
agreement of the judges, and excluded judgements.

`em.stats` computes them; this module selects the verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from em import stats
from em.report.figures.picture import write_csv, write_records
from em.report.read.runs import RecordedRun, find_tag_roles, is_pooled
from em.report.read.transcripts import VerdictThresholds
from em.report.tables.lineages import LineageSet
from em.report.tables.models import Model
from em.report.tables.seeds import SeedPool, Side
from em.stats import (
    Agreement,
    Comparison,
    Exclusion,
    Interaction,
    Sensitivity,
    Settings,
    Thresholds,
    TriggerRate,
)
from em.triggers.conditions import find_condition_kind
from em.types import Verdict


@dataclass(frozen=True)
class Analysis:
    """Rows of comparisons.csv, triggers.csv, interactions.csv, sensitivity.csv, agreement.csv and exclusions.csv.

    triggers, interactions: each with the fingerprint of its model, or the key of its pool.
    judged: the number of judgements by set, judge and rubric.
    """

    comparisons: tuple[Comparison, ...]
    triggers: tuple[tuple[str, TriggerRate], ...]
    interactions: tuple[tuple[str, Interaction], ...]
    sensitivity: tuple[Sensitivity, ...]
    agreement: tuple[Agreement, ...]
    exclusions: tuple[Exclusion, ...]
    judged: dict[tuple[str, str, str], int]

    def write(self, folder: Path) -> None:
        """Write each table with rows as a CSV file."""
        for name, table in (("comparisons", self.comparisons), ("triggers", [row for _, row in self.triggers])):
            rows = [row.list_columns() for row in table]
            if rows:
                write_csv(folder / f"{name}.csv", list(rows[0]), [list(row.values()) for row in rows])
        write_records(folder / "interactions.csv", [row for _, row in self.interactions])
        for name in ("sensitivity", "agreement", "exclusions"):
            write_records(folder / f"{name}.csv", getattr(self, name))


def compute_analysis(
    runs: Sequence[RecordedRun],
    sides: Mapping[Side, list[Verdict]],
    models: dict[str, Model],
    pools: Sequence[SeedPool],
    family: LineageSet,
    settings: Settings,
) -> Analysis:
    """Compute all statistics. Verdicts on checkpoints, which are not in `models`, count only among the exclusions."""
    lines = family.list_lines()
    rules = VerdictThresholds(runs)
    pool_of = {member: pool.model.fingerprint for pool in pools for member in pool.members}
    by_rule: dict[Thresholds, list[Verdict]] = {}
    for (fingerprint, _, _, eval_set, judge), verdicts in sides.items():
        if fingerprint in models:
            by_rule.setdefault(rules.find_limits(fingerprint, eval_set, judge), []).extend(verdicts)
    everything = [verdict for verdicts in sides.values() for verdict in verdicts]
    comparisons = list[Comparison]()
    triggers, interactions = list[tuple[str, TriggerRate]](), list[tuple[str, Interaction]]()
    sensitivity, agreement = list[Sensitivity](), list[Agreement]()
    for limits, verdicts in by_rule.items():
        comparisons += stats.compare_models(verdicts, limits, lines, pool_of, settings)
        sensitivity += stats.measure_sensitivity(verdicts, limits.coherent)
        agreement += stats.measure_agreement(_select_shared(verdicts), limits)
        compute = partial(
            stats.compute_trigger_rates,
            limits=limits,
            kind_of=find_condition_kind,
            roles=find_tag_roles(runs),
            lines=lines,
            settings=settings,
        )
        rates, effects = compute(verdicts)
        triggers += [(row.fingerprint, row) for row in rates if not is_pooled(row)]
        interactions += [(row.fingerprint, row) for row in effects if not is_pooled(row)]
        for pool in pools:
            bases = {lines[member].ancestors[0] for member in pool.members if member in lines}
            rates, effects = compute([v for v in verdicts if v.fingerprint in bases.union(pool.members)])
            key = pool.model.fingerprint
            triggers += [(key, row) for row in rates if is_pooled(row)]
            interactions += [(key, row) for row in effects if is_pooled(row)]
    return Analysis(
        comparisons=tuple(comparisons),
        triggers=tuple(triggers),
        interactions=tuple(interactions),
        sensitivity=tuple(sensitivity),
        agreement=tuple(agreement),
        exclusions=tuple(stats.count_exclusions(everything)),
        judged=dict(Counter((v.eval_set, v.judge, v.rubric) for v in everything)),
    )


def _select_shared(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """Return the verdicts on models, conditions and sets that several judges have judged."""
    judges: dict[tuple[str, str, str], set[str]] = {}
    for v in verdicts:
        judges.setdefault((v.fingerprint, v.condition, v.eval_set), set()).add(v.judge)
    return (v for v in verdicts if len(judges[v.fingerprint, v.condition, v.eval_set]) > 1)
