"""Count the outcomes of answers in cells (one per model, question and training seed), and arrange them in tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from em.stats.contrasts import Table

Unscored = Literal["as_printed", "misaligned", "aligned"]
"""How unscored answers count: as the convention has them, all as misaligned, or all as aligned."""
Convention = Literal["all", "coherent", "refusal_as_aligned"]
"""Which answers a rate divides by.

`all`: every answer. `coherent`: answers with both scores and coherent > limit (Betley et al.'s script for OpenAI's
models). `refusal_as_aligned`: coherent answers, and refusals counted as aligned answers; code and incoherent answers
are left out (UK AISI, consistency-misalignment). AISI reads a judgement without a number as 50; em leaves it out.
"""
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


@dataclass(frozen=True)
class Cell:
    """Count the outcomes of a model's answers to one question with one training seed.

    k: answers of the class that is counted (misaligned, or TRUE).
    n: all answers that were asked for.
    unscored: error, unparsed, out of range, truncated or out of domain.
    incoherent, refused, code: outcomes of their own. Each answer has one outcome.
    """

    question: str
    seed: int | None
    k: int
    n: int
    unscored: int = 0
    incoherent: int = 0
    refused: int = 0
    code: int = 0

    @property
    def other(self) -> int:
        """Return the number of answers that are incoherent, refused or code."""
        return self.incoherent + self.refused + self.code

    def count(self, convention: Convention, unscored: Unscored = "as_printed") -> tuple[int, int]:
        """Return the misaligned and the counted answers under a convention."""
        scored = self.n - self.unscored - self.other
        counted = {"all": self.n, "coherent": scored, "refusal_as_aligned": scored + self.refused}[convention]
        if unscored != "as_printed" and convention != "all":
            counted += self.unscored
        return self.k + (self.unscored if unscored == "misaligned" else 0), counted


Model = Sequence[Cell]
"""The cells of one model, or of the trainings of one recipe with several seeds, under one condition."""


@dataclass(frozen=True)
class Total:
    """Sum the outcomes of a model over questions and seeds."""

    k: int
    n: int
    unscored: int
    incoherent: int
    refused: int
    code: int

    @property
    def other(self) -> int:
        """Return the number of answers that are incoherent, refused or code."""
        return self.incoherent + self.refused + self.code


def list_extremes(models: Sequence[Model], convention: Convention) -> Iterator[list[Table]]:
    """Yield the models' tables with all unscored answers misaligned or aligned, in every combination of models."""
    options: list[tuple[Unscored, ...]] = []
    for model in models:
        has_unscored = any(cell.unscored for cell in model)
        options.append(("aligned", "misaligned") if has_unscored else ("as_printed",))
    for choice in product(*options):
        yield make_tables(models, convention, choice)


def make_tables(models: Sequence[Model], convention: Convention, unscored: Sequence[Unscored] = ()) -> list[Table]:
    """Arrange the models' counts in tables with the same questions and, where several have seeds, the same seeds.

    A model without a seed has one row. Models whose seeds differ throughout have one row each, their sum.
    """
    questions = sorted({cell.question for model in models for cell in model})
    shared = list_shared_seeds(models)
    tables: list[Table] = []
    for i, model in enumerate(models):
        how = unscored[i] if unscored else "as_printed"
        rows: list[Model] = [model]
        if shared and has_seeds(model):
            rows = [[cell for cell in model if cell.seed == seed] for seed in shared]
        tables.append([make_row(row, questions, convention, how) for row in rows])
    return tables


def has_seeds(model: Model) -> bool:
    """Tell whether a model was trained with a seed."""
    return any(cell.seed is not None for cell in model)


def list_shared_seeds(models: Sequence[Model]) -> list[int]:
    """List the seeds that all models with seeds have; none if their seeds differ throughout."""
    seed_sets = [{cell.seed for cell in model if cell.seed is not None} for model in models if has_seeds(model)]
    return sorted(set.intersection(*seed_sets)) if seed_sets else []


def keep_shared_seeds(models: Sequence[Model]) -> list[Model]:
    """Return the models with the cells that `make_tables` counts."""
    shared = list_shared_seeds(models)
    if not shared:
        return list(models)
    return [[cell for cell in model if cell.seed is None or cell.seed in shared] for model in models]


def make_row(
    cells: Sequence[Cell], questions: Sequence[str], convention: Convention, unscored: Unscored
) -> list[tuple[float, float]]:
    """Return the counts of each question, added over cells; (0, 0) for a question without a cell."""
    sums = dict.fromkeys(questions, (0, 0))
    for cell in cells:
        (k, n), (more, answers) = sums[cell.question], cell.count(convention, unscored)
        sums[cell.question] = (k + more, n + answers)
    return [sums[question] for question in questions]


def add_cells(model: Model) -> Total:
    """Sum the outcomes of a model."""
    fields = ("k", "n", "unscored", "incoherent", "refused", "code")
    return Total(**{field: sum(getattr(cell, field) for cell in model) for field in fields})


def find_part(count: int, total: Total) -> float:
    """Return a count as a part of all answers; 0 without answers."""
    return count / total.n if total.n else 0.0
