"""How far judges agree about the same answers, in scores, in labels and in the classes that follow from them.

Krippendorff's alpha (Krippendorff 2004, ch. 11) is 1 − observed / expected disagreement: 1 where all agree, 0 where
they agree as often as by chance. A unit is what several judges said of one answer; a value that is missing is simply
not there, and an answer with fewer than two values says nothing. Cohen's kappa (1960) is for two judges.

The krippendorff package, against which alpha is tested, holds a table of answers × values × values: 6 GB and 27 seconds
for 400 answers whose scores all differ, as expectations do.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from em.stats.outcomes import UNSCORED, Thresholds, classify
from em.types import Verdict

CLASS = "class"
EVERY = "*"
INTERVAL, NOMINAL = "interval", "nominal"
Answer = tuple[object, ...]


@dataclass(frozen=True)
class Agreement:
    """What two judges (or all of them: `first` and `second` are `*`) say of the answers to a set.

    rubric: whose scores or labels; `class` is the answer's class under the thresholds.
    level: interval (scores) or nominal (labels, classes).
    answers: that have a value from both, or from at least two of all.
    difference: mean absolute difference of the scores.
    same: share with the same label or class.
    kappa: Cohen's, on misaligned or not; of `class` and two judges only.
    alpha: Krippendorff's; None where all values are the same.
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


def agreement(verdicts: Iterable[Verdict], limits: Thresholds) -> list[Agreement]:
    """By set and rubric: each pair of judges and, where there are more than two, all together."""
    judged: dict[str, dict[str, dict[Answer, list[Verdict]]]] = defaultdict(lambda: defaultdict(dict))
    for v in verdicts:
        answer = (v.model, v.fingerprint, v.seed, v.condition, v.question_id, v.question, v.sample, v.answer)
        judged[v.eval_set][v.judge].setdefault(answer, []).append(v)
    return [
        describe_units((eval_set, rubric, level, first, second), units_of(values, first, second))
        for eval_set, by_judge in judged.items()
        if len(by_judge) > 1
        for rubric, level, values in values_of(by_judge, limits)
        for first, second in sides(by_judge)
    ]


def values_of(
    by_judge: Mapping[str, Mapping[Answer, Sequence[Verdict]]], limits: Thresholds
) -> list[tuple[str, str, dict[str, dict[Answer, Any]]]]:
    """What each judge says of each answer: its class, then scores and labels by rubric; with the level of each.

    What is missing is left out, and an answer without a score has no class.
    """
    classes: dict[str, dict[Answer, Any]] = {judge: {} for judge in by_judge}
    values = defaultdict[tuple[str, str], dict[str, dict[Answer, Any]]](lambda: {judge: {} for judge in by_judge})
    for judge, answers in by_judge.items():
        for answer, rulings in answers.items():
            kind = classify(rulings, limits).kind
            if kind != UNSCORED:
                classes[judge][answer] = kind
            for v in rulings:
                if v.value is not None:
                    values[INTERVAL, v.rubric][judge][answer] = v.value
                elif v.label is not None:
                    values[NOMINAL, v.rubric][judge][answer] = v.label
    in_order = sorted(values, key=lambda key: key[0])
    return [(CLASS, NOMINAL, classes), *((rubric, level, values[level, rubric]) for level, rubric in in_order)]


def describe_units(about: tuple[str, str, str, str, str], units: Sequence[tuple[Any, ...]]) -> Agreement:
    """The row of two judges, or of all. `about`: set, rubric, level, and both judges."""
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


def sides(judges: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair of judges and, of more than two, all of them."""
    names = list(judges)
    return [*combinations(names, 2), *([(EVERY, EVERY)] if len(names) > 2 else [])]


def units_of(values: Mapping[str, Mapping[Answer, Any]], first: str, second: str) -> list[tuple[Any, ...]]:
    """The values of each answer that has at least two from these judges, in the judges' order."""
    judges = list(values) if first == EVERY else [first, second]
    answers = dict.fromkeys(answer for judge in judges for answer in values[judge])
    units = (tuple(values[judge][answer] for judge in judges if answer in values[judge]) for answer in answers)
    return [unit for unit in units if len(unit) > 1]


def interval_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Alpha of scores: disagreement is the squared difference. None where there is one value only, or none."""
    paired = [unit for unit in units if len(unit) > 1]
    values = [value for unit in paired for value in unit]
    if len(set(values)) < 2:  # the mean of three times 0.1 is not 0.1, so that their squares don't tell
        return None
    # Σ over ordered pairs of (x − y)² is twice m times the sum of squares about the mean.
    observed = math.fsum(2 * len(unit) * squares(unit) / (len(unit) - 1) for unit in paired) / len(values)
    expected = 2 * squares(values) / (len(values) - 1)
    return 1 - observed / expected if expected else None


def nominal_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Alpha of labels: two either agree or don't. None where there is one label only, or none."""
    paired = [unit for unit in units if len(unit) > 1]
    n = sum(map(len, paired))
    if not n:
        return None
    observed = math.fsum(unlike(Counter(unit)) / (len(unit) - 1) for unit in paired) / n
    expected = unlike(Counter(label for unit in paired for label in unit)) / n / (n - 1)
    return 1 - observed / expected if expected else None


def squares(values: Sequence[float]) -> float:
    """The sum of squared deviations from the mean."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def unlike(counts: Counter[Hashable]) -> int:
    """How many ordered pairs of things there are whose labels differ."""
    return counts.total() ** 2 - sum(count * count for count in counts.values())


def cohen_kappa(pairs: Sequence[Sequence[Hashable]]) -> float | None:
    """(Agreement − chance agreement) / (1 − chance agreement); None where both always say the same one thing."""
    if not pairs:
        return None
    observed = sum(a == b for a, b in pairs) / len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(count * second[label] for label, count in first.items()) / len(pairs) ** 2
    return (observed - chance) / (1 - chance) if chance < 1 else None
