"""Make `comparisons.csv`: pairs of models, how they are related, and the differences of their rates.

Compared are single models, and pools of trainings that differ only in their seed, on the same set, condition and judge.
Relations follow from lineage, else from names. `em.stats.differences` computes the differences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

from em.stats.differences import Difference, compute_difference, compute_difference_over_seeds, correct_by_holm
from em.stats.outcomes import (
    AnswerOutcome,
    Group,
    SeedCounts,
    Thresholds,
    choose_headline,
    count_classes,
    count_metric,
    group_outcomes,
)
from em.types import Verdict

ALL_PAIRS = 12
"""With more comparable models than this, each is compared only with its parent, its base and its siblings."""
Lines = Mapping[str, Sequence[str]]
"""The ancestors of each model by fingerprint: base, first training, …, parent."""
NAMES_ALONE: Lines = {}
"""No lineage is known, as in judged tables; names tell it: `m+a+b` was trained from `m+a`."""
SeedOutcomes = Mapping[int | None, Sequence[AnswerOutcome]]
"""The answers of a model, or of a pool of trainings, by training seed."""


@dataclass(frozen=True)
class Comparison:
    """The rate of the second model minus that of the first, on the questions that both answered.

    first, second: fingerprints; for models with several seeds the keys of their pools, and `seeds` is their number.
    family: `stage` (a model and its parent or base), `sibling` (two last stages after the same training, such as a
    realignment and its control) or `other`.
    p_holm: p corrected within judge, condition, set, convention and family, separately for pools and single models.
    Families keep the many `other` pairs from weakening the comparisons of interest.
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


def compare_models(verdicts: Iterable[Verdict], limits: Thresholds, lines: Lines = NAMES_ALONE) -> list[Comparison]:
    """Compare models on the same set, condition and judge; with more than ALL_PAIRS models, only related ones.

    Trainings that differ only in their seed are not compared. The rate is that of misaligned answers under each
    convention, or of TRUE if a set has labels. `lines`: ancestors of each model.
    """

    def compare_pair(first: SeedCounts, second: SeedCounts) -> Difference | None:
        return compute_difference(*first.values(), *second.values())

    models = {group: {group.seed: outcomes} for group, outcomes in group_outcomes(verdicts, limits).items()}
    return list(_make_comparisons(models, str(limits), lines, compare_pair))


def compare_pools(
    verdicts: Iterable[Verdict], limits: Thresholds, pools: Mapping[str, str], lines: Lines = NAMES_ALONE
) -> list[Comparison]:
    """Compare pools of seeds with each other and with models without a seed, such as a base.

    Args:
        pools: fingerprint of a training → key of its pool, which replaces the fingerprint in the comparisons.
        lines: ancestors of each pool, by its key.
    """
    if not pools:
        return []
    models: dict[Group, dict[int | None, list[AnswerOutcome]]] = defaultdict(dict)
    for group, outcomes in group_outcomes(verdicts, limits).items():
        key = pools.get(group.fingerprint)
        if key is not None or group.seed is None:
            pool = group._replace(fingerprint=key or group.fingerprint, seed=None)
            models[pool][group.seed] = outcomes
    return list(_make_comparisons(models, str(limits), lines, compute_difference_over_seeds))


def _make_comparisons(
    models: Mapping[Group, SeedOutcomes],
    threshold: str,
    lines: Lines,
    compare_pair: Callable[[SeedCounts, SeedCounts], Difference | None],
) -> Iterator[Comparison]:
    """Yield the comparisons of models with the same judge, condition and set."""
    comparable: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in models:
        comparable[group.judge, group.condition, group.eval_set].append(group)
    for groups in comparable.values():
        chosen = list(choose_pairs(groups, lines))
        all_outcomes = (outcomes for group in groups for outcomes in models[group].values())
        metric, conventions = choose_headline(chain.from_iterable(all_outcomes))
        for convention in conventions:
            counts: dict[Group, SeedCounts] = {}
            for group in groups:
                tallies = {seed: count_classes(outcomes, convention) for seed, outcomes in models[group].items()}
                counts[group] = {seed: count_metric(kinds, metric) for seed, kinds in tallies.items()}
            rows = []
            for first, second in chosen:
                paired = compare_pair(counts[first], counts[second])
                if paired is None:
                    continue
                rows.append(
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
                        family=find_family(first, second, lines),
                    )
                )
            yield from correct_families(rows)


def correct_families(rows: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p_holm corrected within each family."""
    families = {row.family for row in rows}
    corrected = {family: iter(correct_by_holm([row.p for row in rows if row.family == family])) for family in families}
    return [replace(row, p_holm=next(corrected[row.family])) for row in rows]


def choose_pairs(models: Sequence[Group], lines: Lines = NAMES_ALONE) -> Iterator[tuple[Group, Group]]:
    """Yield the pairs of models to compare, parent first; of more than ALL_PAIRS models, only related pairs."""
    for first, second in combinations(models, 2):
        replicates = (first.model, first.stage) == (second.model, second.stage) and first.seed != second.seed
        if not replicates and (len(models) <= ALL_PAIRS or find_family(first, second, lines) != "other"):
            yield (second, first) if is_trained_from(first, second, lines) else (first, second)


def find_family(one: Group, other: Group, lines: Lines = NAMES_ALONE) -> str:
    """Return how two models are related: `stage`, `sibling` or `other` (see `Comparison`)."""
    if is_trained_from(one, other, lines) or is_trained_from(other, one, lines):
        return "stage"
    return "sibling" if are_siblings(one, other, lines) else "other"


def are_siblings(one: Group, other: Group, lines: Lines) -> bool:
    """Tell whether two models with the same seed differ only in their last stage."""
    if one.stage == other.stage or one.seed != other.seed:
        return False
    if one.fingerprint in lines and other.fingerprint in lines:
        return lines[one.fingerprint] == lines[other.fingerprint]
    (parent, plus, _), (same, _, _) = one.model.rpartition("+"), other.model.rpartition("+")
    return bool(plus) and parent == same


def is_trained_from(model: Group, before: Group, lines: Lines) -> bool:
    """Tell whether `before` is the parent or the base of `model`."""
    if line := lines.get(model.fingerprint):
        return before.fingerprint in (line[0], line[-1])
    if before.seed is not None and before.seed != model.seed:
        return False
    parent, plus, _ = model.model.rpartition("+")
    return bool(plus) and (parent == before.model or (before.stage == "base" and parent.startswith(f"{before.model}+")))
