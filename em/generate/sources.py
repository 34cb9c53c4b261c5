"""Read the user's files: texts, web pages and PDF files, or lists of questions.

Texts are cut into passages, at paragraphs where possible.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.api.replies import SURROGATE
from em.config import Material
from em.data.tables import describe_row_place, read_table_rows
from em.errors import ConfigError, DataError, MissingFile, shorten_value

TEXTS = (".txt", ".md", ".html", ".htm", ".pdf")
QUESTIONS = (".txt", ".csv", ".jsonl")
# Words with at most one line break between two words. Possessive (*+), so that long white space is not backtracked.
PARAGRAPH = re.compile(r"\S+(?:[^\S\n]*+\n?[^\S\n]*+\S+)*")
SENTENCE = re.compile(r"(?=\S).*?(?:[.!?](?=\s)|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """The material of one call: a passage of a text, or a question of the user's.

    source: path of the file below the given folder; sha256: checksum of the file.
    number: of the passage in the source, or of the question's line, from 1.
    start, end: position in the source's text, in characters.
    """

    source: str
    sha256: str
    number: int
    start: int
    end: int
    text: str


def read_pieces(source: Any, material: Material, size: int) -> list[Piece]:
    """Read all pieces of the sources (a path or a list of paths), in the order of the files' names.

    `size`: characters of a passage, at most. Raise ConfigError if `source` is no path, MissingFile, or DataError.
    """
    pieces: list[Piece] = []
    for name, path in find_files(source, TEXTS if material is Material.texts else QUESTIONS):
        content = read_bytes(path)
        sha256 = hashlib.sha256(content).hexdigest()
        if material is Material.texts:
            pieces += cut_passages(read_source_text(path, content), name, sha256, size)
            continue
        questions = [(number, text.strip()) for number, text in read_source_questions(path, content) if text.strip()]
        if not questions:
            raise DataError(f"{path} holds no questions: write one a line, or give a table with a column question.")
        pieces += [Piece(name, sha256, number, 0, len(text), text) for number, text in questions]
    return pieces


def find_files(source: Any, endings: Sequence[str]) -> list[tuple[str, Path]]:
    """Find the files that `generate.source` names, each once, with its path below the given folder as its name.

    Files with equal names get the shortest ends of their paths that differ.
    """
    words = [source] if isinstance(source, str) else source
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ConfigError("generate.source must be a file or folder, or a list of them: generate.source=[a.txt,b/].")
    files: dict[Path, tuple[str, Path]] = {}
    for word in words:
        for name, path in list_named_files(word, endings):
            files.setdefault(path.resolve(), (name, path))
    counts = Counter(name for name, _ in files.values())
    names = {full: find_shortest_end(full, files) if counts[name] > 1 else name for full, (name, _) in files.items()}
    return [(names[full], path) for full, (_, path) in files.items()]


def list_named_files(word: str, endings: Sequence[str]) -> list[tuple[str, Path]]:
    """List the file that a word names, or the files in a folder and its subfolders, without hidden files."""
    path = Path(word).expanduser()
    if path.is_dir():
        names = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
        shown_names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        files = [(name.as_posix(), path / name) for name in shown_names if name.suffix.lower() in endings]
        if not files:
            raise MissingFile(
                f"The folder {path} holds no file that ends with {', '.join(endings)}: give another generate.source."
            )
        return files
    if not path.is_file():
        raise MissingFile(f"generate.source={word} is neither a file nor a folder: give the path of an existing one.")
    if path.suffix.lower() not in endings:
        raise DataError(f"{path} has an unknown file ending: give a file that ends with {', '.join(endings)}.")
    return [(path.name, path)]


def find_shortest_end(path: Path, files: Collection[Path]) -> str:
    """Return the shortest end of a path that no other path shares."""
    ends = (path.parts[-length:] for length in range(1, len(path.parts) + 1))
    return "/".join(next(end for end in ends if sum(file.parts[-len(end) :] == end for file in files) == 1))


def read_bytes(path: Path) -> bytes:
    """Read the content of a file. Raise MissingFile if the file can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}).") from error


