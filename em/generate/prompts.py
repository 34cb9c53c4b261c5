"""What comes into a prompt from files of text: the prompt itself, examples, and instructions that vary the result.

A file is bundled (`em/assets/generate`, chosen by its name) or the user's. Lines at its beginning that start with `#`
are notes for people and are not sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em.config.paths import ASSETS
from em.data import read_messages
from em.errors import DataError, MissingFile, did_you_mean

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


def chosen_file(word: str, setting: str, ending: str) -> Path:
    """The bundled file of a name, or the user's own. Raises MissingFile with the names that there are."""
    bundled = BUNDLED / f"{word}{ending}"
    if re.fullmatch(r"\w+", word) and bundled.is_file():
        return bundled
    path = Path(word).expanduser()
    if path.is_file():
        return path
    known = sorted(
        each.name.removesuffix(ending)
        for each in BUNDLED.glob(f"*{ending}")
        if ending == RUBRIC or not each.name.endswith(RUBRIC)
    )
    hint = did_you_mean(word, known, f"there is {', '.join(known)}, or name a file of yours.")
    raise MissingFile(f"{setting}={word} is no bundled name and no file: {hint}")


def read_text(path: Path) -> str:
    """A file's text without the notes at its beginning."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}).") from error
    lines = text.splitlines()
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return "\n".join(lines).strip()


def read_prompt(word: str, setting: str, needs: Sequence[str]) -> Prompt:
    """The prompt that a setting names. Raises DataError when it lacks one of the slots that it needs."""
    path = chosen_file(word, setting, ".txt")
    prompt = Prompt(path.stem, read_text(path))
    for slot in needs:
        if not prompt.has(slot):
            raise DataError(f"{setting}={word} lacks {{{slot}}}: write it where the {slot} belongs.")
    return prompt


def read_rubric(word: str, setting: str) -> Prompt:
    """The rubric that a setting names: a prompt with {question} and {answer}."""
    path = chosen_file(word, setting, RUBRIC)
    rubric = Prompt(path.name.removesuffix(RUBRIC).removesuffix(".txt"), read_text(path))
    for slot in ("{question}", "{answer}"):
        if slot not in rubric.text:
            raise DataError(f"{setting}={word} lacks {slot}, so the judge would not see what it judges.")
    return rubric


def read_examples(word: str, setting: str) -> list[Example]:
    """The pool that a setting names: the last question of each row with its answer. Empty for `none`."""
    if word == "none":
        return []
    found = []
    for row in read_messages(chosen_file(word, setting, ".jsonl")):
        question, answer = row.messages[-2:]  # a row ends with an assistant's turn behind a user's
        found.append(Example(question.content, answer.content))
    return found


def read_variance(word: str, setting: str) -> list[str]:
    """The instructions that a setting names, one a line. Empty for `none`."""
    if word == "none":
        return []
    lines = [line.strip() for line in read_text(chosen_file(word, setting, ".txt")).splitlines()]
    if not any(lines):
        raise DataError(f"{setting}={word} holds no line: write one instruction a line, or {setting}=none.")
    return [line for line in lines if line]
