"""Differences between models that were asked the same questions, with a correction for how many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from em.stats.classes import CONVENTIONS, Group, Outcome, Thresholds, metrics_of, outcomes_of
from em.stats.paired import difference, holm
from em.stats.tallies import Adaptive, tally, weigh, weights_of
from em.types import Verdict

ALL_PAIRS = 12
"""With more models than this asked the same, each is compared with its parent, its base and its siblings alone."""
HEADLINES = ("misaligned", "true")


@dataclass(frozen=True)
class Comparison:
    """How much higher a rate is for the second of two models, on the questions that both answered.

    first, second: fingerprints; of models with several seeds the keys of their pools, and `seeds` is how many.
    family: `stage` (a model and what it was trained from, or its base), `sibling` (two last stages after the same
    training, such as a realignment and its control) or `other`. p is corrected (p_holm) within judge, condition, set,
    convention and family, pools apart from single models: what a study is about doesn't pay for all other pairs.
    """

    judge: str
    condition: str
    eval_set: str
    convention: str
    metric: str
    threshold: str
    first: str
    first_name: str
    second: str
    second_name: str
    questions: int
    difference: float
    ci_low: float
    ci_high: float
    ci_method: str
    p: float
    p_holm: float
    family: str = "other"
    seeds: int = 0


def compare(verdicts: Iterable[Verdict], limits: Thresholds, adaptive: Adaptive = False) -> list[Comparison]:
    """The comparisons that make sense: models on the same set, under one condition, by one judge.

    All pairs of up to ALL_PAIRS models, but for trainings that differ in the seed alone; the rate is that of
    misaligned answers under each convention, and of TRUE where a set has labels. `adaptive` is that of `score`.
    """
    families: dict[tuple[str, str, str], dict[Group, list[Outcome]]] = defaultdict(dict)
    for group, outcomes in outcomes_of(verdicts, limits).items():
        families[group.judge, group.condition, group.eval_set][group] = outcomes
    rows: list[Comparison] = []
    for models in families.values():
        metrics = metrics_of(o for outcomes in models.values() for o in outcomes)
        metric = next((name for name in HEADLINES if name in metrics), None)
        chosen = list(pairs(list(models)))
        for convention in CONVENTIONS if metric == "misaligned" else ("all",):
            if metric is not None:
                rows += _family(models, chosen, convention, metric, str(limits), adaptive)
    return rows


def _family(
    models: Mapping[Group, Sequence[Outcome]],
    chosen: Sequence[tuple[Group, Group]],
    convention: str,
    metric: str,
    threshold: str,
    adaptive: Adaptive,
) -> list[Comparison]:
    """The comparisons under one convention, with corrected p values."""
    counts = {
        group: weigh(tally(outcomes, filter(CONVENTIONS[convention], outcomes)), weights_of(outcomes, adaptive), metric)
        for group, outcomes in models.items()
    }
    found = [
        Comparison(
            judge=first.judge,
            condition=first.condition,
            eval_set=first.eval_set,
            convention=convention,
            metric=metric,
            threshold=threshold,
            first=first.fingerprint,
            first_name=first.model,
            second=second.fingerprint,
            second_name=second.model,
            questions=paired.questions,
            difference=paired.difference,
            ci_low=paired.interval.low,
            ci_high=paired.interval.high,
            ci_method=paired.interval.method,
            p=paired.p,
            p_holm=paired.p,
            family=family_of(first, second),
        )
        for first, second in chosen
        if (paired := difference(counts[first], counts[second])) is not None
        and paired.interval.low is not None
        and paired.interval.high is not None
    ]
    return in_families(found)


def in_families(rows: Iterable[Comparison]) -> list[Comparison]:
    """Comparisons of one kind with p values that are corrected within each family, in their order."""
    found = list(rows)
    corrected: dict[int, float] = {}
    for family in dict.fromkeys(row.family for row in found):
        places = [place for place, row in enumerate(found) if row.family == family]
        corrected |= dict(zip(places, holm([found[place].p for place in places]), strict=True))
    return [replace(row, p_holm=corrected[place]) for place, row in enumerate(found)]


def pairs(models: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Which models are compared, in their order; of many, those that are of a family alone."""
    for first, second in combinations(models, 2):
        replicates = (first.model, first.stage) == (second.model, second.stage) and first.seed != second.seed
        if not replicates and (len(models) <= ALL_PAIRS or family_of(first, second) != "other"):
            yield (first, second) if not came_from(first, second) else (second, first)


def family_of(one: Group, other: Group) -> str:
    """What two models are to each other: see `Comparison`."""
    return "stage" if related(one, other) else "sibling" if siblings(one, other) else "other"


def siblings(one: Group, other: Group) -> bool:
    """Whether two models with the same seed differ in their last stage alone."""
    (parent, found, _), (same, _, _) = one.model.rpartition("+"), other.model.rpartition("+")
    return bool(found) and parent == same and one.stage != other.stage and one.seed == other.seed


def related(one: Group, other: Group) -> bool:
    """Whether one of two models was trained from the other, directly or (a base) in the end."""
    return came_from(one, other) or came_from(other, one)


def came_from(model: Group, before: Group) -> bool:
    """Whether a model's chain goes on, by one stage, from that of `before`, or begins with it if that is the base."""
    if before.seed is not None and before.seed != model.seed:
        return False
    parent, found, _ = model.model.rpartition("+")
    return bool(found) and (
        parent == before.model or (before.stage == "base" and parent.startswith(f"{before.model}+"))
    )
