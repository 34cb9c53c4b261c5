"""Combine rates of models into a contrast, a sum with coefficients, and compute its interval at any level.

The interval of a rate is Wilson's (1927) score interval with the effective number of answers of a stratified sample
(Korn & Graubard 1998, with questions as strata). Near 0 and 1, where Wilson's interval is too short, an exact one-sided
limit replaces its end (Brown, Cai & DasGupta 2001, section 4.1, who take the Poisson limit). The interval of a contrast
combines those of its rates (MOVER: Zou, Huang & Zhang 2009, equation 3), and over training seeds it is Student's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

ENOUGH_SEEDS = 3
"""With fewer training seeds, answers alone make the interval."""
LEVEL = 0.05
FARTHEST = 38.0
"""The largest normal quantile whose tail probability a float can hold."""
Table = Sequence[Sequence[tuple[float, float]]]
"""Successes k and answers n: a row for each training seed, a column for each question; n may be 0."""
Parts = Sequence[tuple[float, Table]]
"""The coefficients and the tables of a contrast. Tables with several rows list the same seeds in the same order."""


@dataclass(frozen=True)
class Estimate:
    """A rate or a contrast of rates, with its interval.

    p: two-sided p value of the value zero; None for a rate.
    level: the interval has confidence 1 − level.
    seeds: training seeds of the model with the most.
    over_seeds: whether the interval covers other trainings.
    """

    value: float
    low: float
    high: float
    p: float | None
    level: float
    questions: int
    answers: float
    seeds: int
    over_seeds: bool
    method: str


@dataclass(frozen=True)
class Share:
    """The share of harm that is left after a second training, (second − base) / (first − base).

    bound: upper bound of confidence 97.5 %, at least 0; infinite if the harm may not have become smaller at all.
    """

    value: float
    bound: float


@dataclass(frozen=True)
class Stratum:
    """The rate of a model, and the effective number of answers the rate rests on.

    deviations: of each training seed's rate from the rate over all seeds; empty for a model with one row.
    """

    rate: float
    size: float
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Contrast:
    """A sum of rates with coefficients, ready for intervals at any level.

    seed_error: standard error over seeds of the part that has seeds; None with fewer than ENOUGH_SEEDS.
    """

    terms: Sequence[tuple[float, Stratum]]
    seed_error: float | None
    seeds: int

    def bound(self, z: float) -> tuple[float, float]:
        """Return the interval at a normal quantile, before it is cut to what is possible."""
        level = find_tail(z)
        value = math.fsum(c * stratum.rate for c, stratum in self.terms)
        below = above = fixed_below = fixed_above = 0.0
        for c, stratum in self.terms:
            down, up = measure_reach(c, stratum.rate, bound_rate(stratum.rate, stratum.size, z))
            below, above = math.hypot(below, down), math.hypot(above, up)
            if not stratum.deviations:
                fixed_below, fixed_above = math.hypot(fixed_below, down), math.hypot(fixed_above, up)
        if self.seed_error is not None:
            half = find_student(self.seeds - 1, level) * self.seed_error
            below, above = max(below, math.hypot(half, fixed_below)), max(above, math.hypot(half, fixed_above))
        return value - below, value + above


def find_share_bound(bound_above: Callable[[float], float]) -> float:
    """Return the smallest share from which on all shares up to 1 are excluded; infinity if 1 is not excluded.

    A share is excluded where `bound_above`, the upper end of the interval of the contrast, is below zero. These shares
    form one range, because the upper end is a convex function of the share.
    """
    if bound_above(1.0) >= 0:
        return math.inf
    return 0.0 if bound_above(0.0) < 0 else find_root(bound_above, 0.0, 1.0)


def keep_shared(parts: Parts) -> Parts | None:
    """Keep the questions to which every model has an answer; None if there is none."""
    columns = [merge_seeds(table) for _, table in parts]
    shared = [q for q in range(len(columns[0])) if all(column[q][1] > 0 for column in columns)]
    if not shared:
        return None
    rows = {len(table) for _, table in parts if len(table) > 1}
    if len(rows) > 1:
        raise ValueError(f"models with several seeds must list the same seeds, not {sorted(rows)} of them")
    return [(c, [[row[q] for q in shared] for row in table]) for c, table in parts]


def merge_seeds(table: Table) -> list[tuple[float, float]]:
    """Return the counts of each question over all seeds."""
    if len(table) == 1:
        return list(table[0])
    return [(sum(k for k, _ in column), sum(n for _, n in column)) for column in zip(*table, strict=True)]


def find_rate(table: Table) -> float:
    """Return the mean of the questions' rates."""
    return fmean(k / n for k, n in merge_seeds(table))


def prepare_contrast(terms: Sequence[tuple[float, Stratum]]) -> Contrast:
    """Compute what the intervals of a contrast need."""
    error, seeds = find_seed_error([(c, stratum.deviations) for c, stratum in terms])
    return Contrast(terms, error, seeds)


def bound_contrast(parts: Parts, level: float) -> tuple[float, float]:
    """Return the interval of a contrast on shared questions, before it is cut to what is possible."""
    terms = [(c, measure_stratum(table)) for c, table in parts]
    return prepare_contrast(terms).bound(find_quantile(level))


