"""Differences between models that were asked the same questions, with a correction for how many there are.

A difference is the mean over questions of rate(second) − rate(first): what is peculiar to a question falls out of
it. Its interval and p are those of Student's paired t over the questions' differences, with the freedom of the
questions that differ, less one, and with the variance never below that of independent answers to these very questions.
Where fewer than three questions differ, they can't tell how others might, and the interval is put together from those
of the two rates (MOVER; Newcombe 1998; Zou & Donner 2008), with p from the exact sign-flip permutation test. Over
trainings with several seeds the variance is that of the two-way layout of questions and seeds (`em.stats.intervals`).
p values are corrected over a family by Holm (1979). Models are compared by
their lineage, else by their names.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from em.stats.intervals import FEW, Interval, averaged, cluster_interval, crossed, student
from em.stats.outcomes import CONVENTIONS, Group, Outcome, Thresholds, metrics_of, outcomes_of
from em.stats.tallies import counts_of, tally
from em.types import Verdict

HEADLINES = ("misaligned", "true")
ALL_PAIRS = 12
"""With more models than this asked the same, each is compared with its parent, its base and its siblings alone."""
Lines = Mapping[str, Sequence[str]]
"""What models were trained from, by fingerprint: the base, the first training …, the one that was gone on with."""
NAMES_ALONE: Lines = {}
"""Of models of which no manifest tells, as in judged tables: `m+a+b` comes from `m+a`."""
Counts = Mapping[str, tuple[float, float]]
"""Successes and answers by question."""


@dataclass(frozen=True)
class Difference:
    """The paired difference of two models over `questions` questions."""

    questions: int
    difference: float
    interval: Interval
    p: float


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
                rows += _family(models, chosen, convention, metric, str(limits), lines)
    return rows


def _family(
    models: Mapping[Group, Sequence[Outcome]],
    chosen: Sequence[tuple[Group, Group]],
    convention: str,
    metric: str,
    threshold: str,
    lines: Lines,
) -> list[Comparison]:
    """The comparisons under one convention, with corrected p values."""
    counts = {
        group: counts_of(tally(outcomes, filter(CONVENTIONS[convention], outcomes)), metric)
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


def pairs(models: Sequence[Group], lines: Lines = NAMES_ALONE) -> Iterator[tuple[Group, Group]]:
    """Which models are compared, in their order; of many, those that are of a family alone."""
    for first, second in combinations(models, 2):
        replicates = (first.model, first.stage) == (second.model, second.stage) and first.seed != second.seed
        if not replicates and (len(models) <= ALL_PAIRS or family_of(first, second, lines) != "other"):
            yield (first, second) if not came_from(first, second, lines) else (second, first)


def family_of(one: Group, other: Group, lines: Lines = NAMES_ALONE) -> str:
    """What two models are to each other: see `em.stats.differences.Comparison`."""
    if came_from(one, other, lines) or came_from(other, one, lines):
        return "stage"
    return "sibling" if siblings(one, other, lines) else "other"


def siblings(one: Group, other: Group, lines: Lines) -> bool:
    """Whether two models with the same seed differ in their last stage alone."""
    if one.stage == other.stage or one.seed != other.seed:
        return False
    if one.fingerprint in lines and other.fingerprint in lines:
        return lines[one.fingerprint] == lines[other.fingerprint]
    (parent, found, _), (same, _, _) = one.model.rpartition("+"), other.model.rpartition("+")
    return bool(found) and parent == same


def came_from(model: Group, before: Group, lines: Lines) -> bool:
    """Whether a model was trained from another, directly or (a base) in the end."""
    if line := lines.get(model.fingerprint):
        return before.fingerprint in (line[0], line[-1])
    if before.seed is not None and before.seed != model.seed:
        return False
    parent, found, _ = model.model.rpartition("+")
    return bool(found) and (
        parent == before.model or (before.stage == "base" and parent.startswith(f"{before.model}+"))
    )


def difference(first: Counts, second: Counts) -> Difference | None:
    """The mean over the shared questions of second − first, with interval and p; None without a shared question."""
    shared = [q for q in first if first[q][1] and second.get(q, (0, 0))[1]]
    if not shared:
        return None
    one, two = [first[q] for q in shared], [second[q] for q in shared]
    by_question = [k2 / n2 - k1 / n1 for (k1, n1), (k2, n2) in zip(one, two, strict=True)]
    mean = math.fsum(by_question) / len(shared)
    if len(shared) == 1:
        return Difference(1, mean, mover(mean, one, two), two_proportions(*one[0], *two[0]))
    telling = sum(d != 0 for d in by_question)
    if telling < FEW:
        return Difference(len(shared), mean, mover(mean, one, two), sign_flips(by_question))
    freedom = telling - 1
    error = math.sqrt(max(variance_of_mean(by_question), least_variance(one, two)))
    half = student(freedom) * error
    interval = Interval(max(-1.0, mean - half), min(1.0, mean + half), "paired_t(question)")
    return Difference(len(shared), mean, interval, two_sided(mean / error, freedom))


def seeds_difference(seeds: Sequence[tuple[Counts, Counts]]) -> Difference | None:
    """The mean of second − first over questions crossed with the seeds that both have; None without a shared question.

    Args:
        seeds: the counts of first and second, by seed.
    """
    questions = dict.fromkeys(question for first, _ in seeds for question in first)
    pairs = [[(first.get(q, (0, 0)), second.get(q, (0, 0))) for q in questions] for first, second in seeds]
    table = [[(k2 / n2 - k1 / n1, 1) if n1 and n2 else (0, 0) for (k1, n1), (k2, n2) in line] for line in pairs]
    shared = [pair for line in pairs for pair in line if pair[0][1] and pair[1][1]]
    if not shared:
        return None
    one, two = ([pair[i] for pair in shared] for i in (0, 1))
    asked = [question for number, question in enumerate(questions) if any(line[number][1] for line in table)]
    estimate = crossed([[cell for cell, q in zip(line, questions, strict=True) if q in asked] for line in table])
    error = math.sqrt(max(estimate.variance or 0.0, least_variance(one, two)))
    mean, freedom = estimate.rate, max(1.0, estimate.freedom)
    half = student(freedom) * error
    interval = Interval(max(-1.0, mean - half), min(1.0, mean + half), "paired_t(question,seed)")
    return Difference(len(asked), mean, interval, two_sided(mean / error, freedom))


def variance_of_mean(values: Sequence[float]) -> float:
    """Sample variance over n: of the mean of independent values."""
    mean = math.fsum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def least_variance(*models: Sequence[tuple[float, float]]) -> float:
    """Variance of the mean difference were these the only questions: that of independent answers to each.

    Half an answer of each kind is added, or a question whose answers all agree would be certain.
    """
    rates = [((k + 0.5) / (n + 1), n) for counts in models for k, n in counts]
    return sum(rate * (1 - rate) / n for rate, n in rates) / len(models[0]) ** 2


def two_sided(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) of Student's t."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


def mover(mean: float, first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]) -> Interval:
    """Interval of second − first from the intervals of both rates, as if these were independent."""
    below, above = zip(*(reach(counts) for counts in (first, second)), strict=True)
    method = "mover(question)" if len(first) > 1 else "mover(answers)"
    return Interval(mean - math.hypot(below[1], above[0]), mean + math.hypot(above[1], below[0]), method)


def reach(counts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """How far the interval of a rate goes below and above it."""
    rate, interval = averaged(counts).rate, cluster_interval(counts, average=True)
    assert interval.low is not None
    assert interval.high is not None
    return rate - interval.low, interval.high - rate


def sign_flips(differences: Sequence[float]) -> float:
    """Exact two-sided p of the mean of paired differences, each of whose signs is as likely as the other (Fisher)."""
    moved = [d for d in differences if d]
    seen = abs(math.fsum(moved)) - 1e-12
    flips = [
        abs(math.fsum(s * d for s, d in zip(signs, moved, strict=True)))
        for signs in product((1, -1), repeat=len(moved))
    ]
    return sum(flip >= seen for flip in flips) / len(flips)


def two_proportions(k1: float, n1: float, k2: float, n2: float) -> float:
    """Two-sided p that two rates are equal, from independent answers (score test)."""
    rate = (k1 + k2) / (n1 + n2)
    error = math.sqrt(rate * (1 - rate) * (1 / n1 + 1 / n2))
    return math.erfc(abs(k2 / n2 - k1 / n1) / error / math.sqrt(2)) if error else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p values that hold for all of them together: Holm's (1979) step-down correction, in their order."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected
