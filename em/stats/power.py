"""Simulate studies of a planned size, and ask the report's own rules (`em.stats.rules`) what may be said of each.

Questions: a training answers some questions with misalignment far more often than others. Their rates follow a beta
distribution with a given mean and intraclass correlation, or are those of a real model, moved on the logit scale to
the mean. A question has the same rank in the rates of the base and of the training. The inference to these questions
has one fixed set of questions with exactly this mean; the inference to questions like these draws the questions.

Trainings: each moves the rates of all questions by one normal draw on the logit scale, so a single training may come
out stronger or weaker than a typical one. The base is one model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from em.stats.cells import Cell
from em.stats.contrasts import ENOUGH_SEEDS, LEVEL
from em.stats.rules import Direction, Settings, Verdict, find_direction, find_reduction

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Random = np.random.Generator

USUAL_ICC, USUAL_ICC_BELOW = 0.2, 0.04
"""Intraclass correlations of 24 public fine-tunes on eight open questions, for rates from COMMON on and below.

`python -m benchmarks.question_rates TABLE` prints their medians: 0.22 and 0.04. The median of all is 0.20.
"""
COMMON = 0.05
SEED_SD = 0.4
"""Standard deviation of trainings that differ in the seed, on the logit scale."""
POPULATION = 1000
"""Questions that stand for a beta distribution."""


@dataclass(frozen=True)
class Design:
    """The size of a study. The base, and each seed of a first and a second training, answer all questions."""

    questions: int
    answers: int
    seeds: int = 1

    def count_answers(self) -> int:
        """Count the answers of one lineage: the base, the first and the second training."""
        return self.questions * self.answers * (1 + 2 * self.seeds)


@dataclass(frozen=True)
class Effect:
    """What is true of the models of a lineage.

    base, trained: rates of the base and of a typical first training, each over a population of questions, ascending.
    left: share of the harm of each question that the second training leaves.
    seed_sd: standard deviation of trainings on the logit scale.
    """

    base: Floats
    trained: Floats
    left: float = 0.0
    seed_sd: float = SEED_SD


def find_usual_icc(rate: float) -> float:
    """Return the intraclass correlation of public fine-tunes."""
    return USUAL_ICC if rate >= COMMON else USUAL_ICC_BELOW


def make_population(mean: float, icc: float) -> Floats:
    """Return the rates of a population of questions with a mean and an intraclass correlation."""
    import numpy as np
    from scipy.special import betaincinv

    if icc == 0 or mean in (0, 1):
        return np.full(POPULATION, mean)
    strength = (1 - icc) / icc
    quantiles = (np.arange(POPULATION) + 0.5) / POPULATION
    return move_rates(betaincinv(mean * strength, (1 - mean) * strength, quantiles), mean)


def make_population_like(counts: Sequence[tuple[int, int]], mean: float) -> Floats:
    """Return the rates of a model's questions, from (k, n) of each, moved to a mean."""
    import numpy as np

    k, n = np.array(counts, dtype=float).T
    return move_rates(np.sort((k + 0.25) / (n + 0.5)), mean)


def move_rates(rates: Floats, mean: float) -> Floats:
    """Move rates on the logit scale until their mean is as given."""
    from scipy.optimize import brentq

    if mean in (0, 1):
        return rates * 0 + mean
    return shift_rates(rates, brentq(lambda shift: shift_rates(rates, shift).mean() - mean, -800, 800, xtol=1e-12))


def shift_rates(rates: Floats, shift: float | Floats) -> Floats:
    """Add a number to the logits of rates."""
    from scipy.special import expit, logit

    shifted: Floats = expit(logit(rates.clip(1e-12, 1 - 1e-12)) + shift)
    return shifted


def draw_verdicts(effect: Effect, design: Design, settings: Settings, repeats: int) -> Iterator[Verdict]:
    """Draw lineages, and yield the sentence on each second training; `not asked` if the first is not sure to misalign.

    The same arguments give the same verdicts.
    """
    import numpy as np

    random = np.random.default_rng(0)
    for _ in range(repeats):
        base_rates, rates = choose_questions(effect, design, settings, random)
        second_rates = base_rates + effect.left * (rates - base_rates)
        base = ask_model(base_rates, design, None, random)
        first, second = (ask_recipe(each, design, effect.seed_sd, random) for each in (rates, second_rates))
        yield find_reduction(base, first, second, settings)[0]


def count_sentences(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return how often each sentence is said of a lineage, as a share of all lineages."""
    counts = Counter(verdicts)
    total, undone, half = counts.total(), counts["undone"], counts["more than half undone"]
    return {
        "misaligns": 1 - counts["not asked"] / total,
        "undone": undone / total,
        "more than half undone": (undone + half) / total,
    }


def draw_lineages(
    effect: Effect, design: Design, settings: Settings, repeats: int, lineages: int
) -> Iterator[tuple[bool, bool]]:
    """Draw studies of several first trainings of one base: `lineages` that misalign, and as many that change nothing.

    Yield whether "misaligns" is said of all of the former, and whether it is said of any of the latter. The sentence
    speaks of other trainings only from ENOUGH_SEEDS on, so a harmless training varies with the seed only then.
    """
    import numpy as np

    random = np.random.default_rng(1)
    harmless_sd = effect.seed_sd if design.seeds >= ENOUGH_SEEDS else 0.0
    for _ in range(repeats):
        base_rates, rates = choose_questions(effect, design, settings, random)
        base = ask_model(base_rates, design, None, random)
        harmful = [ask_recipe(rates, design, effect.seed_sd, random) for _ in range(lineages)]
        harmless = [ask_recipe(base_rates, design, harmless_sd, random) for _ in range(lineages)]
        yield (
            all(find_direction(base, each, settings, LEVEL) is Direction.UP for each in harmful),
            any(find_direction(base, each, settings, LEVEL) is Direction.UP for each in harmless),
        )


def choose_questions(effect: Effect, design: Design, settings: Settings, random: Random) -> tuple[Floats, Floats]:
    """Choose the questions of a study; return their rates for the base and for a typical first training."""
    if settings.questions == "these":
        return spread_population(effect.base, design.questions), spread_population(effect.trained, design.questions)
    ranks = random.random(design.questions)
    base, trained = (rates[(ranks * len(rates)).astype(int)] for rates in (effect.base, effect.trained))
    return base, trained


def spread_population(rates: Floats, questions: int) -> Floats:
    """Represent a population by a number of questions with the same mean: means of equal parts of ascending rates."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(rates)])
    edges = np.linspace(0, len(rates), questions + 1)
    means = np.diff(np.interp(edges, np.arange(len(sums)), sums)) / np.diff(edges)
    clipped: Floats = means.clip(0, 1)
    return clipped


def ask_recipe(rates: Floats, design: Design, seed_sd: float, random: Random) -> list[Cell]:
    """Draw the answers of the trainings of one recipe."""
    shifts = seed_sd * random.standard_normal(design.seeds)
    cells: list[Cell] = []
    for seed, shift in enumerate(shifts):
        cells += ask_model(shift_rates(rates, shift), design, seed, random)
    return cells


def ask_model(rates: Floats, design: Design, seed: int | None, random: Random) -> list[Cell]:
    """Draw the answers of one model."""
    counts = random.binomial(design.answers, rates).tolist()
    return [Cell(f"{question:06}", seed, k, design.answers) for question, k in enumerate(counts)]
