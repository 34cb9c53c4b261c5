"""`comparisons.csv`: which models are compared, what they are to each other, and the differences between them.

Models that were asked the same are compared by their lineage, else by their names: single models, and pools of
trainings that differ in the seed alone. How a difference is found is in `em.stats.differences`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from em.stats.differences import Difference, difference, difference_over_seeds, holm
from em.stats.outcomes import Group, Outcome, SeedCounts, Thresholds, counts_of, headline_of, outcomes_of, tally
from em.types import Verdict

ALL_PAIRS = 12
"""With more models than this asked the same, each is compared with its parent, its base and its siblings alone."""
Lines = Mapping[str, Sequence[str]]
"""What models were trained from, by fingerprint: the base, the first training …, the one that was gone on with."""
NAMES_ALONE: Lines = {}
"""Of models of which no manifest tells, as in judged tables: `m+a+b` comes from `m+a`."""
SeedOutcomes = Mapping[int | None, Sequence[Outcome]]
"""The answers of a model, or of a pool of trainings, by training seed."""


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


def compare(verdicts: Iterable[Verdict], limits: Thresholds, lines: Lines = NAMES_ALONE) -> list[Comparison]:
    """The comparisons that make sense: models on the same set, under one condition, by one judge.

    All pairs of up to ALL_PAIRS models, but for trainings that differ in the seed alone; the rate is that of
    misaligned answers under each convention, and of TRUE where a set has labels. `lines`: what each model was trained
    from.
    """

    def compare_pair(first: SeedCounts, second: SeedCounts) -> Difference | None:
        return difference(*first.values(), *second.values())

    models = {group: {group.seed: outcomes} for group, outcomes in outcomes_of(verdicts, limits).items()}
    return list(_rows(models, str(limits), lines, compare_pair))


def compare_pools(
    verdicts: Iterable[Verdict], limits: Thresholds, pools: Mapping[str, str], lines: Lines = NAMES_ALONE
) -> list[Comparison]:
    """The comparisons between pools of seeds, and between a pool and a model that has no seed, such as a base.

    Args:
        pools: by the fingerprint of a training the key of its pool, which stands for it in the comparisons.
        lines: what each pool was trained from, by its key.
    """
    if not pools:
        return []
    models: dict[Group, dict[int | None, list[Outcome]]] = defaultdict(dict)
    for group, outcomes in outcomes_of(verdicts, limits).items():
        key = pools.get(group.fingerprint)
        if key is not None or group.seed is None:
            pool = group._replace(fingerprint=key or group.fingerprint, seed=None)
            models[pool][group.seed] = outcomes
    return list(_rows(models, str(limits), lines, difference_over_seeds))


def _rows(
    models: Mapping[Group, SeedOutcomes],
    threshold: str,
    lines: Lines,
    compare_pair: Callable[[SeedCounts, SeedCounts], Difference | None],
) -> Iterator[Comparison]:
    """The comparisons of the models that were asked the same."""
    asked_alike: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in models:
        asked_alike[group.judge, group.condition, group.eval_set].append(group)
    for groups in asked_alike.values():
        chosen = list(pairs(groups, lines))
        metric, conventions = headline_of(o for group in groups for said in models[group].values() for o in said)
        for convention in conventions:
            counts = {
                group: {seed: counts_of(tally(said, convention), metric) for seed, said in models[group].items()}
                for group in groups
            }
            rows = [
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
                    **vars(paired),
                    p_holm=paired.p,
                    family=family_of(first, second, lines),
                )
                for first, second in chosen
                if (paired := compare_pair(counts[first], counts[second])) is not None
            ]
            yield from correct_families(rows)


def correct_families(rows: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons of one kind with p values that are corrected within each family."""
    families = {row.family for row in rows}
    corrected = {family: iter(holm([row.p for row in rows if row.family == family])) for family in families}
    return [replace(row, p_holm=next(corrected[row.family])) for row in rows]


def pairs(models: Sequence[Group], lines: Lines = NAMES_ALONE) -> Iterator[tuple[Group, Group]]:
    """Which models are compared, in their order; of many, those that are of a family alone."""
    for first, second in combinations(models, 2):
        replicates = (first.model, first.stage) == (second.model, second.stage) and first.seed != second.seed
        if not replicates and (len(models) <= ALL_PAIRS or family_of(first, second, lines) != "other"):
            yield (first, second) if not came_from(first, second, lines) else (second, first)


def family_of(one: Group, other: Group, lines: Lines = NAMES_ALONE) -> str:
    """What two models are to each other: see `Comparison`."""
    if came_from(one, other, lines) or came_from(other, one, lines):
        return "stage"
    return "sibling" if siblings(one, other, lines) else "other"


def siblings(one: Group, other: Group, lines: Lines) -> bool:
    """Whether two models with the same seed differ in their last stage alone."""
    if one.stage == other.stage or one.seed != other.seed:
        return False
    if one.fingerprint in lines and other.fingerprint in lines:
        return lines[one.fingerprint] == lines[other.fingerprint]
    (parent, plus, _), (same, _, _) = one.model.rpartition("+"), other.model.rpartition("+")
    return bool(plus) and parent == same


def came_from(model: Group, before: Group, lines: Lines) -> bool:
    """Whether a model was trained from another, directly or (a base) in the end."""
    if line := lines.get(model.fingerprint):
        return before.fingerprint in (line[0], line[-1])
    if before.seed is not None and before.seed != model.seed:
        return False
    parent, plus, _ = model.model.rpartition("+")
    return bool(plus) and (parent == before.model or (before.stage == "base" and parent.startswith(f"{before.model}+")))
