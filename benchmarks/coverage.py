"""Simulate the coverage of the 95 % intervals over questions.

python -m benchmarks.coverage --json coverage.json

Questions are drawn from a population whose rates follow a beta distribution, so that their answers are beta-binomial.
The design effects are those of published fine-tunes: 2.2 to 19.5 at 50 answers a question, median 6.4. An interval
covers if it contains the mean of the population.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from em.stats import Interval, cluster_interval

QUESTIONS = (8, 20, 48)
RATES = (0.02, 0.05, 0.2, 0.5)
EFFECTS = (2.2, 6.4, 19.5)
SAMPLES = 50
Figures = dict[str, float]
Counts = list[tuple[int, int]]


def compute_cluster_bootstrap(counts: Counts) -> Interval:
    """Return scipy's percentile interval, which resamples questions; all questions have equally many answers."""
    rates = [k / n for k, n in counts]
    interval = stats.bootstrap((rates,), np.mean, method="percentile", rng=0).confidence_interval
    return Interval(float(interval.low), float(interval.high), "cluster_bootstrap(question)")


def compute_clustered_error(counts: Counts) -> Interval:
    """Return rate ± t · standard error over questions, cut at 0 and 1, as regression software does."""
    rates = [k / n for k, n in counts]
    rate, half = np.mean(rates), stats.t.ppf(0.975, len(rates) - 1) * stats.sem(rates)
    return Interval(max(0.0, float(rate - half)), min(1.0, float(rate + half)), "clustered_se(question)")


METHODS: dict[str, Callable[[Counts], Interval]] = {
    "bootstrap": compute_cluster_bootstrap,
    "clustered_se": compute_clustered_error,
    "em": cluster_interval,
}
"""`em` is the interval of scores.csv."""


@dataclass
class Hits:
    """Counts of intervals (`made`) and of those that contain the true rate (`held`), and the sum of their widths."""

    held: int = 0
    made: int = 0
    width: float = 0.0

    def add(self, interval: Interval, truth: float) -> None:
        """Count one interval."""
        low, high = (0.0, 1.0) if interval.low is None or interval.high is None else (interval.low, interval.high)
        self.held += low <= truth <= high
        self.made += 1
        self.width += high - low

    @property
    def coverage(self) -> float:
        """Return the share of intervals that contain the true rate."""
        return self.held / self.made

    @property
    def mean_width(self) -> float:
        """Return the mean width of the intervals."""
        return self.width / self.made

    def __str__(self) -> str:
        return f"{100 * self.coverage:.1f} % ({100 * self.mean_width:.1f})"


def draw_question_rates(rate: float, icc: float, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Draw true rates of questions from a beta distribution with mean `rate` and intraclass correlation `icc`."""
    scale = (1 - icc) / icc
    return random.beta(rate * scale, (1 - rate) * scale, shape)


def simulate_questions(
    repeats: int, random: np.random.Generator
) -> Iterator[tuple[int, float, float, dict[str, Hits]]]:
    """Yield (questions, rate, design effect, hits by method) for each setting of the simulation."""
    for questions, rate, effect in product(QUESTIONS, RATES, EFFECTS):
        rates = draw_question_rates(rate, (effect - 1) / (SAMPLES - 1), (repeats, questions), random)
        hits = {name: Hits() for name in METHODS}
        for row in random.binomial(SAMPLES, rates):
            counts = [(int(k), SAMPLES) for k in row]
            for name, method in METHODS.items():
                hits[name].add(method(counts), rate)
        yield questions, rate, effect, hits


def run_simulation(figures: Figures, repeats: int) -> None:
    """Run the simulation, print its tables, and add the figures."""
    random = np.random.default_rng(1)
    print(
        f"\n## A set's interval: coverage (mean width in points), {repeats} sets each, {SAMPLES} answers a question\n"
    )
    print(f"| questions | rate | design effect | {' | '.join(METHODS)} |\n|{'---|' * (3 + len(METHODS))}")
    every: dict[tuple[int, str], list[Hits]] = {}
    for questions, rate, effect, hits in simulate_questions(repeats, random):
        print(f"| {questions} | {rate:.0%} | {effect} | {' | '.join(map(str, hits.values()))} |", flush=True)
        for name, counted in hits.items():
            every.setdefault((questions, name), []).append(counted)
    print("\n| questions | | mean coverage | lowest | mean width |\n|---|---|---|---|---|")
    for (questions, name), cells in every.items():
        mean, worst = float(np.mean([h.coverage for h in cells])), min(h.coverage for h in cells)
        wide = float(np.mean([h.mean_width for h in cells]))
        print(f"| {questions} | {name} | {mean:.1%} | {worst:.1%} | {100 * wide:.1f} |")
        figures |= {f"coverage_{name}_{questions}": mean, f"lowest_{name}_{questions}": worst}
        figures[f"width_{name}_{questions}"] = wide


def main() -> None:
    """Print the tables, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated sets for each row (default: 2000)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    begin, figures = time.monotonic(), Figures()
    run_simulation(figures, arguments.repeats)
    print(f"\n{time.monotonic() - begin:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
