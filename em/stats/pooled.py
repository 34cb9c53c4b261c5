"""Differences between models that were trained with several seeds each: over questions and seeds at once.

A difference that is found anew with every seed is one of the data; of one seed it may be luck. Trainings with the same
seed are paired, as are the questions: a cell of the two-way table is rate(second) − rate(first) of one question and one
seed, and the mean over all cells has the variance and freedom of `intervals.crossed`, the variance never below that of
independent answers, the freedom never above that of the questions that differ, less one. Where fewer than three
questions differ, the interval is put together from those of the two rates, as in `differences`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from em.stats.differences import (
    HEADLINES,
    NAMES_ALONE,
    Comparison,
    Counts,
    Difference,
    Lines,
    comparison,
    in_families,
    least_variance,
    pairs,
    sign_flips,
    two_sided,
)
from em.stats.intervals import FEW, Interval, cluster_interval, crossed, seeds_interval, student, summed
from em.stats.outcomes import CONVENTIONS, Group, Outcome, Thresholds, metrics_of, outcomes_of
from em.stats.tallies import counts_of, tally
from em.types import Verdict

Seeds = Mapping[int | None, Counts]
"""Counts by question, by training seed; None alone where nothing was trained."""


def compare_pools(
    verdicts: Iterable[Verdict],
    limits: Thresholds,
    pools: Mapping[str, str],
    lines: Lines = NAMES_ALONE,
) -> list[Comparison]:
    """The comparisons between pools of seeds, and between a pool and a model that has no seed, such as a base.

    Args:
        pools: by the fingerprint of a training the key of its pool, which stands for it in the comparisons.
        lines: what each pool was trained from, by its key (`em.stats.differences`).
    """
    if not pools:
        return []
    found: dict[tuple[str, str, str], dict[Group, dict[int | None, list[Outcome]]]] = defaultdict(dict)
    for group, outcomes in outcomes_of(verdicts, limits).items():
        key = pools.get(group.fingerprint)
        if key is not None or group.seed is None:
            whole = group._replace(fingerprint=key or group.fingerprint, seed=None)
            family = found[group.judge, group.condition, group.eval_set]
            family.setdefault(whole, {})[group.seed] = outcomes
    rows: list[Comparison] = []
    for models in found.values():
        metrics = metrics_of(o for seeds in models.values() for outcomes in seeds.values() for o in outcomes)
        metric = next((name for name in HEADLINES if name in metrics), None)
        if metric is not None:
            for convention in CONVENTIONS if metric == "misaligned" else ("all",):
                rows += in_families(_compared(models, convention, metric, str(limits), lines))
    return rows


def _compared(
    models: Mapping[Group, Mapping[int | None, Sequence[Outcome]]],
    convention: str,
    metric: str,
    threshold: str,
    lines: Lines,
) -> Iterator[Comparison]:
    counts = {
        model: {
            seed: counts_of(tally(said, filter(CONVENTIONS[convention], said)), metric) for seed, said in seeds.items()
        }
        for model, seeds in models.items()
    }
    for first, second in pairs(list(models), lines):
        seeds, paired = difference_over_seeds(counts[first], counts[second]) or (0, None)
        if (row := comparison(first, second, paired, (convention, metric, threshold), lines, seeds)) is not None:
            yield row


def difference_over_seeds(first: Seeds, second: Seeds) -> tuple[int, Difference] | None:
    """Over how many seeds, and the mean difference there; None without two seeds or a question that all have."""
    seeds = {seed for seed in first.keys() | second.keys() if seed is not None}
    both = sorted(seed for seed in seeds if _has(first, seed) and _has(second, seed))
    tables = [[side.get(seed, side.get(None, {})) for seed in both] for side in (first, second)]
    asked = [counts for table in tables for counts in table]
    shared = [q for q in (asked[0] if both else ()) if all(counts.get(q, (0, 0))[1] for counts in asked)]
    if len(both) < 2 or not shared:
        return None
    one, two = ([[counts[q] for q in shared] for counts in table] for table in tables)
    cells = [
        [k2 / n2 - k1 / n1 for (k1, n1), (k2, n2) in zip(before, after, strict=True)]
        for before, after in zip(one, two, strict=True)
    ]
    by_question = [math.fsum(column) / len(both) for column in zip(*cells, strict=True)]
    mean = math.fsum(by_question) / len(shared)
    telling = sum(d != 0 for d in by_question)
    if telling < FEW:
        interval = _put_together(mean, (first, one), (second, two))
        return len(both), Difference(len(shared), mean, interval, sign_flips(by_question))
    estimate = crossed([[(cell, 1) for cell in row] for row in cells])
    least = least_variance(*(_all_answers(*side) for side in ((first, one), (second, two))))
    error = math.sqrt(max(estimate.variance or 0.0, least))
    freedom = min(estimate.freedom, telling - 1)
    half = student(freedom) * error
    interval = Interval(max(-1.0, mean - half), min(1.0, mean + half), "paired_t(question,seed)")
    return len(both), Difference(len(shared), mean, interval, two_sided(mean / error, freedom))


def _has(side: Seeds, seed: int | None) -> bool:
    """Whether a side has a training with this seed, or is the same under every seed."""
    return seed in side or None in side


def _all_answers(side: Seeds, table: Sequence[Sequence[tuple[float, float]]]) -> Sequence[tuple[float, float]]:
    """The counts of each question over all seeds; what has no seed counts once."""
    return table[0] if None in side else summed(zip(*table, strict=True))


def _put_together(
    mean: float,
    first: tuple[Seeds, Sequence[Sequence[tuple[float, float]]]],
    second: tuple[Seeds, Sequence[Sequence[tuple[float, float]]]],
) -> Interval:
    """MOVER from the intervals of both rates, each over its questions and, where it has any, seeds."""
    reaches = []
    for side, table in (first, second):
        alone = None in side
        rate = math.fsum(k / n for row in table for k, n in row) / sum(map(len, table))
        interval = cluster_interval(table[0], average=True) if alone else seeds_interval(table, average=True)
        assert interval.low is not None
        assert interval.high is not None
        reaches.append((rate - interval.low, interval.high - rate))
    (below_one, above_one), (below_two, above_two) = reaches
    low, high = math.hypot(below_two, above_one), math.hypot(above_two, below_one)
    return Interval(mean - low, mean + high, "mover(question,seed)")
