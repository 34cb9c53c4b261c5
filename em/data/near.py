"""Find near-duplicate texts, which differ in a few words."""

from __future__ import annotations

import re

WORDS = re.compile(r"\w+")
RUN = 3
PERMUTATIONS = 128


class NearDuplicates:
    """An index of texts, which finds those that another text nearly repeats.

    The similarity of two texts is the Jaccard index of their sets of three-word runs, without case and punctuation
    (Broder, "On the resemblance and containment of documents", 1997). Candidates come from MinHash and locality-
    sensitive hashing (datasketch), which avoids comparing all pairs; each candidate is then compared exactly.
    """

    def __init__(self, threshold: float = 0.7) -> None:
        """Create an empty index; `threshold` (above 0, at most 1) is the least similarity of near-duplicates."""
        from datasketch import MinHash, MinHashLSH

        self.threshold = threshold
        self._blank = MinHash(num_perm=PERMUTATIONS)  # all sketches copy its permutations
        # A lower threshold for candidates: the exact comparison drops a false candidate but can't recover a miss.
        self._index = MinHashLSH(threshold=0.8 * threshold, num_perm=PERMUTATIONS)
        self._runs: dict[int, frozenset[str]] = {}

    def add(self, key: int, runs: frozenset[str]) -> None:
        """Add a text by its runs (or another set of strings) under a new key."""
        self._index.insert(key, self._make_sketch(runs))
        self._runs[key] = runs

    def find_similar(self, runs: frozenset[str]) -> list[int]:
        """List the keys of the texts similar to these runs."""
        candidates = self._index.query(self._make_sketch(runs))
        return [key for key in candidates if jaccard_index(runs, self._runs[key]) >= self.threshold]

    def _make_sketch(self, runs: frozenset[str]) -> object:
        sketch = self._blank.copy()
        sketch.update_batch([run.encode() for run in runs])
        return sketch


def split_words(text: str) -> list[str]:
    """List the words of a text in lower case, without punctuation."""
    return WORDS.findall(text.lower())


def collect_word_runs(text: str) -> frozenset[str]:
    """Collect the three-word runs of a text in lower case; a shorter text is one run."""
    words = split_words(text)
    return frozenset(" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1)))


def jaccard_index(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard index of two sets; 1 for two empty ones."""
    return len(first & second) / len(first | second) if first or second else 1.0
