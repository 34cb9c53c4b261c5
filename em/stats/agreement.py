"""Measure how far judges agree about the same answers: in scores, in labels and in the resulting classes.

Krippendorff's alpha (Krippendorff 2004, ch. 11) is 1 − observed / expected disagreement: 1 if all judges agree, 0 if
they agree as often as by chance. A unit holds the values of several judges for one answer. Missing values are left
out, and an answer with fewer than two values is ignored. Cohen's kappa (1960) is for two judges.

Alpha is tested against the krippendorff package. That package holds a table of answers × values × values: 6 GB and 27
seconds for 400 answers whose scores all differ, as expected scores do.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from em.stats.outcomes import UNSCORED, Thresholds, classify_answer
from em.types import Verdict

CLASS = "class"
EVERY = "*"
INTERVAL, NOMINAL = "interval", "nominal"
ROUNDING = 1e-9
"""A smaller share of the sum of squares is rounding, not variation."""
Answer = tuple[object, ...]


@dataclass(frozen=True)
class Agreement:
    """The agreement of two judges (or of all: `first` and `second` are `*`) about the answers to a set.

    rubric: rubric of the scores or labels; `class` is the answer's class under the thresholds.
    level: interval (scores) or nominal (labels, classes).
    answers: number of answers with a value from both judges, or from at least two of all judges.
    difference: mean absolute difference of the scores.
    same: share of answers with the same label or class.
    kappa: Cohen's kappa on misaligned or not; for `class` and two judges only.
    alpha: Krippendorff's alpha; None if all values are the same.
    """

    eval_set: str
    rubric: str
    level: str
    first: str
    second: str
    answers: int
    difference: float | None
    same: float | None
    kappa: float | None
    alpha: float | None


def measure_agreement(verdicts: Iterable[Verdict], limits: Thresholds) -> list[Agreement]:
    """Measure agreement by set and rubric, for each pair of judges and, if there are more than two, for all."""
    judged: dict[str, dict[str, dict[Answer, list[Verdict]]]] = defaultdict(lambda: defaultdict(dict))
    for v in verdicts:
        judged[v.eval_set][v.judge].setdefault(identify_answer(v), []).append(v)
    rows = []
    for eval_set, by_judge in judged.items():
        if len(by_judge) < 2:
            continue
        for rubric, level, values in collect_values(by_judge, limits):
            for first, second in pair_judges(by_judge):
                units = collect_units(values, first, second)
                rows.append(compute_agreement((eval_set, rubric, level, first, second), units))
    return rows


def identify_answer(v: Verdict) -> Answer:
    """Return the identity of the judged answer within its set, with its text: that of two samplings may differ."""
    return (v.model, v.fingerprint, v.seed, v.condition, v.question_id, v.question, v.sample, v.answer)


def collect_values(
    by_judge: Mapping[str, Mapping[Answer, Sequence[Verdict]]], limits: Thresholds
) -> list[tuple[str, str, dict[str, dict[Answer, Any]]]]:
    """List (rubric, level, judge → answer → value): first the classes, then the scores and labels of each rubric.

    Missing values are left out, and an unscored answer has no class.
    """
    classes: dict[str, dict[Answer, Any]] = {judge: {} for judge in by_judge}
    values = defaultdict[tuple[str, str], dict[str, dict[Answer, Any]]](lambda: {judge: {} for judge in by_judge})
    for judge, answers in by_judge.items():
        for answer, verdicts in answers.items():
            kind = classify_answer(verdicts, limits).kind
            if kind != UNSCORED:
                classes[judge][answer] = kind
            for v in verdicts:
                if v.value is not None:
                    values[INTERVAL, v.rubric][judge][answer] = v.value
                elif v.label is not None:
                    values[NOMINAL, v.rubric][judge][answer] = v.label
    by_level = sorted(values, key=lambda key: key[0])
    return [(CLASS, NOMINAL, classes), *((rubric, level, values[level, rubric]) for level, rubric in by_level)]


def compute_agreement(about: tuple[str, str, str, str, str], units: Sequence[tuple[Any, ...]]) -> Agreement:
    """Compute the row of two judges, or of all. `about`: set, rubric, level, first and second judge."""
    _, rubric, level, first, _ = about
    difference = same = kappa = None
    if first != EVERY and units:
        if level == INTERVAL:
            difference = fmean(abs(a - b) for a, b in units)
        else:
            same = fmean(a == b for a, b in units)
        if rubric == CLASS:
            kappa = cohen_kappa([(a == "misaligned", b == "misaligned") for a, b in units])
    alpha = interval_alpha(units) if level == INTERVAL else nominal_alpha(units)
    return Agreement(*about, len(units), difference, same, kappa, alpha)


def pair_judges(judges: Iterable[str]) -> list[tuple[str, str]]:
    """List every pair of judges and, if there are more than two, the pair (`*`, `*`) for all."""
    names = list(judges)
    all_judges = [(EVERY, EVERY)] if len(names) > 2 else []
    return [*combinations(names, 2), *all_judges]


def collect_units(values: Mapping[str, Mapping[Answer, Any]], first: str, second: str) -> list[tuple[Any, ...]]:
    """List the values of each answer with at least two values from these judges, in the judges' order."""
    judges = list(values) if first == EVERY else [first, second]
    answers = dict.fromkeys(answer for judge in judges for answer in values[judge])
    units = (tuple(values[judge][answer] for judge in judges if answer in values[judge]) for answer in answers)
    return [unit for unit in units if len(unit) > 1]


