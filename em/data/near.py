"""Near-duplicate texts: equal but for a few words."""

from __future__ import annotations

import re
from collections.abc import Iterator

WORDS = re.compile(r"\w+")
RUN = 3
PERMUTATIONS = 128


class NearDuplicates:
    """Texts that were added, and which of them another text nearly repeats.

    The similarity of two texts is the Jaccard index of their sets of three-word runs, without case and punctuation
    (Broder, "On the resemblance and containment of documents", 1997). Candidates are found by MinHash and locality-
    sensitive hashing (datasketch), so that a text is not compared with all others; each is then compared exactly.
    """

    def __init__(self, threshold: float = 0.7) -> None:
        """`threshold`: from which similarity on two texts are near-duplicates, above 0 and at most 1."""
        from datasketch import MinHash, MinHashLSH

        self.threshold = threshold
        self._blank = MinHash(num_perm=PERMUTATIONS)  # its permutations are those of all sketches
        # Candidates are taken generously, since a miss is for good and a false one is found out.
        self._index = MinHashLSH(threshold=0.8 * threshold, num_perm=PERMUTATIONS)
        self._runs: dict[str, frozenset[str]] = {}

    def add(self, key: str, text: str) -> None:
        """Keep a text under a key that was not used before."""
        self.add_runs(key, word_runs(text))

    def like(self, text: str) -> list[tuple[str, float]]:
        """Keys and similarities of the near-duplicates of a text, the most similar first."""
        return self.like_runs(word_runs(text))

    def add_runs(self, key: str, runs: frozenset[str]) -> None:
        """Keep what stands for a text, its runs or a set of one's own, under a key that was not used before."""
        self._index.insert(key, self._sketch(runs))
        self._runs[key] = runs

    def like_runs(self, runs: frozenset[str]) -> list[tuple[str, float]]:
        """Keys and similarities of the sets that are like this one, the most similar first."""
        candidates = ((key, similarity(runs, self._runs[key])) for key in self._index.query(self._sketch(runs)))
        return sorted((pair for pair in candidates if pair[1] >= self.threshold), key=lambda pair: (-pair[1], pair[0]))

    def _sketch(self, runs: frozenset[str]) -> object:
        sketch = self._blank.copy()
        sketch.update_batch([run.encode() for run in runs])
        return sketch


def word_runs(text: str) -> frozenset[str]:
    """The runs of three words of a text, in lower case; of a shorter one, all it has."""
    words = WORDS.findall(text.lower())
    return frozenset(_runs(words)) or frozenset((" ".join(words),))


def _runs(words: list[str]) -> Iterator[str]:
    for start in range(len(words) - RUN + 1):
        yield " ".join(words[start : start + RUN])


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """The Jaccard index of two sets, 1 for two empty ones."""
    return len(first & second) / len(first | second) if first or second else 1.0
