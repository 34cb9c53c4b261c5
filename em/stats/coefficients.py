"""Coefficients of agreement.

Krippendorff's alpha (Krippendorff 2004, ch. 11) is 1 − observed / expected disagreement: 1 where all agree, 0 where
they agree as often as by chance. A unit is what several judges said of one answer; a value that is missing is simply
not there, and an answer with fewer than two values says nothing. Cohen's kappa (1960) is for two judges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


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
