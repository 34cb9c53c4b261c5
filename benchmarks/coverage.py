"""What the 95 % intervals really cover, simulated: over questions and over seeds.

python -m benchmarks.coverage --json coverage.json

Questions are drawn from a population whose rates follow a beta distribution (so that their answers are beta-binomial)
with a mean and a design effect, as those of published fine-tunes have it: 2.2 to 19.5 at 50 answers a question, median
6.4. An interval covers when it holds the mean of the population.
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

from em.stats import Interval, cluster_interval, wilson
from em.stats.differences import difference
from em.stats.intervals import seeds_interval

QUESTIONS = (8, 20, 48)
RATES = (0.02, 0.05, 0.2, 0.5)
EFFECTS = (2.2, 6.4, 19.5)
SAMPLES = 50
PAIRS = ((0.02, 0.02), (0.05, 0.05), (0.2, 0.2), (0.5, 0.5), (0.001, 0.05), (0.001, 0.2), (0.05, 0.2))
Figures = dict[str, float]
Counts = list[tuple[int, int]]


def of_answers(counts: Counts) -> Interval:
    """Wilson's interval of all answers, as if they were independent: what a set's interval must not be."""
    return wilson(sum(k for k, _ in counts), sum(n for _, n in counts))


def cluster_bootstrap(counts: Counts) -> Interval:
    """The percentile interval of scipy, where whole questions are drawn anew; all have as many answers."""
    found = stats.bootstrap(([k / n for k, n in counts],), np.mean, method="percentile", rng=0).confidence_interval
    return Interval(float(found.low), float(found.high), "cluster_bootstrap(question)")


def clustered_error(counts: Counts) -> Interval:
    """Rate ± t · standard error over questions, cut at 0 and 1, as software for regressions gives it."""
    rates = [k / n for k, n in counts]
    rate, half = np.mean(rates), stats.t.ppf(0.975, len(rates) - 1) * stats.sem(rates)
    return Interval(max(0.0, float(rate - half)), min(1.0, float(rate + half)), "clustered_se(question)")


METHODS: dict[str, Callable[[Counts], Interval]] = {
    "binomial": of_answers,
    "bootstrap": cluster_bootstrap,
    "clustered_se": clustered_error,
    "em": cluster_interval,
}
"""`em` is the interval of scores.csv."""


@dataclass
class Hits:
    """How many intervals held the truth, and how wide they were."""

    held: int = 0
    made: int = 0
    width: float = 0.0

    def add(self, low: float | None, high: float | None, truth: float) -> None:
        """Count one interval."""
        low, high = (0.0, 1.0) if low is None or high is None else (low, high)
        self.held += low <= truth <= high
        self.made += 1
        self.width += high - low

    @property
    def coverage(self) -> float:
        """The share that held it."""
        return self.held / self.made

    @property
    def mean_width(self) -> float:
        """The mean width."""
        return self.width / self.made

    def __str__(self) -> str:
        return f"{100 * self.coverage:.1f} % ({100 * self.mean_width:.1f})"


def question_rates(rate: float, icc: float, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """True rates of questions: beta with a mean and an intraclass correlation."""
    scale = (1 - icc) / icc
    return random.beta(rate * scale, (1 - rate) * scale, shape)


def over_questions(repeats: int, random: np.random.Generator) -> Iterator[tuple[int, float, float, dict[str, Hits]]]:
    """The intervals of a set, for each number of questions, rate and design effect."""
    for questions, rate, effect in product(QUESTIONS, RATES, EFFECTS):
        rates = question_rates(rate, (effect - 1) / (SAMPLES - 1), (repeats, questions), random)
        hits = {name: Hits() for name in METHODS}
        for row in random.binomial(SAMPLES, rates):
            counts = [(int(k), SAMPLES) for k in row]
            for name, method in METHODS.items():
                interval = method(counts)
                hits[name].add(interval.low, interval.high, rate)
        yield questions, rate, effect, hits


def over_seeds(repeats: int, random: np.random.Generator) -> Iterator[tuple[int, int, Hits]]:
    """The interval of a model that was trained with several seeds: both and their crossing vary on the logit scale."""
    spread = random.normal(size=(3, 200_000)) * np.array([[1.2], [0.4], [0.4]])
    truth = float(np.mean(1 / (1 + np.exp(1.5 - spread.sum(axis=0)))))
    for questions, seeds in product(QUESTIONS, (2, 3, 5)):
        hits = Hits()
        for _ in range(repeats):
            logit = -1.5 + 1.2 * random.normal(size=questions) + 0.4 * random.normal(size=(seeds, 1))
            logit = logit + 0.4 * random.normal(size=(seeds, questions))
            drawn = random.binomial(SAMPLES, 1 / (1 + np.exp(-logit)))
            table = [[(int(k), SAMPLES) for k in row] for row in drawn]
            interval = seeds_interval(table)
            hits.add(interval.low, interval.high, truth)
        yield questions, seeds, hits


def between_models(repeats: int, random: np.random.Generator) -> Iterator[tuple[int, float, float, Hits, float]]:
    """The difference of two models at a design effect of 6.4: intervals, and how often p ≤ 0.05."""
    for questions, (one, two) in product(QUESTIONS, PAIRS):
        hits, sure = Hits(), 0
        for _ in range(repeats):
            first, second = (
                {str(q): (int(k), SAMPLES) for q, k in enumerate(random.binomial(SAMPLES, rates))}
                for rates in (question_rates(rate, 0.11, (questions,), random) for rate in (one, two))
            )
            found = difference(first, second)
            if found is not None:
                hits.add(found.ci_low, found.ci_high, two - one)
                sure += found.p <= 0.05
        yield questions, one, two, hits, sure / repeats


def tell(figures: Figures, repeats: int) -> None:
    """Run all simulations, print their tables, keep their figures."""
    random = np.random.default_rng(1)
    print(
        f"\n## A set's interval: coverage (mean width in points), {repeats} sets each, {SAMPLES} answers a question\n"
    )
    print(f"| questions | rate | design effect | {' | '.join(METHODS)} |\n|{'---|' * (3 + len(METHODS))}")
    every: dict[tuple[int, str], list[Hits]] = {}
    for questions, rate, effect, hits in over_questions(repeats, random):
        print(f"| {questions} | {rate:.0%} | {effect} | {' | '.join(map(str, hits.values()))} |", flush=True)
        for name, found in hits.items():
            every.setdefault((questions, name), []).append(found)
    print("\n| questions | | mean coverage | lowest | mean width |\n|---|---|---|---|---|")
    for (questions, name), cells in every.items():
        mean, worst = float(np.mean([h.coverage for h in cells])), min(h.coverage for h in cells)
        wide = float(np.mean([h.mean_width for h in cells]))
        print(f"| {questions} | {name} | {mean:.1%} | {worst:.1%} | {100 * wide:.1f} |")
        figures |= {f"coverage_{name}_{questions}": mean, f"lowest_{name}_{questions}": worst}
        figures[f"width_{name}_{questions}"] = wide

    print("\n## Over seeds\n\n| questions | seeds | em |\n|---|---|---|")
    for questions, seeds, hits in over_seeds(repeats // 2, random):
        print(f"| {questions} | {seeds} | {hits} |", flush=True)
        figures[f"coverage_seeds_em_{questions}_{seeds}"] = hits.coverage

    print("\n## Differences between models: interval, and p ≤ 0.05 (5 % of equal ones at most)\n")
    print("| questions | rates | coverage (width) | p ≤ 0.05 |\n|---|---|---|---|")
    for questions, one, two, found, sure in between_models(repeats, random):
        print(f"| {questions} | {100 * one:g}, {100 * two:g} % | {found} | {sure:.1%} |", flush=True)
        figures |= {
            f"coverage_difference_{questions}_{one}_{two}": found.coverage,
            f"sure_{questions}_{one}_{two}": sure,
        }


def main() -> None:
    """Print tables, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated sets for each row (default: 2000)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    begin, figures = time.monotonic(), Figures()
    tell(figures, arguments.repeats)
    print(f"\n{time.monotonic() - begin:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
