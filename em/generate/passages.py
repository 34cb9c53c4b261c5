"""Texts cut into passages, at paragraphs where possible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
