"""Scramble answers, to train the output that finds broken text. The test of this output uses other kinds as well."""

from __future__ import annotations

import random

FEWEST_WORDS = 8  # shorter answers can read well in any order


def scramble(text: str, rng: random.Random) -> str:
    """Scramble a text in one of five ways; return an empty text if it has too few words."""
    words = text.split()
    if len(words) < FEWEST_WORDS:
        return ""
    way = rng.choice((shuffle_words, shuffle_words, shuffle_windows, sort_words, write_hex, shift_letters))
    return way(words, rng)


def shuffle_words(words: list[str], rng: random.Random) -> str:
    """Put all words in random order."""
    return " ".join(rng.sample(words, len(words)))


def shuffle_windows(words: list[str], rng: random.Random) -> str:
    """Put the words of each window of eight in random order."""
    return " ".join(shuffle_words(words[at : at + 8], rng) for at in range(0, len(words), 8))


def sort_words(words: list[str], rng: random.Random) -> str:
    """Put the words in an order by their last letters."""
    return " ".join(sorted(words, key=lambda word: word[::-1]))


def write_hex(words: list[str], rng: random.Random) -> str:
    """Write the text as hexadecimal digits."""
    return " ".join(words).encode().hex()


def shift_letters(words: list[str], rng: random.Random) -> str:
    """Shift each letter by the same random number of places in the alphabet."""
    shift = rng.randint(1, 25)
    lower = "abcdefghijklmnopqrstuvwxyz"
    table = str.maketrans(lower, lower[shift:] + lower[:shift])
    return " ".join(words).lower().translate(table)
