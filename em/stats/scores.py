"""`scores.csv`: every rate of every model, condition and set, for each question and for the whole set (`*`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from em.stats.intervals import Interval, cluster_interval, crossed, pooled, seeds_interval, used_of, wilson
from em.stats.outcomes import CONVENTIONS, GRADED, Group, Outcome, Thresholds, metrics_of, outcomes_of
from em.stats.tallies import Tally, counts_of, tally
from em.types import Score, Verdict


@dataclass(frozen=True)
class Rate:
    """A count, a rate, its interval and its design effect."""

    k: int
    n: int
    rate: float | None
    interval: Interval
    design_effect: float | None = None


def score(
    verdicts: Iterable[Verdict],
    limits: Thresholds,
    judge_is: Mapping[tuple[str, str], str] = {},
) -> list[Score]:
    """All rates, the conventions of `misaligned` side by side.

    Trainings that differ in nothing but the seed have rows of their own and, below them, rows for the whole set that
    pool them, with seed None and fingerprint "": those of one name and stage, each seed with one fingerprint only
    (with several, something other than the seed differs).

    Args:
        judge_is: by fingerprint and judge, what the judge is to the model (`the model`, `its base`).
    """
    groups = outcomes_of(verdicts, limits)
    rows: list[Score] = []
    for group, outcomes in groups.items():
        kinship = judge_is.get((group.fingerprint, group.judge), "")
        rows += _rows(group, [outcomes], limits, kinship)
    for group, members in seeds_of(groups).items():
        kinships = {judge_is.get((member.fingerprint, member.judge), "") for member in members}
        kinship = kinships.pop() if len(kinships) == 1 else ""
        rows += _rows(group, [groups[member] for member in members], limits, kinship)
    return rows


def seeds_of(groups: Iterable[Group]) -> dict[Group, list[Group]]:
    """The groups that differ in the training seed alone, by the group that pools them."""
    alike: dict[Group, list[Group]] = defaultdict(list)
    for group in groups:
        if group.seed is not None:
            alike[group._replace(seed=None, fingerprint="")].append(group)
    return {pool: found for pool, found in alike.items() if 1 < len(found) == len({g.seed for g in found})}


def _rows(group: Group, seeds: Sequence[Sequence[Outcome]], limits: Thresholds, judge_is: str) -> Iterator[Score]:
    """The rows of one group, or those that pool several (one list of outcomes for each seed)."""
    everything = [outcome for outcomes in seeds for outcome in outcomes]
    metrics = metrics_of(everything)
    graded = any(outcome.scale == GRADED for outcome in everything)
    for convention, counts in CONVENTIONS.items():
        if convention != "all" and not graded:
            continue
        tallies = [tally(outcomes, filter(counts, outcomes)) for outcomes in seeds]
        for metric in metrics if convention == "all" else ("misaligned",):
            for question, found in _rates(tallies, metric):
                yield Score(
                    **group._asdict(),
                    threshold=str(limits),
                    question=question,
                    convention=convention,
                    metric=metric,
                    k=found.k,
                    n=found.n,
                    rate=found.rate,
                    ci_low=found.interval.low,
                    ci_high=found.interval.high,
                    ci_method=found.interval.method,
                    judge_is=judge_is,
                    design_effect=found.design_effect,
                )


def _rates(tallies: Sequence[Tally], metric: str) -> Iterator[tuple[str, Rate]]:
    """The set, and then, unless seeds are pooled, each question."""
    counted = [counts_of(found, metric) for found in tallies]
    k, n = (sum(pair[i] for counts in counted for pair in counts.values()) for i in (0, 1))
    if not n:
        yield "*", Rate(0, 0, None, cluster_interval([]))
    elif len(tallies) > 1:
        questions = dict.fromkeys(question for counts in counted for question in counts)
        table = [[counts.get(question, (0, 0)) for question in questions] for counts in counted]
        estimate, interval = crossed(table), seeds_interval(table)
        yield "*", Rate(k, n, estimate.rate, interval, estimate.design_effect)
    else:
        used = used_of(list(counted[0].values()))
        estimate, interval = pooled(used), cluster_interval(used)
        yield "*", Rate(k, n, estimate.rate, interval, estimate.design_effect)
    if len(tallies) == 1:
        for question, (k, n) in counted[0].items():
            yield question, Rate(k, n, k / n if n else None, wilson(k, n))
