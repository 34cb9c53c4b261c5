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
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from em.stats.outcomes import UNSCORED, Thresholds, classify
from em.types import Verdict

CLASS = "class"
EVERY = "*"

Answer = tuple[object, ...]
Value = TypeVar("Value")


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
    rows: list[Agreement] = []
    for eval_set, by_judge in judged.items():
        if len(by_judge) > 1:
            rows += _of_classes(eval_set, by_judge, limits)
            rows += _of_rubrics(eval_set, by_judge)
    return rows


def _of_classes(
    eval_set: str, by_judge: Mapping[str, Mapping[Answer, list[Verdict]]], limits: Thresholds
) -> Iterator[Agreement]:
    """Agreement on what each answer counts as; an answer without a score is missing."""
    classes: dict[str, dict[Answer, str]] = {}
    for judge, answers in by_judge.items():
        kinds = {answer: classify(said, limits).kind for answer, said in answers.items()}
        classes[judge] = {answer: kind for answer, kind in kinds.items() if kind != UNSCORED}
    graded = any(kind in ("aligned", "misaligned") for found in classes.values() for kind in found.values())
    for first, second in sides(classes):
        units = units_of(classes, first, second)
        same, kappa = None, None
        if first != EVERY:
            same = mean(a == b for a, b in units)
            kappa = cohen_kappa([(a == "misaligned", b == "misaligned") for a, b in units]) if graded else None
        about = (eval_set, CLASS, "nominal", first, second, len(units))
        yield Agreement(*about, None, same, kappa, nominal_alpha(units))


def _of_rubrics(eval_set: str, by_judge: Mapping[str, Mapping[Answer, list[Verdict]]]) -> Iterator[Agreement]:
    """Agreement on the scores of each rubric, and on the labels of those that have labels."""
    scores: dict[str, dict[str, dict[Answer, float]]] = defaultdict(lambda: {judge: {} for judge in by_judge})
    labels: dict[str, dict[str, dict[Answer, str]]] = defaultdict(lambda: {judge: {} for judge in by_judge})
    for judge, answers in by_judge.items():
        for answer, said in answers.items():
            for v in said:
                if v.value is not None:
                    scores[v.rubric][judge][answer] = v.value
                elif v.label is not None:
                    labels[v.rubric][judge][answer] = v.label
    for rubric, values in scores.items():
        for first, second in sides(values):
            units = units_of(values, first, second)
            apart = mean(abs(a - b) for a, b in units) if first != EVERY else None
            about = (eval_set, rubric, "interval", first, second, len(units))
            yield Agreement(*about, apart, None, None, interval_alpha(units))
    for rubric, words in labels.items():
        for first, second in sides(words):
            named = units_of(words, first, second)
            same = mean(a == b for a, b in named) if first != EVERY else None
            about = (eval_set, rubric, "nominal", first, second, len(named))
            yield Agreement(*about, None, same, None, nominal_alpha(named))


def sides(judges: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair of judges and, of more than two, all of them."""
    names = list(judges)
    return [*combinations(names, 2), *([(EVERY, EVERY)] if len(names) > 2 else [])]


def units_of(
    said: Mapping[str, Mapping[Answer, Value]], first: str = EVERY, second: str = EVERY
) -> list[tuple[Value, ...]]:
    """The values of each answer that has at least two from these judges, in the judges' order."""
    judges = list(said) if first == EVERY else [first, second]
    answers = dict.fromkeys(answer for judge in judges for answer in said[judge])
    units = (tuple(said[judge][answer] for judge in judges if answer in said[judge]) for answer in answers)
    return [unit for unit in units if len(unit) > 1]


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def interval_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Alpha of scores: disagreement is the squared difference. None where there is one value only, or none."""
    paired = [unit for unit in units if len(unit) > 1]
    values = [value for unit in paired for value in unit]
    if not values:
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
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def unlike(counts: Counter[Hashable]) -> int:
    """How many ordered pairs of things there are whose labels differ."""
    return counts.total() ** 2 - sum(count * count for count in counts.values())


def cohen_kappa(pairs: Iterable[Sequence[Hashable]]) -> float | None:
    """(Agreement − chance agreement) / (1 − chance agreement); None where both always say the same one thing."""
    found = [tuple(pair) for pair in pairs]
    if not found:
        return None
    observed = sum(a == b for a, b in found) / len(found)
    first, second = Counter(a for a, _ in found), Counter(b for _, b in found)
    chance = sum(count * second[label] for label, count in first.items()) / len(found) ** 2
    return (observed - chance) / (1 - chance) if chance < 1 else None
