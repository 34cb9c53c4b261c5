"""Pools of models that differ only in their training seed, for rates over seeds.

`em.stats.compute_scores` pools models by name; this module decides from the manifests which models may be pooled.

Verdicts that several runs share are deduplicated: each model, condition, judge and set counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from em.report.read.runs import RecordedRun, find_judge_relations, find_tag_roles, is_pooled
from em.report.read.transcripts import VerdictThresholds
from em.report.tables.models import Model, group_by, group_seed_variants
from em.runtime.records import digest
from em.stats import Thresholds, TriggerRate, compute_scores, compute_trigger_rates
from em.triggers.conditions import find_condition_kind
from em.types import Score, Verdict

Side = tuple[str, int | None, str, str, str]
"""Fingerprint, seed, condition, set and judge."""
_SIDE = attrgetter("fingerprint", "seed", "condition", "eval_set", "judge")


@dataclass(frozen=True)
class SeedPool:
    """Trainings that differ only in their seed, shown as one row of the tables.

    model: its fingerprint is a key within the report.
    members: the fingerprints of the trainings.
    scores: the pooled scores over whole sets; like all pooled scores of em.stats they have no fingerprint.
    triggers: the pooled rates under trigger tags.
    """

    model: Model
    members: tuple[str, ...]
    scores: tuple[Score, ...]
    triggers: tuple[TriggerRate, ...]


def pool_seeds(
    runs: Sequence[RecordedRun], models: dict[str, Model], sides: Mapping[Side, list[Verdict]]
) -> Iterator[SeedPool]:
    """Yield a pool for each model trained with several seeds, in the order of tables; `models` has no checkpoints."""
    rules, roles = VerdictThresholds(runs), find_tag_roles(runs)
    judge_is = find_judge_relations([row for run in runs for row in run.scores])
    for members in group_seed_variants(runs, models):
        by_limits: dict[Thresholds, list[Verdict]] = {}
        seeds: dict[int, None] = {}
        for (fingerprint, seed, _, eval_set, judge), verdicts in sides.items():
            if fingerprint in members and seed is not None:
                seeds[seed] = None
                by_limits.setdefault(rules.find_limits(fingerprint, eval_set, judge), []).extend(verdicts)
        if len(seeds) > 1:
            rows, tags = list[Score](), list[TriggerRate]()
            for limits, verdicts in by_limits.items():
                rows += compute_scores(verdicts, limits, judge_is)
                tags += compute_trigger_rates(verdicts, limits, find_condition_kind, roles)
            if pooled := tuple(filter(is_pooled, rows)):
                model = _make_pooled_model([models[member] for member in members], len(seeds))
                yield SeedPool(model, tuple(members), pooled, tuple(filter(is_pooled, tags)))


def _make_pooled_model(members: Sequence[Model], seeds: int) -> Model:
    """Make the model of a pool; its label has the words that all its members' labels share, and the number of seeds."""
    first = members[0]
    words = [word for word in first.words if all(word in member.words for member in members)]
    key = "seeds:" + digest(sorted(model.fingerprint for model in members))
    label = f"{first.name} ({', '.join([*words, f'{seeds} seeds'])})"
    return replace(first, fingerprint=key, label=label, seeds=seeds)


def pick_fullest_verdicts(runs: Sequence[RecordedRun]) -> dict[Side, list[Verdict]]:
    """Return the verdicts of each side from the run with the most of them.

    Runs share cached answers: a run with 100 samples includes those of a run with 30. If runs differ (for example in
    temperature), mixing them would put two answers under one sample number.
    """
    fullest_sides: dict[Side, list[Verdict]] = {}
    for run in runs:
        for side, verdicts in group_by(run.verdicts, _SIDE).items():
            if len(verdicts) > len(fullest_sides.get(side, ())):
                fullest_sides[side] = verdicts
    return fullest_sides
