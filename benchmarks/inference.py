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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.inference_figures import Figure
from benchmarks.inference_parts import PARTS

LEAST_REPEATS = 2000
PART_SEEDS = {"rates": 1, "differences": 2, "misaligns": 3, "undone": 4, "seeds": 5, "like_these": 6}
PART_SEEDS |= {"like_these_differences": 7, "jumps": 8, "interaction": 9, "unscored": 10}
LONGEST = ("undone", "misaligns", "like_these_differences")
HEADER = "| part | figure | value | width, points | target | |\n|---|---|---|---|---|---|"


def run_part(part: str, repeats: int) -> tuple[list[Figure], float]:
    """Measure the figures of a part; return them and the seconds taken."""
    begin = time.monotonic()
    return list(PARTS[part](repeats, np.random.default_rng(PART_SEEDS[part]))), time.monotonic() - begin


def main() -> None:
    """Run the parts, print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help="simulated studies for each figure")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workers", type=int, default=2, help="processes; each runs one part at a time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: list[Figure] = []
    print(f"{arguments.repeats} repeats\n\n{HEADER}")
    # The longest parts start first, so that both processes end together.
    parts = sorted(arguments.parts, key=lambda part: LONGEST.index(part) if part in LONGEST else len(LONGEST))
    with ProcessPoolExecutor(arguments.workers) as executor:
        futures = {part: executor.submit(run_part, part, arguments.repeats) for part in parts}
        for part in arguments.parts:
            measured, seconds = futures[part].result()
            figures += measured
            print(*measured, f"| {part} | seconds | {seconds:.0f} | | | |", sep="\n", flush=True)
    missed = [figure for figure in figures if figure.met is False]
    print(f"\n{sum(figure.met is True for figure in figures)} targets met, {len(missed)} not met", *missed, sep="\n")
    if arguments.json:
        rows = [asdict(figure) | {"repeats": arguments.repeats} for figure in figures]
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
