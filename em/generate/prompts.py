"""What comes into a prompt from files of text: the prompt itself, examples, and instructions that vary the result.

A file is bundled (`em/assets/generate`, chosen by its name) or the user's. Lines at its beginning that start with `#`
are notes for people and are not sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from em.config.paths import ASSETS
from em.data import read_messages
from em.errors import DataError, MissingFile, did_you_mean
from em.generate.sources import decode, read_bytes

BUNDLED = ASSETS / "generate"
RUBRIC = ".rubric.txt"
SLOT = re.compile(r"\{(passage|examples|variance|count|question)\}")
EMPTY_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Prompt:
    """A text with slots. version: the checksum of what is sent of it (16 hex digits)."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """Changes whenever the text does."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def has(self, slot: str) -> bool:
        """Whether there is something to fill in."""
        return f"{{{slot}}}" in self.text

    def filled(self, values: Mapping[str, str]) -> str:
        """With values for the slots; in one pass, so that braces in a value stay what they are."""
        return EMPTY_LINES.sub("\n\n", SLOT.sub(lambda found: values.get(found[1], ""), self.text)).strip()


@dataclass(frozen=True)
class Example:
    """A question with its answer, as a model for what is to be written."""

    question: str
    answer: str


def find_file(word: str, setting: str, ending: str) -> Path:
    """Find the bundled file of a name, or the user's own. Raises MissingFile with the names that there are."""
    bundled = BUNDLED / f"{word}{ending}"
    if re.fullmatch(r"\w+", word) and bundled.is_file():
        return bundled
    path = Path(word).expanduser()
    if path.is_file():
        return path
    files = [file.name for file in BUNDLED.glob(f"*{ending}") if file.name.endswith(RUBRIC) == (ending == RUBRIC)]
    names = sorted(name.removesuffix(ending) for name in files)
    hint = did_you_mean(word, names, f"there is {', '.join(names)}, or name a file of yours.")
    raise MissingFile(f"{setting}={word} is no bundled name and no file: {hint}")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file without the notes at its beginning."""
    lines = decode(path, read_bytes(path)).splitlines()
    return list(dropwhile(lambda line: line.startswith("#"), lines))


def read_prompt(word: str, setting: str, needs: Sequence[str]) -> Prompt:
    """Read the prompt that a setting names. Raises DataError when it lacks one of the slots that it needs."""
    path = find_file(word, setting, ".txt")
    prompt = Prompt(path.stem, "\n".join(read_lines(path)).strip())
    for slot in needs:
        if not prompt.has(slot):
            raise DataError(f"{setting}={word} lacks {{{slot}}}: write it where the {slot} belongs.")
    return prompt


def read_rubric(word: str, setting: str) -> Prompt:
    """Read the rubric that a setting names: a prompt with {question} and {answer}."""
    path = find_file(word, setting, RUBRIC)
    rubric = Prompt(path.name.removesuffix(RUBRIC).removesuffix(".txt"), "\n".join(read_lines(path)).strip())
    for slot in ("question", "answer"):
        if not rubric.has(slot):
            raise DataError(f"{setting}={word} lacks {{{slot}}}, so the judge would not see what it judges.")
    return rubric


def read_examples(word: str) -> list[Example]:
    """Read the pool that `generate.examples` names: the last question of each row with its answer."""
    if word == "none":
        return []
    rows = read_messages(find_file(word, "generate.examples", ".jsonl"))
    # A row ends with an assistant's turn behind a user's.
    return [Example(*(message.content for message in row.messages[-2:])) for row in rows]


def read_variance(word: str) -> list[str]:
    """Read the instructions that `generate.variance` names, one a line."""
    if word == "none":
        return []
    lines = [line.strip() for line in read_lines(find_file(word, "generate.variance", ".txt")) if line.strip()]
    if not lines:
        raise DataError(
            f"generate.variance={word} holds no line: write one instruction a line, or generate.variance=none."
        )
    return lines
