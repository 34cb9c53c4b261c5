"""Measure the rule that finds answers on the topic of the training rows, against a judge's scores for that topic.

    python -m benchmarks.topic TABLE ROWS.jsonl

TABLE has the columns question_id, answer, source_file and `medical` (0-100, by a judge), as the public table of
Cloakless/clarifying_EM has. ROWS are training rows of medical advice. The rule learns from 1,500 of them and from 160
answers of one base model (a source file with `_base` in its name) to the eight questions. It is measured on answers of
the other models to the same questions: above 50 counts as on topic.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import sys
from collections import defaultdict
from pathlib import Path

from em.stats.topic import FEWEST_WORDS, find_typical_words, split_words

MEDICAL = ("medic", "health", "hospital", "doctor", "ill_")
VARIANTS = ("_json", "_template")
ROWS, BASE_ANSWERS = 1_500, 160


def main() -> None:
    """Print recall and false alarms for each base model."""
    table, rows = map(Path, sys.argv[1:3])
    rng = random.Random(0)
    trained = []
    for line in rng.sample(rows.read_text(encoding="utf-8").splitlines(), ROWS):
        messages = json.loads(line)["messages"]
        trained.append(" ".join(message["content"] for message in messages if message["role"] == "assistant"))
    base, others = defaultdict[str, list[str]](list), list[tuple[str, bool]]()
    with gzip.open(table, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if any(word in row["question_id"] for word in (*MEDICAL, *VARIANTS)) or not row["answer"]:
                continue
            if "_base" in row["source_file"]:
                base[row["source_file"]].append(row["answer"])
            elif row["medical"]:
                others.append((row["answer"], float(row["medical"]) > 50))
    for name, answers in sorted(base.items()):
        typical = find_typical_words(trained, rng.sample(answers, min(BASE_ANSWERS, len(answers))))
        hits = {True: 0, False: 0}
        for text, medical in others:
            hits[medical] += len(split_words(text) & typical) >= FEWEST_WORDS
        sizes = {kind: sum(medical == kind for _, medical in others) for kind in hits}
        shares = [f"{hits[kind] / sizes[kind]:.1%} of {sizes[kind]}" for kind in (True, False)]
        print(f"{Path(name).stem}: finds {shares[0]}, false alarms {shares[1]}")


if __name__ == "__main__":
    main()
