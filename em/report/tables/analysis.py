"""What the report finds in the verdicts of all its runs together: differences between models, the part that threshold
and judge play, and what could not be counted.

The statistics are those of `em.stats`; here is decided which verdicts they get.
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

    judged: how many judgements there are, by set, judge and rubric.
    """

    comparisons: tuple[Comparison, ...]
    triggers: tuple[TriggerRate, ...]
    sensitivity: tuple[Sensitivity, ...]
    agreement: tuple[Agreement, ...]
    exclusions: tuple[Exclusion, ...]
    judged: dict[tuple[str, str, str], int]

    def write(self, folder: Path) -> None:
        """Write each table that has rows as CSV."""
        for name in ("comparisons", "triggers", "sensitivity", "agreement", "exclusions"):
            write_records(folder / f"{name}.csv", getattr(self, name))


def analyse(
    runs: Sequence[Run],
    sides: Mapping[Side, list[Verdict]],
    whole: dict[str, Model],
    pools: Sequence[Pool],
    family: Family,
) -> Analysis:
    """Analyse the verdicts; checkpoints, which are not in `whole`, count among what is excluded only."""
    lines = family.lines()
    rules, roles = Rules(runs), roles_of(runs)
    pool_of = {member: pool.model.fingerprint for pool in pools for member in pool.members}
    by_rule: dict[Thresholds, list[Verdict]] = {}
    for (fingerprint, _, _, eval_set, judge), verdicts in sides.items():
        if fingerprint in whole:
            by_rule.setdefault(rules.limits(fingerprint, eval_set, judge), []).extend(verdicts)
    everything = [verdict for verdicts in sides.values() for verdict in verdicts]
    comparisons, triggers = list[Comparison](), list[TriggerRate]()
    for limits, said in by_rule.items():
        comparisons += [*stats.compare_pools(said, limits, pool_of, lines), *stats.compare(said, limits, lines)]
        triggers += [row for row in stats.trigger_rates(said, limits, kind_of, roles) if not is_pooled(row)]
    return Analysis(
        comparisons=tuple(comparisons),
        triggers=(*triggers, *(row for pool in pools for row in pool.triggers)),
        sensitivity=tuple(row for limits, said in by_rule.items() for row in stats.sensitivity(said, limits.coherent)),
        agreement=tuple(row for limits, said in by_rule.items() for row in stats.agreement(_shared(said), limits)),
        exclusions=tuple(stats.exclusions(everything)),
        judged=dict(Counter((v.eval_set, v.judge, v.rubric) for v in everything)),
    )


def _shared(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """The verdicts on what several judges have seen."""
    judges: dict[tuple[str, str, str], set[str]] = {}
    for v in verdicts:
        judges.setdefault((v.fingerprint, v.condition, v.eval_set), set()).add(v.judge)
    return (v for v in verdicts if len(judges[v.fingerprint, v.condition, v.eval_set]) > 1)
