"""Search rows before training for near-duplicates, encoding faults, keys and e-mail addresses.

The search takes seconds for some thousand rows, so the user's cache stores the result by the checksum of the rows.

detect-secrets finds keys. em counts keys and addresses by kind and never prints them. em sends nothing anywhere: it
does not use the checks by which detect-secrets asks a service whether a key works.
Encoding faults are those that leave a text readable: replacement characters, mojibake, control characters.
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
from em.data.draw import locate_parts
from em.data.near import NearDuplicates, collect_word_runs, jaccard_index
from em.request import Rows
from em.runtime.files import find_cache_folder, write_atomic
from em.runtime.records import digest
from em.types import Conversation

NEAR = 0.7
SHORT = 12
"""Word runs of an answer: rows with fewer are compared by their prompts too, since short answers repeat."""
RULE = "findings 1"
"""Version of the search: a change invalidates the cached results."""
# Without tab, line feed, carriage return, and next line (U+0085), with which some editors break lines.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
FOREIGN_RUN = re.compile("[^\x00-\x7f]{2,}")
# Domain names reserved for examples (RFC 2606, RFC 6761) belong to nobody.
RESERVED = re.compile(r"(^|\.)(example\.(com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE)
EMAIL = re.compile(r"\b[\w.+-]{1,64}@((?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24})\b", re.IGNORECASE)
# Detectors that match far more than keys, in code above all.
TOO_BROAD = ("Public IP (ipv4)",)
# Key forms that detect-secrets lacks; a form that it covers in part has the name that detect-secrets uses.
FORMS = {
    "Hugging Face Token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "GitHub Token": re.compile(r"\bgithub_pat_[A-Za-z0-9_]{40,}\b"),
    "Anthropic Key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{24,}"),
    "Google API Key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    "OpenAI Token": re.compile(r"\bsk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{40,}\b)"),
}
FEWEST_LETTERS = 10
"""Least number of different characters of a key; a text with fewer is a placeholder, such as hf_xxxxxxxx."""


@dataclass(frozen=True)
class RowFindings:
    """Counts of what the search found in rows.

    near_duplicates: rows whose prompt and last answer nearly repeat those of one earlier row, without exact copies.
    faults: rows by encoding fault. secrets, personal: rows by kind shown. private: rows that show any such kind.
    """

    rows: int
    near_duplicates: int
    private: int
    faults: Mapping[str, int]
    secrets: Mapping[str, int]
    personal: Mapping[str, int]

    def describe(self, name: str) -> str:
        """Return the findings as one sentence; empty where there are none."""
        clauses = [f"{self.near_duplicates:,} nearly repeat an earlier one"] if self.near_duplicates else []
        for what, counts in (("encoding", self.faults), ("keys", self.secrets), ("personal data", self.personal)):
            clauses += [f"{what}: {describe_counts(counts)}"] if counts else []
        return f"Of {self.rows:,} rows of {name}: {'; '.join(clauses)}." if clauses else ""


def describe_counts(counts: Mapping[str, int]) -> str:
    """List the number of rows of each kind of finding as text, the most frequent first."""
    by_count = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{kind}: {count:,} rows" for kind, count in by_count) or "none found"


def search_rows(conversations: Sequence[Conversation]) -> RowFindings:
    """Search rows, or return the cached result for rows of the same checksum."""
    sha256 = Rows("", tuple(conversations)).sha256
    path = find_cache_folder() / "findings" / f"{digest([RULE, sha256])[:32]}.json"
    with suppress(OSError, ValueError, TypeError):  # no cache file, or a damaged one
        cached_result = RowFindings(**json.loads(path.read_text(encoding="utf-8")))
        # Earlier versions counted further kinds of personal data, and their `private` includes such rows.
        if set(cached_result.personal) <= {"e-mail"}:
            return cached_result
    result = search_without_cache(conversations)
    with suppress(OSError):  # without a writable cache the next run searches again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(result), sort_keys=True))
    return result


def search_without_cache(conversations: Sequence[Conversation]) -> RowFindings:
    """Search each row without the cache; show progress."""
    from tqdm import tqdm

    near = NearRows()
    faults, secrets, personal = Counter[str](), Counter[str](), Counter[str]()
    repeated = private = 0
    for row in tqdm(conversations, desc="looking through the rows", unit="row", leave=False, delay=1):
        text = join_messages(row)
        keys, persons = find_secrets(text), find_personal_data(text)
        faults.update(find_encoding_faults(text))
        secrets.update(keys)
        personal.update(persons)
        private += bool(keys or persons)
        repeated += near.check_and_add(row)
    return RowFindings(len(conversations), repeated, private, dict(faults), dict(secrets), dict(personal))


def join_messages(row: Conversation) -> str:
    """Join the messages of a row into one text to search."""
    return "\n".join(m.content for m in row.messages)


@dataclass(frozen=True)
class RowRuns:
    """The word runs of a row: those of its prompt (all turns before the last answer) and of that answer."""

    prompt: frozenset[str]
    answer: frozenset[str]

    @property
    def combined(self) -> frozenset[str]:
        """One set of all runs; a mark that no word contains separates prompt runs from equal answer runs."""
        return self.answer | {f"? {run}" for run in self.prompt}

    def is_similar(self, other: RowRuns, threshold: float) -> bool:
        """Return whether both the prompts and the answers are near-duplicates."""
        pairs = ((self.answer, other.answer), (self.prompt, other.prompt))
        return all(jaccard_index(*pair) >= threshold for pair in pairs)


def collect_row_runs(row: Conversation) -> RowRuns:
    """Collect the word runs of a row."""
    return RowRuns(
        collect_word_runs("\n".join(m.content for m in row.messages[:-1])), collect_word_runs(row.messages[-1].content)
    )


class NearRows:
    """An index of the rows so far, which detects a row that nearly repeats one of them.

    The index looks up long answers alone: the prompts of a set often share a template, so that a lookup by prompt would
    compare each row with all others. Many rows share a short answer (yes or no), so the index looks those up by prompt
    and answer together: rows that are similar in both are similar in the combined sets too, since the similarity of the
    combined sets is never below the smaller of the two.
    """

    def __init__(self, threshold: float = NEAR) -> None:
        self.threshold = threshold
        self.seen: set[Conversation] = set()
        self.rows: list[Conversation] = []
        self.by_answer, self.by_both = NearDuplicates(threshold), NearDuplicates(threshold)

    def check_and_add(self, row: Conversation) -> bool:
        """Return whether a row nearly repeats an earlier one; add it unless it does or is an exact copy."""
        if row in self.seen:
            return False
        self.seen.add(row)
        runs = collect_row_runs(row)
        length = len(runs.answer)
        candidates = (
            self.by_both.find_similar(runs.combined) if length < SHORT else self.by_answer.find_similar(runs.answer)
        )
        if any(runs.is_similar(collect_row_runs(self.rows[key]), self.threshold) for key in candidates):
            return True
        number = len(self.rows)
        self.rows.append(row)
        # A row whose answer length is near SHORT can resemble rows on either side, so both indexes hold it.
        if length >= SHORT * self.threshold:
            self.by_answer.add(number, runs.answer)
        if length <= SHORT / self.threshold:
            self.by_both.add(number, runs.combined)
        return False


def list_unpinned_rows(config: DataConfig, rows: Rows) -> tuple[Conversation, ...]:
    """List the rows that come from a user's own file or hub set without `allow_private`.

    All other sets are pinned: a checksum fixes their content.
    """

    def needs_check(part: DataConfig) -> bool:
        return not part.pinned and not part.allow_private

    if not config.mixed:
        return rows.conversations if needs_check(config) else ()
    if config.allow_private:
        return ()
    spans = [span for name, span in locate_parts(rows.parts) if needs_check(config.list_parts()[name])]
    return tuple(rows.conversations[row] for span in spans for row in span)


def find_encoding_faults(text: str) -> list[str]:
    """List the kinds of encoding faults in a text."""
    faults = {
        "replacement characters": "\ufffd" in text,
        "mojibake": any(map(is_mojibake, FOREIGN_RUN.findall(text))),
        "control characters": CONTROL.search(text),
    }
    return [kind for kind, present in faults.items() if present]


def is_mojibake(run: str) -> bool:
    """Return whether non-ASCII characters are UTF-8 misread as Windows-1252: encoded back, they are valid UTF-8."""
    try:
        # Latin-1 encodes the five bytes that Windows-1252 leaves undefined.
        b"".join(c.encode("latin-1" if "\x80" <= c <= "\x9f" else "cp1252") for c in run).decode("utf-8")
    except UnicodeError:
        return False
    return True


def find_secrets(text: str) -> list[str]:
    """List the kinds of keys and passwords in a text, by the patterns of detect-secrets and those in FORMS."""
    kinds = [detector.secret_type for detector in load_detectors() if any(detector.analyze_string(text))]
    hits = ((kind, hit) for kind, form in FORMS.items() for hit in form.findall(text))
    return list(dict.fromkeys([*kinds, *(kind for kind, hit in hits if len(set(hit)) >= FEWEST_LETTERS)]))


@cache
def load_detectors() -> tuple[Any, ...]:
    """Load the detectors that match the form of a key, not those that use entropy or nearby names."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    classes: dict[str, type[Any]] = get_mapping_from_secret_type_to_class()
    by_form = {name: kind for name, kind in classes.items() if issubclass(kind, RegexBasedDetector)}
    return tuple(by_form[name]() for name in sorted(by_form) if name not in TOO_BROAD)


def find_personal_data(text: str) -> list[str]:
    """List `e-mail` if a text shows an e-mail address outside the reserved domains."""
    has_address = "@" in text and any(not RESERVED.search(match[1]) for match in EMAIL.finditer(text))
    return ["e-mail"] if has_address else []
