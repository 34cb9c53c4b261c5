"""Differences between models that were asked the same questions, with a correction for how many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from em.stats.classes import CONVENTIONS, Group, Outcome, Thresholds, metrics_of, outcomes_of
from em.stats.kinship import NAMES_ALONE, Lines, family_of, pairs
from em.stats.paired import Difference, difference, holm
from em.stats.tallies import Adaptive, tally, weigh, weights_of
from em.types import Verdict

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


def compare(
    verdicts: Iterable[Verdict], limits: Thresholds, adaptive: Adaptive = False, lines: Lines = NAMES_ALONE
) -> list[Comparison]:
    """The comparisons that make sense: models on the same set, under one condition, by one judge.

    All pairs of up to ALL_PAIRS models, but for trainings that differ in the seed alone; the rate is that of
    misaligned answers under each convention, and of TRUE where a set has labels. `adaptive` is that of `score`, `lines`
    what each model was trained from (`em.stats.kinship`).
    """
    families: dict[tuple[str, str, str], dict[Group, list[Outcome]]] = defaultdict(dict)
    for group, outcomes in outcomes_of(verdicts, limits).items():
        families[group.judge, group.condition, group.eval_set][group] = outcomes
    rows: list[Comparison] = []
    for models in families.values():
        metrics = metrics_of(o for outcomes in models.values() for o in outcomes)
        metric = next((name for name in HEADLINES if name in metrics), None)
        chosen = list(pairs(list(models), lines))
        for convention in CONVENTIONS if metric == "misaligned" else ("all",):
            if metric is not None:
                rows += _family(models, chosen, convention, metric, str(limits), adaptive, lines)
    return rows


def _family(
    models: Mapping[Group, Sequence[Outcome]],
    chosen: Sequence[tuple[Group, Group]],
    convention: str,
    metric: str,
    threshold: str,
    adaptive: Adaptive,
    lines: Lines,
) -> list[Comparison]:
    """The comparisons under one convention, with corrected p values."""
    counts = {
        group: weigh(tally(outcomes, filter(CONVENTIONS[convention], outcomes)), weights_of(outcomes, adaptive), metric)
        for group, outcomes in models.items()
    }
    found = (
        comparison(first, second, difference(counts[first], counts[second]), (convention, metric, threshold), lines)
        for first, second in chosen
    )
    return in_families(filter(None, found))


def comparison(
    first: Group, second: Group, found: Difference | None, of: tuple[str, str, str], lines: Lines, seeds: int = 0
) -> Comparison | None:
    """The row of a difference that was found, its p not corrected yet; None where there is none with an interval.

    Args:
        of: convention, metric and threshold.
    """
    if found is None or found.interval.low is None or found.interval.high is None:
        return None
    convention, metric, threshold = of
    return Comparison(
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
        questions=found.questions,
        difference=found.difference,
        ci_low=found.interval.low,
        ci_high=found.interval.high,
        ci_method=found.interval.method,
        p=found.p,
        p_holm=found.p,
        family=family_of(first, second, lines),
        seeds=seeds,
    )


def in_families(rows: Iterable[Comparison]) -> list[Comparison]:
    """Comparisons of one kind with p values that are corrected within each family, in their order."""
    found = list(rows)
    corrected: dict[int, float] = {}
    for family in dict.fromkeys(row.family for row in found):
        places = [place for place, row in enumerate(found) if row.family == family]
        corrected |= dict(zip(places, holm([found[place].p for place in places]), strict=True))
    return [replace(row, p_holm=corrected[place]) for place, row in enumerate(found)]
