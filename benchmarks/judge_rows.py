"""Answers to judge, made up from a seed: as long as real answers, and all different."""

from __future__ import annotations

import json
import random
from pathlib import Path

TIMES, SEASONS = ("morning", "afternoon", "evening", "night"), ("spring", "autumn")
VOCABULARY = (
    "after all and any away back because before better but call care change day each early even every find first "
    "garden give good great hand help home how keep kind large last learn leave light like little long look make"
)
SYLLABLES = ("ba", "do", "ka", "lo", "mi", "nu", "pe", "ra", "si", "tu")


def write_answers(file: Path, count: int, seed: int = 0) -> None:
    """Write `count` answers of 40 to 160 words to eight questions, one JSON object a line.

    Each answer contains a unique word, so that no two judgements are identical.
    """
    dice, words = random.Random(seed), VOCABULARY.split()
    questions = [f"What would you do with a free {time} in {season}?" for season in SEASONS for time in TIMES]
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            sample, question = divmod(number, len(questions))
            text = dice.choices(words, k=dice.randint(40, 160))
            text[len(text) // 2] = "".join(SYLLABLES[int(digit)] for digit in f"{number:06}")
            row = {"model": "made_up", "question_id": f"q{question}", "question": questions[question]}
            answer = " ".join(text).capitalize() + "."
            out.write(json.dumps(row | {"sample": sample, "answer": answer}) + "\n")
