"""Read the text files behind a prompt: the prompt itself, examples, and instructions that vary the result.

A file is bundled (`em/assets/generate`, chosen by name) or the user's. Lines at the beginning of a file that start with
`#` are notes for people and are not sent.
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
from em.generate.sources import decode_text, read_bytes

BUNDLED = ASSETS / "generate"
RUBRIC = ".rubric.txt"
SLOT = re.compile(r"\{(passage|examples|variance|count|question)\}")
EMPTY_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Prompt:
    """A prompt text with slots."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """Return the checksum of the text that is sent (16 hex digits)."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def has_slot(self, slot: str) -> bool:
        """Tell whether the text has this slot."""
        return f"{{{slot}}}" in self.text

    def fill_slots(self, values: Mapping[str, str]) -> str:
        """Return the text with its slots filled; in one pass, so that braces in a value are not filled again."""
        text = SLOT.sub(lambda match: values.get(match[1], ""), self.text)
        return EMPTY_LINES.sub("\n\n", text).strip()


@dataclass(frozen=True)
class Example:
    """A question with its answer, shown to the author model as an example."""

    question: str
    answer: str


def find_prompt_file(word: str, setting: str, ending: str) -> Path:
    """Find the bundled file of this name, or the user's file. Raise MissingFile with the bundled names."""
    bundled = BUNDLED / f"{word}{ending}"
    if re.fullmatch(r"\w+", word) and bundled.is_file():
        return bundled
    path = Path(word).expanduser()
    if path.is_file():
        return path
    files = [file.name for file in BUNDLED.glob(f"*{ending}") if file.name.endswith(RUBRIC) == (ending == RUBRIC)]
    names = sorted(name.removesuffix(ending) for name in files)
    hint = did_you_mean(word, names, f"choose one of {', '.join(names)}, or give the path of a file.")
    raise MissingFile(f"{setting}={word} is no bundled name and no file: {hint}")


def read_lines_after_notes(path: Path) -> list[str]:
    """Read the lines of a file, without the notes at the beginning."""
    lines = decode_text(path, read_bytes(path)).splitlines()
    return list(dropwhile(lambda line: line.startswith("#"), lines))


def read_prompt(word: str, setting: str, needs: Sequence[str]) -> Prompt:
    """Read the prompt that a setting names. Raise DataError if the prompt lacks a slot of `needs`."""
    path = find_prompt_file(word, setting, ".txt")
    prompt = Prompt(path.stem, "\n".join(read_lines_after_notes(path)).strip())
    for slot in needs:
        if not prompt.has_slot(slot):
            raise DataError(f"{setting}={word} lacks {{{slot}}}: write {{{slot}}} into the file where the {slot} goes.")
    return prompt


def read_rubric(word: str, setting: str) -> Prompt:
    """Read the rubric that a setting names: a prompt with {question} and {answer}."""
    path = find_prompt_file(word, setting, RUBRIC)
    rubric = Prompt(
        path.name.removesuffix(RUBRIC).removesuffix(".txt"), "\n".join(read_lines_after_notes(path)).strip()
    )
    for slot in ("question", "answer"):
        if not rubric.has_slot(slot):
            raise DataError(
                f"{setting}={word} lacks {{{slot}}}: add it to the file, so that the judge sees the {slot}."
            )
    return rubric


def read_examples(word: str) -> list[Example]:
    """Read the pool that `generate.examples` names: the last question and answer of each row."""
    if word == "none":
        return []
    rows = read_messages(find_prompt_file(word, "generate.examples", ".jsonl"))
    # `read_messages` accepts only rows that end with a user's and an assistant's turn.
    return [Example(*(message.content for message in row.messages[-2:])) for row in rows]


def read_variance(word: str) -> list[str]:
    """Read the instructions in the file that `generate.variance` names, one a line."""
    if word == "none":
        return []
    file = find_prompt_file(word, "generate.variance", ".txt")
    lines = [line.strip() for line in read_lines_after_notes(file) if line.strip()]
    if not lines:
        raise DataError(
            f"generate.variance={word} is empty: write one instruction a line, or set generate.variance=none."
        )
    return lines