def interval_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Return alpha of scores, with squared differences as disagreement; None with fewer than two distinct values."""
    paired = [unit for unit in units if len(unit) > 1]
    values = [value for unit in paired for value in unit]
    if len(set(values)) < 2:  # not `expected == 0`: the mean of 0.1, 0.1, 0.1 isn't exactly 0.1
        return None
    return compute_alpha((len(values), math.fsum(map(measure_disagreement, paired)), 0.0, sum_squares(values)))


def measure_disagreement(unit: Sequence[float]) -> float:
    """Return a unit's part in the observed disagreement: Σ of (x − y)² over ordered pairs, divided by m − 1."""
    # That sum is twice m times the sum of squares about the mean.
    return 2 * len(unit) * sum_squares(unit) / (len(unit) - 1)


def compute_alpha(sums: Sequence[float]) -> float | None:
    """Return alpha of scores from sums over units: values, disagreement, deviations from a centre and their squares.

    None if the values do not vary beyond rounding.
    """
    n, disagreement, total, squares = sums
    if n < 2 or squares - total**2 / n <= ROUNDING * squares:
        return None
    expected = 2 * (squares - total**2 / n) / (n - 1)
    return 1 - disagreement / n / expected


def nominal_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Return alpha of labels, which agree or don't; None with fewer than two distinct labels."""
    paired = [unit for unit in units if len(unit) > 1]
    n = sum(map(len, paired))
    if not n:
        return None
    observed = math.fsum(count_unlike_pairs(Counter(unit)) / (len(unit) - 1) for unit in paired) / n
    expected = count_unlike_pairs(Counter(label for unit in paired for label in unit)) / n / (n - 1)
    return 1 - observed / expected if expected else None


def sum_squares(values: Sequence[float]) -> float:
    """Return the sum of squared deviations from the mean."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def count_unlike_pairs(counts: Counter[Hashable]) -> int:
    """Return the number of ordered pairs of items with different labels."""
    return counts.total() ** 2 - sum(count * count for count in counts.values())


def cohen_kappa(pairs: Sequence[Sequence[Hashable]]) -> float | None:
    """Return (agreement − chance agreement) / (1 − chance agreement); None if both judges use one label only."""
    return compute_kappa(Counter((a, b) for a, b in pairs))


def compute_kappa(counts: Mapping[tuple[Hashable, Hashable], float]) -> float | None:
    """Return Cohen's kappa from the number of answers with each pair of labels."""
    n = sum(counts.values())
    if not n:
        return None
    observed = sum(count for (a, b), count in counts.items() if a == b) / n
    first, second = defaultdict[Hashable, float](float), defaultdict[Hashable, float](float)
    for (a, b), count in counts.items():
        first[a] += count
        second[b] += count
    chance = sum(count * second[label] for label, count in first.items()) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 else None
