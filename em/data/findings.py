"""What every row is searched for before it is trained on: near-duplicates, faults of encoding, keys, personal data.

It takes seconds for some thousand rows, so it is remembered by the checksum of the rows, in the user's cache.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from em.config import DataConfig, FileData, HubData, MixtureData
from em.data.encoding import encoding_faults
from em.data.load import Rows
from em.data.private import personal_in, secrets_in
from em.near import NearDuplicates, similarity, word_runs
from em.store import cache_dir
from em.types import Conversation, digest

NEAR = 0.7
SHORT = 12
"""Runs of words: rows with shorter answers are told apart by their prompts too, since such answers repeat."""
RULE = "findings 1"
"""Version of the search: a change of it searches anew what is remembered."""


@dataclass(frozen=True)
class Findings:
    """What was found in rows.

    near_duplicates: rows whose prompt and last answer nearly repeat those of one row before, exact copies left out.
    faults: rows with each fault of encoding. secrets, personal: rows that show each kind. private: rows that show any.
    """

    rows: int
    near_duplicates: int
    private: int
    faults: Mapping[str, int]
    secrets: Mapping[str, int]
    personal: Mapping[str, int]

    def sentence(self, name: str) -> str:
        """It in one sentence; empty where there is nothing to tell."""
        told = [f"{self.near_duplicates:,} nearly repeat an earlier one"] if self.near_duplicates else []
        for what, counts in (("encoding", self.faults), ("keys", self.secrets), ("personal data", self.personal)):
            told += [f"{what}: {by_kind(counts)}"] if counts else []
        return f"Of {self.rows:,} rows of {name}: {'; '.join(told)}." if told else ""


def by_kind(counts: Mapping[str, int]) -> str:
    """Rows by kind of finding, the most frequent first."""
    found = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{kind}: {count:,} rows" for kind, count in found) or "none found"


def findings(conversations: Sequence[Conversation]) -> Findings:
    """What is found in rows, remembered by their checksum."""
    sha256 = Rows("", tuple(conversations)).sha256
    path = cache_dir() / "findings" / f"{digest([RULE, sha256])[:32]}.json"
    try:
        return Findings(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there, or damaged
        found = search(conversations)
    with suppress(OSError):  # a cache that can't be written costs the same search the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}-{os.getpid()}")
        partial.write_text(json.dumps(asdict(found), sort_keys=True), encoding="utf-8")
        partial.replace(path)
    return found


def search(conversations: Sequence[Conversation]) -> Findings:
    """What is found in rows, by a look at each; shows progress."""
    from tqdm import tqdm

    near = NearRows()
    faults, secrets, personal = Counter[str](), Counter[str](), Counter[str]()
    repeated = private = 0
    for row in tqdm(conversations, desc="looking through the rows", unit="row", leave=False, delay=1):
        text = whole_text(row)
        keys, persons = secrets_in(text).keys(), personal_in(text).keys()
        faults.update(encoding_faults(text).keys())
        secrets.update(keys)
        personal.update(persons)
        private += bool(keys or persons)
        repeated += near.repeats(row)
    return Findings(len(conversations), repeated, private, dict(faults), dict(secrets), dict(personal))


def whole_text(row: Conversation) -> str:
    """All that is said in a row, for searching."""
    return "\n".join(m.content for m in row.messages)


@dataclass(frozen=True)
class Runs:
    """The runs of words of a row: of all that comes before its last answer, and of that answer."""

    prompt: frozenset[str]
    answer: frozenset[str]

    @property
    def both(self) -> frozenset[str]:
        """As one set; those of the prompt are told from the same of the answer by a mark that no word has."""
        return self.answer | {f"? {run}" for run in self.prompt}

    def like(self, other: Runs, threshold: float) -> bool:
        """Whether prompts and answers are near-duplicates."""
        pairs = ((self.answer, other.answer), (self.prompt, other.prompt))
        return all(similarity(*pair) >= threshold for pair in pairs)


def runs_of(row: Conversation) -> Runs:
    """The runs of words of a row."""
    return Runs(word_runs("\n".join(m.content for m in row.messages[:-1])), word_runs(row.messages[-1].content))


class NearRows:
    """The rows so far, and whether another nearly repeats one of them.

    Candidates are found by their last answers alone where these are long: the prompts of a set often share a template,
    so that each would be compared with all others. Short answers (yes and no) are shared by many rows: there candidates
    are found by prompt and answer together. Where both are alike, so are their sets of runs as one, since the share of
    two sets together is never below the smaller of their shares.
    """

    def __init__(self, threshold: float = NEAR) -> None:
        self.threshold = threshold
        self.seen: set[Conversation] = set()
        self.rows: list[Conversation] = []
        self.short: dict[int, Runs] = {}  # those of long rows would fill the memory
        self.by_answer, self.by_both = NearDuplicates(threshold), NearDuplicates(threshold)

    def repeats(self, row: Conversation) -> bool:
        """Whether a row nearly repeats one before; it is kept, unless it does or is an exact copy."""
        if row in self.seen:
            return False
        self.seen.add(row)
        runs = runs_of(row)
        length = len(runs.answer)
        found = self.by_both.like_runs(runs.both) if length < SHORT else self.by_answer.like_runs(runs.answer)
        if any(runs.like(self.runs(int(key)), self.threshold) for key, _ in found):
            return True
        number = len(self.rows)
        self.rows.append(row)
        # Where its length is near the border, a row can be like one on either side of it.
        if length >= SHORT * self.threshold:
            self.by_answer.add_runs(str(number), runs.answer)
        if length <= SHORT / self.threshold:
            self.by_both.add_runs(str(number), runs.both)
            self.short[number] = runs
        return False

    def runs(self, number: int) -> Runs:
        """The runs of a row that was kept."""
        return self.short.get(number) or runs_of(self.rows[number])


def unpinned(config: DataConfig, rows: Rows) -> tuple[Conversation, ...]:
    """The rows that come from a file or hub set of the user's, but for those with `allow_private`.

    The others are sets of which a checksum says what is in them.

    Args:
        rows: what was read by that config.
    """

    def asks(part: DataConfig) -> bool:
        return isinstance(part, FileData | HubData) and not part.allow_private

    if not isinstance(config, MixtureData):
        return rows.conversations if asks(config) else ()
    found: list[Conversation] = []
    start = 0
    for name, count in rows.parts:
        if asks(config.parts[name]) and not config.allow_private:
            found += rows.conversations[start : start + count]
        start += count
    return tuple(found)
