"""Simulate studies, and measure the intervals and sentences of the report: coverage and width, size and power.

python -m benchmarks.inference --json inference.json

Everything is measured through the functions that the report calls. True rates by question are those of public
fine-tunes. Each part draws from its own seed, so parts can run apart (`--parts rates like_these`). `met` says whether a
figure reaches its target; figures without a target are for reading.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.inference_figures import Figure
from benchmarks.inference_parts import PARTS

LEAST_REPEATS = 2000
PART_SEEDS = {"rates": 1, "differences": 2, "misaligns": 3, "undone": 4, "seeds": 5, "like_these": 6}
PART_SEEDS |= {"like_these_differences": 7, "jumps": 8, "interaction": 9, "unscored": 10}
HEADER = "| part | figure | value | width, points | target | |\n|---|---|---|---|---|---|"


def main() -> None:
    """Run the parts, print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help="simulated studies for each figure")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: list[Figure] = []
    print(f"{arguments.repeats} repeats\n\n{HEADER}")
    for part in arguments.parts:
        begin = time.monotonic()
        for figure in PARTS[part](arguments.repeats, np.random.default_rng(PART_SEEDS[part])):
            figures.append(figure)
            print(figure, flush=True)
        print(f"| {part} | seconds | {time.monotonic() - begin:.0f} | | | |", flush=True)
    missed = [figure for figure in figures if figure.met is False]
    print(f"\n{sum(figure.met is True for figure in figures)} targets met, {len(missed)} not met")
    if arguments.json:
        rows = [asdict(figure) | {"met": figure.met, "repeats": arguments.repeats} for figure in figures]
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
