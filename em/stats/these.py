"""Infer to these questions: the model that was asked, exactly these questions, other answers.

A rate is the mean of the questions' rates, so every question counts alike; within a question all answers count alike.
Rates, differences and shares use this one weighting. Intervals are those of `em.stats.contrasts`. The p value of a
contrast is the level at which its interval touches zero, so the two agree.

With three training seeds or more, trainings vary too: the contrast of each seed is one observation, and Student's t
over seeds gives a second interval. The result is the union of both intervals. Fewer seeds can't tell the luck of
training, and then the interval speaks of these trainings.
"""

from __future__ import annotations

from em.stats.contrasts import (
    LEVEL,
    Estimate,
    Parts,
    Share,
    Table,
    bound_contrast,
    describe,
    find_p,
    find_quantile,
    find_share_bound,
    keep_shared,
    measure_stratum,
    prepare_contrast,
)


def estimate_rate(table: Table, level: float = LEVEL) -> Estimate | None:
    """Compute the mean rate over questions with its interval; None without an answer."""
    kept = keep_shared([(1.0, table)])
    if kept is None:
        return None
    low, high = bound_contrast(kept, level)
    return describe(kept, (max(0.0, low), min(1.0, high)), None, level, "wilson_stratified")


def estimate_contrast(parts: Parts, level: float = LEVEL) -> Estimate | None:
    """Compute Σ coefficient · rate over shared questions, with interval and p; None without a shared question."""
    kept = keep_shared(parts)
    if kept is None:
        return None
    p = find_p(kept)
    low, high = bound_contrast(kept, level)
    most = sum(max(0.0, c) for c, _ in kept)
    least = sum(min(0.0, c) for c, _ in kept)
    return describe(kept, (max(least, low), min(most, high)), p, level, "mover_stratified")


def bound_these(parts: Parts, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of a contrast over shared questions, without its p; None without a shared question."""
    kept = keep_shared(parts)
    return None if kept is None else bound_contrast(kept, level)


def estimate_share(base: Table, first: Table, second: Table, level: float = LEVEL) -> Share | None:
    """Compute the share of harm left, with its upper bound; None without harm or a shared question.

    The bound is Fieller's (1954): the smallest share r for which the interval of second − r·first − (1 − r)·base lies
    below zero, here with the interval of `bound_contrast` (Donner & Zou 2012 use MOVER for ratios in the same way).
    A bound below 1 therefore means that the difference of both trainings is surely below zero.

    Args:
        level: of the two-sided interval; the bound is one-sided, with half of this level.
    """
    kept = keep_shared([(1.0, base), (1.0, first), (1.0, second)])
    if kept is None:
        return None
    before, between, after = (measure_stratum(table) for _, table in kept)
    harm = between.rate - before.rate
    if harm <= 0:
        return None
    z = find_quantile(level)

    def bound_above(share: float) -> float:
        return prepare_contrast([(1.0, after), (-share, between), (share - 1.0, before)]).bound(z)[1]

    return Share((after.rate - before.rate) / harm, find_share_bound(bound_above))
