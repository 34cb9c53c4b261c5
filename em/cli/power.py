"""How many samples and questions a difference between two models needs, before it is paid for.

em power --rate 0.2 --difference 0.1 --questions 8
em power --rate 0.05 --difference 0.1 --questions 8 --scores outputs/2026-11-23/10-00-00/scores.csv

How much questions differ is the intraclass correlation (`--icc`); with `--scores` it is taken from a run: the median
over its models of that of misaligned answers. What is assumed is in em/stats/power.py.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from em.cli.tool import answer_errors
from em.errors import ConfigError, DataError, MissingFile
from em.stats.power import ICC, Design, difference_needed, intraclass, power_of, questions_needed, samples_needed

SAMPLES = (10, 30, 50, 100, 300)
QUESTIONS = (8, 20, 48)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="em power", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, required=True, help="rate of the first model, as a fraction")
    parser.add_argument(
        "--difference", type=float, required=True, help="what is to be seen, as a fraction (0.1 or -0.1)"
    )
    parser.add_argument("--questions", type=int, default=8, help="questions of the set (default: 8)")
    parser.add_argument("--samples", type=int, default=30, help="answers to each question (default: 30)")
    variation = parser.add_mutually_exclusive_group()
    variation.add_argument("--icc", type=float, default=ICC, help=f"intraclass correlation (default: {ICC})")
    variation.add_argument("--scores", type=Path, help="scores.csv of a run to take the intraclass correlation from")
    parser.add_argument(
        "--correlation", type=float, default=0.0, help="of both models' rates over questions (default: 0)"
    )
    parser.add_argument("--power", type=float, default=0.8, help="probability to see it (default: 0.8)")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of the two-sided test (default: 0.05)")
    found = parser.parse_args(words)
    check(found)
    return found


def check(found: argparse.Namespace) -> None:
    """Refuse what can't be, with the fix."""
    for name, low, high in (("icc", 0, 1), ("correlation", -1, 1)):
        if not low <= getattr(found, name) <= high:
            raise ConfigError(f"--{name}={getattr(found, name):g} must be from {low} to {high}.")
    for name in ("power", "alpha"):
        if not 0 < getattr(found, name) < 1:
            raise ConfigError(f"--{name}={getattr(found, name):g} must be between 0 and 1, such as 0.8 or 0.05.")
    if not 0 <= found.rate <= 1 or not 0 <= found.rate + found.difference <= 1:
        raise ConfigError(
            f"--rate={found.rate:g} and --difference={found.difference:g}: both rates must be fractions from 0 to 1, "
            "so give 0.2 for 20 %."
        )
    if found.difference == 0:
        raise ConfigError("--difference=0 can't be seen: give the smallest difference that matters, such as 0.1.")
    if found.questions < 2 or found.samples < 1:
        raise ConfigError("--questions must be at least 2 (one can't tell how others vary), and --samples at least 1.")


def icc_of(path: Path) -> float:
    """The median over the models of a `scores.csv` of their intraclass correlation (misaligned, of all answers)."""
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
    found = [icc for icc in map(intraclass, counts.values()) if icc is not None]
    if not found:
        raise DataError(
            f"--scores={path} has no set whose misaligned rates vary over questions asked more than once: give --icc."
        )
    return statistics.median(found)


def table(found: argparse.Namespace, icc: float) -> list[str]:
    """The lines that are printed."""
    first, second = found.rate, found.rate + found.difference
    design = Design(first, second, icc, found.correlation, found.alpha, found.power)
    sizes = sorted({*SAMPLES, found.samples})
    lines = [
        f"{first:.1%} against {second:.1%}, paired by question, two-sided at {found.alpha:g}; intraclass correlation "
        f"{icc:.3f} (design effect {1 + (found.samples - 1) * icc:.1f} at {found.samples} answers to a question).",
        "",
        "The probability to see the difference, by questions and answers to each:",
        "",
        f"{'questions':>9} |" + "".join(f"{size:>7}" for size in sizes) + f" | answers to each for {found.power:.0%}",
    ]
    for questions in sorted({*QUESTIONS, found.questions}):
        chances = "".join(f"{power_of(design, questions, size):>7.0%}" for size in sizes)
        needed = samples_needed(design, questions)
        lines.append(f"{questions:>9} |{chances} | {needed or 'no number is enough: ask more questions'}")
    questions_for = questions_needed(design, found.samples)
    smallest = difference_needed(design, found.questions, found.samples)
    rise = f"a rise of {100 * smallest:.1f} points" if smallest else "no rise"
    enough = f"{questions_for or 'more than a million'} questions with {found.samples} answers each see it"
    instead = f"{found.questions} questions with {found.samples} answers each see {rise} above {first:.1%}"
    return [*lines, "", f"With a power of {found.power:.0%}, {enough}; {instead}."]


@answer_errors
def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    found = read_arguments(words)
    print("\n".join(table(found, icc_of(found.scores) if found.scores else found.icc)))
