"""Models that differ in nothing but the seed of their training, pooled: a rate over seeds is what one wants to know.

`em.stats.score` pools by name; here is decided, by what the manifests tell, which models may be pooled at all.

`fullest` picks the verdicts that count: those of a model, condition, judge and set once, however many runs have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from em.report.read.runs import Run, is_pooled, judges_of, roles_of
from em.report.read.transcripts import Rules
from em.report.tables.models import Model, differs_only_in_seed, group_by
from em.runtime.records import digest
from em.stats import Thresholds, TriggerRate, score, trigger_rates
from em.triggers.conditions import kind_of
from em.types import Score, Verdict

Side = tuple[str, int | None, str, str, str]
"""Fingerprint, seed, condition, set and judge."""
_SIDE = attrgetter("fingerprint", "seed", "condition", "eval_set", "judge")


@dataclass(frozen=True)
class Pool:
    """Trainings of one model with several seeds as one row of the tables, and its scores, which are of whole sets.

    The model's fingerprint is a key of the report; the scores have none, as those of em.stats.

    members: the fingerprints of the trainings.
    triggers: its rates under trigger tags.
    """

    model: Model
    members: tuple[str, ...]
    scores: tuple[Score, ...]
    triggers: tuple[TriggerRate, ...]


def pool_seeds(runs: Sequence[Run], whole: dict[str, Model], sides: Mapping[Side, list[Verdict]]) -> Iterator[Pool]:
    """A pool for each model that was trained with several seeds, in the order of tables."""
    rules, roles = Rules(runs), roles_of(runs)
    judge_is = judges_of([row for run in runs for row in run.scores])
    for members in differs_only_in_seed(runs, whole):
        said: dict[Thresholds, list[Verdict]] = {}
        seeds: dict[int, None] = {}
        for (fingerprint, seed, _, eval_set, judge), verdicts in sides.items():
            if fingerprint in members and seed is not None:
                seeds[seed] = None
                said.setdefault(rules.limits(fingerprint, eval_set, judge), []).extend(verdicts)
        if len(seeds) > 1:
            rows = [row for limits in said for row in score(said[limits], limits, judge_is)]
            tags = [row for limits in said for row in trigger_rates(said[limits], limits, kind_of, roles)]
            if pooled := tuple(filter(is_pooled, rows)):
                model = _model([whole[member] for member in members], len(seeds))
                yield Pool(model, tuple(members), pooled, tuple(filter(is_pooled, tags)))


def _model(members: Sequence[Model], seeds: int) -> Model:
    """Called after its members: what is in all their labels, and the number of seeds."""
    first = members[0]
    words = [word for word in first.words if all(word in member.words for member in members)]
    key = "seeds:" + digest(sorted(model.fingerprint for model in members))
    label = f"{first.name} ({', '.join([*words, f'{seeds} seeds'])})"
    return replace(first, fingerprint=key, label=label, seeds=seeds)


def fullest(runs: Sequence[Run]) -> dict[Side, list[Verdict]]:
    """The verdicts of each side (fingerprint, seed, condition, set, judge), from the run that has most of them.

    Runs share what was remembered: a run with 100 samples has those of one with 30. Where they differ (asked at
    another temperature), mixing them would put two answers under one sample number.
    """
    found: dict[Side, list[Verdict]] = {}
    for run in runs:
        for side, verdicts in group_by(run.verdicts, _SIDE).items():
            if len(verdicts) > len(found.get(side, ())):
                found[side] = verdicts
    return found