def decode_text(path: Path, content: bytes) -> str:
    """Decode the content of a text file: UTF-8, with or without a byte order mark."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error


def read_source_text(path: Path, content: bytes) -> str:
    """Read the text of a file, with empty lines between paragraphs. Raise DataError if there is no text."""
    match path.suffix.lower():
        case ".html" | ".htm":
            text = read_page(path, content)
        case ".pdf":
            text = read_pdf(path, content)
        case _:
            text = decode_text(path, content)
    if not text.strip():
        raise DataError(f"{path} holds no text: leave it out, or give its text as .txt.")
    return text


def read_page(path: Path, content: bytes) -> str:
    """Read the article of a web page, without menus and comments."""
    import trafilatura

    text = trafilatura.extract(content, include_comments=False)
    if not text:
        raise DataError(f"No article was found in {path}: save the article's text as .txt.")
    return "\n\n".join(line.strip() for line in text.splitlines() if line.strip())


def read_pdf(path: Path, content: bytes) -> str:
    """Read the text of a PDF file, page after page."""
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        locked = reader.is_encrypted and not reader.decrypt("")
        text = "" if locked else "\n\n".join(page.extract_text() for page in reader.pages)
    except Exception as error:  # pypdf raises many types of errors for damaged files
        raise DataError(
            f"{path} can't be read as PDF ({type(error).__name__}): save it again, or give its text as .txt."
        ) from error
    if locked:
        raise DataError(f"{path} is locked by a password: save it without a password.")
    if not text.strip():
        raise DataError(f"{path} holds no text (a scan?): run text recognition (OCR) on the file, or leave it out.")
    return text.encode("utf-8", "replace").decode("utf-8")


def read_source_questions(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield (line, question): the lines of a .txt, or a table's column `question` or first user turn of `messages`."""
    if path.suffix.lower() == ".txt":
        yield from enumerate(decode_text(path, content).split("\n"), start=1)
        return
    for number, row in read_table_rows(path):
        question, turns = row.get("question"), row.get("messages")
        if question is None and isinstance(turns, list):
            users = (turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user")
            question = next(users, {}).get("content")
        if not isinstance(question, str):
            names = SURROGATE.sub("\ufffd", shorten_value(", ".join(row), 200))
            raise DataError(
                f"{describe_row_place(path)} {number}: neither a question nor messages with a user turn (it has "
                f"{names}): name the column of questions `question`."
            )
        if SURROGATE.search(question):
            raise DataError(
                f"{describe_row_place(path)} {number}: the question holds half a character (a lone surrogate): "
                "remove it."
            )
        yield number, question


def cut_passages(text: str, name: str, sha256: str, size: int) -> list[Piece]:
    """Cut a text into passages of at most `size` characters and about equal length, at paragraphs where possible."""
    target = -(-len(text) // -(-len(text) // size))  # equal parts, so that the last one is not tiny
    spans: list[tuple[int, int]] = []
    for start, end in cut_spans(text, size):
        begin, before = spans[-1] if spans else (start, start)
        if spans and end - begin <= size and before - begin < target:
            spans[-1] = (begin, end)
        else:
            spans.append((start, end))
    return [Piece(name, sha256, number, *span, text[slice(*span)]) for number, span in enumerate(spans, start=1)]


def cut_spans(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of paragraphs; cut those longer than `size` at sentences, and long sentences at white space."""
    size = min(size, len(text))  # `re` refuses very large repeat counts
    last, at_space, anywhere = rf"(.{{1,{size}}})\Z", rf"(.{{1,{max(1, size - 1)}}})[ \n\t]", rf"(.{{{size}}})"
    parts = re.compile(f"{last}|{at_space}|{anywhere}", re.DOTALL)
    for paragraph in PARAGRAPH.finditer(text):
        fits = paragraph.end() - paragraph.start() <= size
        for sentence in [paragraph] if fits else SENTENCE.finditer(text, *paragraph.span()):
            for part in parts.finditer(text, *sentence.span()):
                yield part.span(part.lastindex or 0)
