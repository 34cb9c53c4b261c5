"""Pools of models that differ only in their training seed, for rates over seeds.

`em.stats.compute_scores` pools models by name; this module decides from the manifests which models may be pooled.

Verdicts that several runs share are deduplicated: each model, condition, judge and set counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from em.report.read.runs import RecordedRun, find_judge_relations, is_pooled
from em.report.read.transcripts import VerdictThresholds
from em.report.tables.models import Model, group_by, group_seed_variants
from em.runtime.records import digest
from em.stats import Questions, Thresholds, compute_scores
from em.types import Score, Verdict

Side = tuple[str, int | None, str, str, str]
"""Fingerprint, seed, condition, set and judge."""
_SIDE = attrgetter("fingerprint", "seed", "condition", "eval_set", "judge")
_ANSWER = attrgetter("condition", "eval_set", "question_id", "question", "sample")


@dataclass(frozen=True)
class SeedPool:
    """Trainings that differ only in their seed, shown as one row of the tables.

    model: its fingerprint is a key within the report.
    members: the fingerprints of the trainings.
    scores: the pooled scores over whole sets; like all pooled scores of em.stats they have no fingerprint.
    """

    model: Model
    members: tuple[str, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Copy:
    """A training that repeats another one, and so is no further seed of a pool."""

    model: Model
    original: Model
    reason: str


def pool_seeds(
    runs: Sequence[RecordedRun], models: dict[str, Model], sides: Mapping[Side, list[Verdict]], questions: Questions
) -> tuple[list[SeedPool], list[Copy]]:
    """Make a pool for each model trained with several seeds, in the order of tables, and list copies.

    Args:
        models: without checkpoints.
        questions: the inference of the headline.
    """
    rules = VerdictThresholds(runs)
    judge_is = find_judge_relations([row for run in runs for row in run.scores])
    pools, copies = list[SeedPool](), list[Copy]()
    for members in group_seed_variants(runs, models):
        repeats = find_copies(members, sides)
        copies += [Copy(models[key], models[original], reason) for key, (original, reason) in repeats.items()]
        originals = [member for member in members if member not in repeats]
        by_limits: dict[Thresholds, list[Verdict]] = {}
        seeds: dict[int, None] = {}
        for (fingerprint, seed, _, eval_set, judge), verdicts in sides.items():
            if fingerprint in originals and seed is not None:
                seeds[seed] = None
                by_limits.setdefault(rules.find_limits(fingerprint, eval_set, judge), []).extend(verdicts)
        if len(seeds) > 1:
            rows = list[Score]()
            for limits, verdicts in by_limits.items():
                rows += compute_scores(verdicts, limits, judge_is, questions)
            if pooled := tuple(filter(is_pooled, rows)):
                model = _make_pooled_model([models[member] for member in originals], len(seeds))
                pools.append(SeedPool(model, tuple(originals), pooled))
    return pools, copies


def find_copies(members: Sequence[str], sides: Mapping[Side, Sequence[Verdict]]) -> dict[str, tuple[str, str]]:
    """Find trainings of one recipe with an earlier one's seed, or with the same answers to all shared questions.

    Return the fingerprint of the earlier training and the reason, by fingerprint.
    """
    answers: dict[str, dict[tuple[object, ...], str]] = {member: {} for member in members}
    seeds: dict[str, int | None] = {}
    for (fingerprint, seed, *_), verdicts in sides.items():
        if fingerprint in answers:
            seeds[fingerprint] = seed
            answers[fingerprint] |= {_ANSWER(verdict): verdict.answer for verdict in verdicts}
    copies: dict[str, tuple[str, str]] = {}
    for place, member in enumerate(members):
        for earlier in members[:place]:
            if member in copies or earlier in copies or member not in seeds or earlier not in seeds:
                continue
            shared = answers[member].keys() & answers[earlier].keys()
            if seeds[member] is not None and seeds[member] == seeds[earlier]:
                copies[member] = (earlier, f"the same seed, {seeds[member]}")
            elif shared and all(answers[member][key] == answers[earlier][key] for key in shared):
                copies[member] = (earlier, "the same answers to all questions")
    return copies


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
