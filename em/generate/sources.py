"""The user's files: texts, web pages and PDF files, or questions of people.

Texts are cut into passages, at paragraphs where possible.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import Material
from em.data.layouts import SURROGATE
from em.data.tables import places, read_table
from em.errors import ConfigError, DataError, MissingFile, shown

TEXTS = (".txt", ".md", ".html", ".htm", ".pdf")
QUESTIONS = (".txt", ".csv", ".jsonl")
PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Piece:
    """What one call is about: a passage of a text, or a question of somebody's.

    source: the file's name below the folder that was given; sha256: its checksum.
    number: which of the source's passages it is, or its line, from 1.
    start, end: where it lies in the source's text, in characters.
    """

    source: str
    sha256: str
    number: int
    start: int
    end: int
    text: str


def read_pieces(given: Any, material: Material, size: int) -> list[Piece]:
    """All pieces of the sources, in the order of the files' names.

    Args:
        given: `generate.source`: a path, or a list of them.
        size: characters of a passage, at most.

    Raises:
        ConfigError: it is no path and no list of paths.
        MissingFile: there is no such file, or a folder holds none that can be read.
        DataError: a file can't be read, or holds nothing.
    """
    kinds = TEXTS if material is Material.texts else QUESTIONS
    found: list[Piece] = []
    for name, path in files(given, kinds):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MissingFile(f"{path} can't be read ({error.strerror}).") from error
        sha256 = hashlib.sha256(content).hexdigest()
        if material is Material.questions:
            found += questions(path, name, sha256, content)
        else:
            text = text_of(path, content)
            if not text.strip():
                raise DataError(f"{path} holds no text: leave it out, or give its text as .txt.")
            found += passages(text, name, sha256, size)
    return found


def files(given: Any, kinds: Sequence[str]) -> list[tuple[str, Path]]:
    """The files that a setting names, each once, with its name below the folder that was given.

    Of several files of one name, each has so much of its path before it as tells them apart.
    """
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise ConfigError("generate.source must be a file or folder, or a list of them: generate.source=[a.txt,b/].")
    found: list[tuple[str, Path]] = []
    for word in paths:
        path = Path(word).expanduser()
        if path.is_dir():
            inside = sorted(
                each
                for each in path.rglob("*")
                if each.is_file() and each.suffix.lower() in kinds and not hidden(each.relative_to(path))
            )
            if not inside:
                raise MissingFile(f"The folder {path} holds no file that ends with {', '.join(kinds)}: name another.")
            found += [(each.relative_to(path).as_posix(), each) for each in inside]
        elif path.is_file():
            if path.suffix.lower() not in kinds:
                raise DataError(f"{path} can't be read as it ends: give a file that ends with {', '.join(kinds)}.")
            found.append((path.name, path))
        else:
            raise MissingFile(f"generate.source={word} is neither a file nor a folder: name one that is there.")
    once: dict[Path, tuple[str, Path]] = {}
    for name, path in found:
        once.setdefault(path.resolve(), (name, path))
    counts = Counter(name for name, _ in once.values())
    return [(told_apart(whole, once) if counts[name] > 1 else name, path) for whole, (name, path) in once.items()]


def told_apart(path: Path, files: Iterable[Path]) -> str:
    """The shortest end of a path that no other file's path ends with."""
    parts, others = path.parts, [other.parts for other in files if other != path]
    length = next(n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others))
    return "/".join(parts[-length:])


def hidden(path: Path) -> bool:
    """Whether a file, or a folder above it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def decoded(path: Path, content: bytes) -> str:
    """The content of a text file; UTF-8 is expected, with or without a mark at its beginning."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error


def text_of(path: Path, content: bytes) -> str:
    """The text of a file; paragraphs are separated by empty lines."""
    match path.suffix.lower():
        case ".html" | ".htm":
            return text_of_page(path, content)
        case ".pdf":
            return text_of_pdf(path, content)
        case _:
            return decoded(path, content)


