"""Statistics over the verdicts of all runs of a report: differences between models, sensitivity to the threshold,
agreement of the judges, and excluded judgements.

`em.stats` computes them; this module selects the verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em import stats
from em.report.figures.picture import write_records
from em.report.read.runs import Run, is_pooled, roles_of
from em.report.read.transcripts import Rules
from em.report.tables.lineages import Family
from em.report.tables.models import Model
from em.report.tables.seeds import Pool, Side
from em.stats import Agreement, Comparison, Exclusion, Sensitivity, Thresholds, TriggerRate
from em.triggers.conditions import kind_of
from em.types import Verdict


@dataclass(frozen=True)
class Analysis:
    """Rows of comparisons.csv, triggers.csv, sensitivity.csv, agreement.csv and exclusions.csv.

    judged: the number of judgements by set, judge and rubric.
    """

    comparisons: tuple[Comparison, ...]
    triggers: tuple[TriggerRate, ...]
    sensitivity: tuple[Sensitivity, ...]
    agreement: tuple[Agreement, ...]
    exclusions: tuple[Exclusion, ...]
    judged: dict[tuple[str, str, str], int]

    def write(self, folder: Path) -> None:
        """Write each table with rows as a CSV file."""
        for name in ("comparisons", "triggers", "sensitivity", "agreement", "exclusions"):
            write_records(folder / f"{name}.csv", getattr(self, name))


def analyse(
    runs: Sequence[Run],
    sides: Mapping[Side, list[Verdict]],
    models: dict[str, Model],
    pools: Sequence[Pool],
    family: Family,
) -> Analysis:
    """Compute all statistics. Verdicts on checkpoints, which are not in `models`, count only among the exclusions."""
    lines = family.lines()
    rules, roles = Rules(runs), roles_of(runs)
    pool_of = {member: pool.model.fingerprint for pool in pools for member in pool.members}
    by_rule: dict[Thresholds, list[Verdict]] = {}
    for (fingerprint, _, _, eval_set, judge), verdicts in sides.items():
        if fingerprint in models:
            by_rule.setdefault(rules.limits(fingerprint, eval_set, judge), []).extend(verdicts)
    everything = [verdict for verdicts in sides.values() for verdict in verdicts]
    comparisons, triggers = list[Comparison](), list[TriggerRate]()
    sensitivity, agreement = list[Sensitivity](), list[Agreement]()
    for limits, verdicts in by_rule.items():
        comparisons += stats.compare_pools(verdicts, limits, pool_of, lines)
        comparisons += stats.compare(verdicts, limits, lines)
        triggers += [row for row in stats.trigger_rates(verdicts, limits, kind_of, roles) if not is_pooled(row)]
        sensitivity += stats.sensitivity(verdicts, limits.coherent)
        agreement += stats.agreement(_shared(verdicts), limits)
    return Analysis(
        comparisons=tuple(comparisons),
        triggers=(*triggers, *(row for pool in pools for row in pool.triggers)),
        sensitivity=tuple(sensitivity),
        agreement=tuple(agreement),
        exclusions=tuple(stats.exclusions(everything)),
        judged=dict(Counter((v.eval_set, v.judge, v.rubric) for v in everything)),
    )


def _shared(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """Return the verdicts on models, conditions and sets that several judges have judged."""
    judges: dict[tuple[str, str, str], set[str]] = {}
    for v in verdicts:
        judges.setdefault((v.fingerprint, v.condition, v.eval_set), set()).add(v.judge)
    return (v for v in verdicts if len(judges[v.fingerprint, v.condition, v.eval_set]) > 1)
