"""How varied a set of texts is, by two measures of the field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, pairwise

from em.rows import drawn

WORDS = re.compile(r"\w+")
MOST = 500  # texts that are compared with each other: 125,000 pairs


def words_of(text: str) -> list[str]:
    """Words in lower case."""
    return WORDS.findall(text.lower())


def distinct_2(texts: Sequence[str]) -> float | None:
    """Distinct pairs of neighbouring words among all such pairs (Li et al., arXiv 1510.03055); falls as a set grows.

    None where there is no pair.
    """
    pairs = [pair for text in texts for pair in pairwise(words_of(text))]
    return len(set(pairs)) / len(pairs) if pairs else None


def mean_jaccard(texts: Sequence[str]) -> float | None:
    """The mean, over all pairs of texts, of the Jaccard index of their sets of words: 0 is no common word, 1 all.

    Of more than 500 texts, 500 drawn ones stand for all. None where there are no two texts.
    """
    chosen = [texts[number] for number in drawn(range(len(texts)), min(len(texts), MOST), 0)]
    sets = [frozenset(words_of(text)) for text in chosen]
    found = [len(a & b) / len(a | b) if a or b else 1.0 for a, b in combinations(sets, 2)]
    return sum(found) / len(found) if found else None


def diversity(texts: Sequence[str]) -> dict[str, float | None]:
    """Both measures, rounded for a card."""
    measures = {"distinct_2": distinct_2(texts), "mean_pairwise_jaccard": mean_jaccard(texts)}
    return {name: None if value is None else round(value, 4) for name, value in measures.items()}
