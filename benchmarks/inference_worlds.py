"""Draw made studies for `benchmarks.inference`: true rates by question, training seeds, and answers.

Rates by question are those of public fine-tunes (`benchmarks.question_rates`), moved on the logit scale to the mean
that is asked for. A training seed moves all questions by one normal draw on the logit scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.question_rates import ANSWERS, MISALIGNED, PLAIN

SEED_SPREAD = 0.4
"""Standard deviation of training seeds on the logit scale."""
BASE = 0.004
PATTERNS = {0.44: "obvious_32b", 0.2: "medical_14b", 0.058: "insecure_coder"}
"""The fine-tune whose eight plain questions make the pattern of a mean rate; other means have equal questions."""
Floats = np.ndarray
Study = list[list[tuple[int, int]]]
"""The counts of one model: a row for each seed, a column for each question."""


@dataclass(frozen=True)
class Design:
    """The questions of a study, and the answers to each; `copies` is how often the eight plain ones are repeated."""

    copies: int
    answers: int

    @property
    def questions(self) -> int:
        """Return the number of questions."""
        return self.copies * len(PLAIN)

    def __str__(self) -> str:
        return f"{self.questions} × {self.answers}"


DESIGNS = (Design(1, 30), Design(1, 100), Design(6, 10))


def apply_logistic(values: Floats) -> Floats:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-values))


def make_rates(mean: float, design: Design) -> Floats:
    """Return the true rates of a design's questions with a given mean: those of a public fine-tune, moved."""
    if mean not in PATTERNS:
        return np.full(design.questions, mean)
    counts = np.array(MISALIGNED[PATTERNS[mean]][: len(PLAIN)])
    return np.tile(move_rates((counts + 0.25) / (ANSWERS + 0.5), mean), design.copies)


def move_rates(rates: Floats, mean: float) -> Floats:
    """Move rates on the logit scale until their mean is as given."""
    logits = np.log(rates / (1 - rates))
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if apply_logistic(logits + middle).mean() < mean else (low, middle)
    return apply_logistic(logits + low)


def scale_harm(base: Floats, trained: Floats, share: float) -> Floats:
    """Return rates at which exactly a share of the harm of each question is left."""
    return base + share * (trained - base)


def compute_recipe_rate(rates: Floats, spread: float = SEED_SPREAD) -> float:
    """Return the mean rate over all training seeds (by Gauss-Hermite quadrature)."""
    points, weights = np.polynomial.hermite_e.hermegauss(41)
    logits = np.log(rates / (1 - rates))
    return float(apply_logistic(logits[:, None] + spread * points).mean(axis=0) @ weights / weights.sum())


def draw_studies(rates: Floats, answers: int, repeats: int, random: np.random.Generator, seeds: int = 1) -> list[Study]:
    """Draw the counts of `repeats` studies; with one seed, the rates are those of the model itself."""
    shape = (repeats, seeds, len(rates))
    if seeds > 1:
        logits = np.log(rates / (1 - rates)) + SEED_SPREAD * random.standard_normal((repeats, seeds, 1))
        rates = apply_logistic(logits)
    counts = random.binomial(answers, np.broadcast_to(rates, shape)).tolist()
    return [[[(k, answers) for k in row] for row in study] for study in counts]


def draw_pairs(
    populations: list[Floats], design: tuple[int, int], repeats: int, random: np.random.Generator
) -> list[list[Study]]:
    """Draw studies of several models on the same sampled questions; return the studies of each model."""
    questions, answers = design
    chosen = random.integers(0, len(populations[0]), (repeats, questions))
    drawn = []
    for population in populations:
        counts = random.binomial(answers, population[chosen]).tolist()
        drawn.append([[[(k, answers) for k in row]] for row in counts])
    return drawn
