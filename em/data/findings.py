"""What every row is searched for before it is trained on: near-duplicates, faults of encoding, keys, e-mail addresses.

It takes seconds for some thousand rows, so it is remembered by the checksum of the rows, in the user's cache.

detect-secrets finds keys. Keys and addresses are counted by kind and never printed. Nothing is sent anywhere: the
checks by which detect-secrets asks a service whether a key works are not used.
Faults of encoding are those that leave a text readable: replacement characters, mojibake, control characters.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from em.config import DataConfig
from em.data.draw import spans_of
from em.data.near import NearDuplicates, similarity, word_runs
from em.request import Rows
from em.runtime.files import cache_dir, write_atomic
from em.runtime.records import digest
from em.types import Conversation

NEAR = 0.7
SHORT = 12
"""Runs of words: rows with shorter answers are told apart by their prompts too, since such answers repeat."""
RULE = "findings 1"
"""Version of the search: a change of it searches anew what is remembered."""
# Without tab, line feed and carriage return; next line (U+0085) is what some editors break lines with.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
FOREIGN_RUN = re.compile("[^\x00-\x7f]{2,}")
# Names that are reserved for examples (RFC 2606, RFC 6761) are nobody's.
RESERVED = re.compile(r"(^|\.)(example\.(com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE)
EMAIL = re.compile(r"\b[\w.+-]{1,64}@((?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24})\b", re.IGNORECASE)
# Detectors that match far more than keys, in code above all.
TOO_BROAD = ("Public IP (ipv4)",)
# Forms that detect-secrets does not know (yet); those that it knows in part have its name.
FORMS = {
    "Hugging Face Token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "GitHub Token": re.compile(r"\bgithub_pat_[A-Za-z0-9_]{40,}\b"),
    "Anthropic Key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{24,}"),
    "Google API Key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    "OpenAI Token": re.compile(r"\bsk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{40,}\b)"),
}
FEWEST_LETTERS = 10
"""Different characters of a key; one of fewer is a place to write one, such as hf_xxxxxxxx."""


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
    with suppress(OSError, ValueError, TypeError):  # not there, or damaged
        remembered = Findings(**json.loads(path.read_text(encoding="utf-8")))
        # Earlier versions looked for other kinds too, and their `private` counts rows that show nothing else.
        if set(remembered.personal) <= {"e-mail"}:
            return remembered
    found = search(conversations)
    with suppress(OSError):  # a cache that can't be written costs the same search the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(found), sort_keys=True))
    return found


def search(conversations: Sequence[Conversation]) -> Findings:
    """What is found in rows, by a look at each; shows progress."""
    from tqdm import tqdm

    near = NearRows()
    faults, secrets, personal = Counter[str](), Counter[str](), Counter[str]()
    repeated = private = 0
    for row in tqdm(conversations, desc="looking through the rows", unit="row", leave=False, delay=1):
        text = whole_text(row)
        keys, persons = secrets_in(text), personal_in(text)
        faults.update(encoding_faults(text))
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
        self.by_answer, self.by_both = NearDuplicates(threshold), NearDuplicates(threshold)

    def repeats(self, row: Conversation) -> bool:
        """Whether a row nearly repeats one before; it is kept, unless it does or is an exact copy."""
        if row in self.seen:
            return False
        self.seen.add(row)
        runs = runs_of(row)
        length = len(runs.answer)
        found = self.by_both.like(runs.both) if length < SHORT else self.by_answer.like(runs.answer)
        if any(runs.like(runs_of(self.rows[key]), self.threshold) for key in found):
            return True
        number = len(self.rows)
        self.rows.append(row)
        # Where its length is near the border, a row can be like one on either side of it.
        if length >= SHORT * self.threshold:
            self.by_answer.add(number, runs.answer)
        if length <= SHORT / self.threshold:
            self.by_both.add(number, runs.both)
        return False


def unpinned(config: DataConfig, rows: Rows) -> tuple[Conversation, ...]:
    """List the rows read that come from a file or hub set of the user's, but for those with `allow_private`.

    The others are sets of which a checksum says what is in them.
    """

    def asks(part: DataConfig) -> bool:
        return not part.pinned and not part.allow_private

    if not config.mixed:
        return rows.conversations if asks(config) else ()
    if config.allow_private:
        return ()
    spans = [span for name, span in spans_of(rows.parts) if asks(config.list_parts()[name])]
    return tuple(rows.conversations[row] for span in spans for row in span)


def encoding_faults(text: str) -> list[str]:
    """Name the kinds of faults that a text has."""
    faults = {
        "replacement characters": "\ufffd" in text,
        "mojibake": any(map(is_mojibake, FOREIGN_RUN.findall(text))),
        "control characters": CONTROL.search(text),
    }
    return [kind for kind, there in faults.items() if there]


def is_mojibake(run: str) -> bool:
    """Whether characters beyond ASCII are UTF-8 that was read as Windows-1252: read as bytes again, they are UTF-8."""
    try:
        # Latin-1 for the five bytes that Windows-1252 leaves open.
        b"".join(c.encode("latin-1" if "\x80" <= c <= "\x9f" else "cp1252") for c in run).decode("utf-8")
    except UnicodeError:
        return False
    return True


def secrets_in(text: str) -> list[str]:
    """Name the kinds of keys and passwords that a text shows, by the patterns of detect-secrets and some of em's."""
    kinds = [detector.secret_type for detector in detectors() if any(detector.analyze_string(text))]
    hits = ((kind, hit) for kind, form in FORMS.items() for hit in form.findall(text))
    return list(dict.fromkeys([*kinds, *(kind for kind, hit in hits if len(set(hit)) >= FEWEST_LETTERS)]))


@cache
def detectors() -> tuple[Any, ...]:
    """The detectors of detect-secrets that know the form of a key, not those by entropy or by a name nearby."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    classes: dict[str, type[Any]] = get_mapping_from_secret_type_to_class()
    by_form = {name: kind for name, kind in classes.items() if issubclass(kind, RegexBasedDetector)}
    return tuple(by_form[name]() for name in sorted(by_form) if name not in TOO_BROAD)


def personal_in(text: str) -> list[str]:
    """Say whether a text shows an e-mail address, without those of reserved names."""
    there = "@" in text and any(not RESERVED.search(match[1]) for match in EMAIL.finditer(text))
    return ["e-mail"] if there else []
