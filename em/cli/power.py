"""Compute how many samples and questions it takes to detect a difference between two models.

em power --rate 0.2 --difference 0.1 --questions 8
em power --rate 0.05 --difference 0.1 --questions 8 --scores outputs/2026-11-23/10-00-00/scores.csv

The intraclass correlation (`--icc`) says how much questions differ. `--scores` takes it from a run: the median over the
run's models, for misaligned answers. em/stats/power.py lists the assumptions.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from em.cli.tool import handle_errors
from em.errors import ConfigError, DataError, MissingFile
from em.stats.power import (
    ICC,
    Design,
    compute_power,
    estimate_intraclass,
    find_difference_needed,
    find_questions_needed,
    find_samples_needed,
)

SAMPLES = (10, 30, 50, 100, 300)
QUESTIONS = (8, 20, 48)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        prog="em power", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, required=True, help="rate of the first model, as a fraction")
    parser.add_argument(
        "--difference", type=float, required=True, help="difference to detect, as a fraction (0.1 or -0.1)"
    )
    parser.add_argument("--questions", type=int, default=8, help="number of questions (default: 8)")
    parser.add_argument("--samples", type=int, default=30, help="answers to each question (default: 30)")
    variation = parser.add_mutually_exclusive_group()
    variation.add_argument("--icc", type=float, default=ICC, help=f"intraclass correlation (default: {ICC})")
    variation.add_argument("--scores", type=Path, help="scores.csv of a run, to estimate the correlation from")
    parser.add_argument(
        "--correlation", type=float, default=0.0, help="correlation of both models' rates over questions (default: 0)"
    )
    parser.add_argument("--power", type=float, default=0.8, help="probability of detecting it (default: 0.8)")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of the two-sided test (default: 0.05)")
    arguments = parser.parse_args(words)
    check_arguments(arguments)
    return arguments


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for the first argument out of its range."""
    for name, low, high in (("icc", 0, 1), ("correlation", -1, 1)):
        if not low <= getattr(arguments, name) <= high:
            raise ConfigError(f"--{name}={getattr(arguments, name):g} must be from {low} to {high}.")
    for name in ("power", "alpha"):
        if not 0 < getattr(arguments, name) < 1:
            raise ConfigError(f"--{name}={getattr(arguments, name):g} must be between 0 and 1, such as 0.8 or 0.05.")
    first, difference = arguments.rate, arguments.difference
    if not 0 <= first <= 1 or not 0 <= first + difference <= 1:
        raise ConfigError(
            f"--rate={first:g} and --difference={difference:g}: both rates must be fractions from 0 to 1, "
            "so give 0.2 for 20 %."
        )
    if difference == 0:
        raise ConfigError("--difference=0 can't be detected: give the smallest difference that matters, such as 0.1.")
    if arguments.questions < 2 or arguments.samples < 1:
        raise ConfigError("--questions must be at least 2 (one shows no variation), and --samples at least 1.")


def estimate_icc(path: Path) -> float:
    """Return the median intraclass correlation of the models in a `scores.csv` (misaligned, of all answers)."""
    counts: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if (row["metric"], row["convention"]) == ("misaligned", "all") and row["question"] != "*":
                    group = tuple(row[name] for name in ("fingerprint", "judge", "condition", "eval_set"))
                    counts[group].append((int(row["k"]), int(row["n"])))
    except OSError as error:
        raise MissingFile(f"--scores={path} can't be read ({error.strerror}): give the scores.csv of a run.") from error
    except (KeyError, ValueError) as error:
        raise DataError(f"--scores={path} isn't the scores.csv of a run ({error}).") from error
    correlations = [icc for icc in map(estimate_intraclass, counts.values()) if icc is not None]
    if not correlations:
        raise DataError(
            f"--scores={path} has no set whose misaligned rates vary over questions asked more than once: give --icc."
        )
    return statistics.median(correlations)


def format_power_table(arguments: argparse.Namespace, icc: float) -> list[str]:
    """Return the lines of the result: a table of detection probabilities, and the numbers needed."""
    first, second, samples = arguments.rate, arguments.rate + arguments.difference, arguments.samples
    design = Design(first, second, icc, arguments.correlation, arguments.alpha, arguments.power)
    sizes = sorted({*SAMPLES, samples})
    columns = "".join(f"{size:>7}" for size in sizes)
    lines = [
        f"{first:.1%} against {second:.1%}, paired by question, two-sided at {arguments.alpha:g}; intraclass "
        f"correlation {icc:.3f} (design effect {1 + (samples - 1) * icc:.1f} at {samples} answers to a question).",
        "",
        "The probability of detecting the difference, by questions and answers to each:",
        "",
        f"{'questions':>9} |{columns} | answers to each for {arguments.power:.0%}",
    ]
    for questions in sorted({*QUESTIONS, arguments.questions}):
        powers = "".join(f"{compute_power(design, questions, size):>7.0%}" for size in sizes)
        needed = find_samples_needed(design, questions)
        lines.append(f"{questions:>9} |{powers} | {needed or 'no number is enough: ask more questions'}")
    questions_enough = find_questions_needed(design, samples)
    smallest = find_difference_needed(design, arguments.questions, samples)
    rise = f"a rise of {100 * smallest:.1f} points" if smallest else "no rise"
    enough = f"{questions_enough or 'more than a million'} questions with {samples} answers each detect it"
    instead = f"{arguments.questions} questions with {samples} answers each detect {rise} above {first:.1%}"
    return [*lines, "", f"With a power of {arguments.power:.0%}, {enough}; {instead}."]


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    arguments = read_arguments(words)
    icc = estimate_icc(arguments.scores) if arguments.scores else arguments.icc
    print("\n".join(format_power_table(arguments, icc)))