def measure_reach(coefficient: float, rate: float, interval: tuple[float, float]) -> tuple[float, float]:
    """Return how far below and above its value coefficient · rate may lie, by the interval of the rate."""
    down, up = abs(coefficient) * (rate - interval[0]), abs(coefficient) * (interval[1] - rate)
    return (up, down) if coefficient < 0 else (down, up)


def measure_stratum(table: Table) -> Stratum:
    """Compute the rate and the effective number of answers of a model: its n, times r(1 − r) over the mean p(1 − p).

    r is the rate of the model and p that of a question. Each question gets one more answer with the model's rate, so
    that a question whose answers all agree does not count as certain. The factors (n + 1)/n make up for p(1 − p) of a
    sample being too small on average, as n/(n − 1) does without that answer. One question keeps its n.
    """
    counts = merge_seeds(table)
    rate = fmean(k / n for k, n in counts)
    size = len(counts) ** 2 / math.fsum(1 / n for _, n in counts)
    if 0 < rate < 1:
        smooth = [((k + rate) / (n + 1), n) for k, n in counts]
        variance = math.fsum(p * (1 - p) * (n + 1) / n**2 for p, n in smooth) / len(counts) ** 2
        size = rate * (1 - rate) * (size + 1) / size / variance
    return Stratum(rate, size, find_deviations(table))


def bound_rate(rate: float, size: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval of a rate, with the exact one-sided limits at the same level where they are wider.

    At rates near 0 an interval errs on one side alone, so one-sided limits with the full level are enough there.
    """
    shrink = 1 + z * z / size
    centre = (rate + z * z / (2 * size)) / shrink
    half = z / shrink * math.sqrt(max(0.0, rate * (1 - rate)) / size + z * z / (4 * size * size))
    level = find_tail(z)
    low = min(max(0.0, centre - half), find_exact_limit(rate, size, level), rate)
    high = max(min(1.0, centre + half), 1 - find_exact_limit(1 - rate, size, level), rate)
    return low, high


def find_exact_limit(rate: float, size: float, level: float) -> float:
    """Return the rate at which as many successes or more have probability `level` (Clopper & Pearson 1934)."""
    if rate <= 0:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(rate * size, (1 - rate) * size + 1, level))


def find_deviations(table: Table) -> tuple[float, ...]:
    """Return how far each seed's rate lies from the rate over all seeds; empty for a table with one row.

    A seed's deviation is the mean over its questions of the difference to the question's rate over all seeds, so a
    seed without an answer to some question keeps its other questions.
    """
    if len(table) == 1:
        return ()
    rates = [k / n for k, n in merge_seeds(table)]
    deviations = []
    for row in table:
        cells = [k / n - rate for (k, n), rate in zip(row, rates, strict=True) if n]
        deviations.append(fmean(cells) if cells else 0.0)
    return tuple(deviations)


def find_seed_error(terms: Sequence[tuple[float, tuple[float, ...]]]) -> tuple[float | None, int]:
    """Return the standard error over seeds of Σ coefficient · deviation, and the number of seeds.

    The error is None with fewer than ENOUGH_SEEDS.
    """
    seeded = [(c, deviations) for c, deviations in terms if deviations]
    seeds = len(seeded[0][1]) if seeded else 1
    if seeds < ENOUGH_SEEDS:
        return None, seeds
    sums = [math.fsum(c * deviations[s] for c, deviations in seeded) for s in range(seeds)]
    mean = fmean(sums)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in sums) / (seeds - 1) / seeds), seeds


def find_student(freedom: int, level: float) -> float:
    """Return the quantile of Student's t with probability level/2 above it."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, level / 2))


def find_quantile(level: float) -> float:
    """Return the normal quantile with probability level/2 above it."""
    from scipy.special import ndtri

    return -float(ndtri(level / 2))


def find_p(parts: Parts) -> float:
    """Return the two-sided p value of a contrast of zero."""
    return find_touching_level(prepare_contrast([(c, measure_stratum(table)) for c, table in parts]).bound)


def find_touching_level(bound: Callable[[float], tuple[float, float]]) -> float:
    """Return the level at which an interval touches zero; 0 if no level that a float can hold does.

    Args:
        bound: the interval at a normal quantile.
    """
    low, high = bound(0.0)
    if low <= 0 <= high:
        return 1.0

    def measure_distance(z: float) -> float:
        return bound(z)[0] if low > 0 else -bound(z)[1]

    if measure_distance(FARTHEST) > 0:
        return 0.0
    return find_tail(find_root(measure_distance, 0.0, FARTHEST))


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a continuous function changes its sign between `low` and `high` (Brent 1973)."""
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-13, rtol=1e-13))


def find_tail(z: float) -> float:
    """Return the two-sided tail probability of a normal quantile."""
    return math.erfc(z / math.sqrt(2))


def describe(parts: Parts, bounds: tuple[float, float], p: float | None, level: float, method: str) -> Estimate:
    """Return the estimate of a contrast with given bounds; `method` is its name without the units."""
    seeds = max(len(table) for _, table in parts)
    over_seeds = seeds >= ENOUGH_SEEDS
    return Estimate(
        value=math.fsum(c * find_rate(table) for c, table in parts),
        low=bounds[0],
        high=bounds[1],
        p=p,
        level=level,
        questions=len(parts[0][1][0]),
        answers=sum(n for _, table in parts for row in table for _, n in row),
        seeds=seeds,
        over_seeds=over_seeds,
        method=f"{method}(question{',seed' if over_seeds else ''})",
    )
