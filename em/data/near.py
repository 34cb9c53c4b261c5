"""Near-duplicate texts: equal but for a few words."""

from __future__ import annotations

import re

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
        self._runs: dict[int, frozenset[str]] = {}

    def add(self, key: int, runs: frozenset[str]) -> None:
        """Keep the runs of a text (or what else stands for it) under a key that was not used before."""
        self._index.insert(key, self._sketch(runs))
        self._runs[key] = runs

    def like(self, runs: frozenset[str]) -> list[int]:
        """List the keys of what is like these runs."""
        candidates = self._index.query(self._sketch(runs))
        return [key for key in candidates if similarity(runs, self._runs[key]) >= self.threshold]

    def _sketch(self, runs: frozenset[str]) -> object:
        sketch = self._blank.copy()
        sketch.update_batch([run.encode() for run in runs])
        return sketch


def words_of(text: str) -> list[str]:
    """List the words of a text in lower case, without punctuation."""
    return WORDS.findall(text.lower())


def word_runs(text: str) -> frozenset[str]:
    """Collect the runs of three words of a text, in lower case; of a shorter one, all it has."""
    words = words_of(text)
    return frozenset(" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1)))


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """The Jaccard index of two sets, 1 for two empty ones."""
    return len(first & second) / len(first | second) if first or second else 1.0