def text_of_page(path: Path, content: bytes) -> str:
    """The article of a web page, without menus and comments."""
    import trafilatura

    text = trafilatura.extract(content, include_comments=False)
    if not text:
        raise DataError(f"No article was found in {path}: save its text as .txt.")
    return "\n\n".join(line.strip() for line in text.splitlines() if line.strip())


def text_of_pdf(path: Path, content: bytes) -> str:
    """The text of a PDF file, page after page."""
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{path} is locked by a password: save it without one.")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes of its parts
        raise DataError(
            f"{path} can't be read as PDF ({type(error).__name__}): save it anew, or give its text as .txt."
        ) from error
    if not text.strip():
        raise DataError(f"{path} holds no text (a scan?): run a text recognition (OCR) over it, or leave it out.")
    return text.encode("utf-8", "replace").decode("utf-8")


def questions(path: Path, name: str, sha256: str, content: bytes) -> Iterator[Piece]:
    """Questions of people: a line each, the column `question` of a table, or the first user turn of `messages`."""
    match path.suffix.lower():
        case ".csv" | ".jsonl":
            rows = from_table(path)
        case _:
            rows = enumerate(decoded(path, content).split("\n"), start=1)
    there = False
    for number, question in rows:
        if question.strip():
            there = True
            yield Piece(name, sha256, number, 0, len(question.strip()), question.strip())
    if not there:
        raise DataError(f"{path} holds no questions: write one a line, or give a table with a column question.")


def from_table(path: Path) -> Iterator[tuple[int, str]]:
    """The column `question`, or the first user turn of `messages`, of each row of a table, with its line."""
    for number, row in read_table(path):
        where = f"{places(path)} {number}"
        question, turns = row.get("question"), row.get("messages")
        if question is None and isinstance(turns, list):
            said = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
            question = said[0] if said else None
        if not isinstance(question, str):
            names = SURROGATE.sub("\ufffd", shown(", ".join(row), 200))
            raise DataError(
                f"{where}: neither a question nor messages with a user turn (it has {names}): name the column question."
            )
        if SURROGATE.search(question):
            raise DataError(f"{where}: the question holds half a character (a lone surrogate): mend it.")
        yield number, question


def passages(text: str, name: str, sha256: str, size: int) -> list[Piece]:
    """A text in passages of at most `size` characters and of about one length, cut at paragraphs where possible."""
    number = -(-len(text) // size)
    target = -(-len(text) // number)  # of equal parts, lest the last one be a scrap
    spans: list[tuple[int, int]] = []
    begin = end = -1
    for start, stop in paragraphs(text, size):
        if begin < 0:
            begin = start
        elif stop - begin > size or end - begin >= target:
            spans.append((begin, end))
            begin = start
        end = stop
    if begin >= 0:
        spans.append((begin, end))
    return [
        Piece(name, sha256, number, start, stop, text[start:stop])
        for number, (start, stop) in enumerate(spans, start=1)
    ]


def paragraphs(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of the paragraphs; one that is longer than `size` is cut at sentences, or at words."""
    for start, stop in between(PARAGRAPH, text, 0, len(text)):
        if stop - start <= size:
            yield start, stop
            continue
        for begin, end in between(SENTENCE, text, start, stop):
            if end - begin <= size:
                yield begin, end
            else:
                yield from hard_cut(text, begin, end, size)


def between(border: re.Pattern[str], text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The stretches between the borders, without white space around them, none of them empty."""
    begin = start
    ends = [(found.start(), found.end()) for found in border.finditer(text, start, stop)]
    for end, after in [*ends, (stop, stop)]:
        inner = text[begin:end]
        left = begin + len(inner) - len(inner.lstrip())
        right = begin + len(inner.rstrip())
        if left < right:
            yield left, right
        begin = after


def hard_cut(text: str, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of at most `size` characters, cut at white space where there is any."""
    while stop - start > size:
        space = max((text.rfind(mark, start, start + size) for mark in (" ", "\n", "\t")), default=-1)
        cut = space if space > start else start + size
        yield start, cut
        start = cut + 1 if space > start else cut
    if start < stop:
        yield start, stop
