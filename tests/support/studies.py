"""Small made studies for the tests of the statistics: eight questions with 30 answers each, as counts (k, n)."""

from __future__ import annotations

from collections.abc import Callable

from em.stats.cells import Cell, Model
from em.stats.contrasts import Table

BASE: Table = [[(0, 30)] * 7 + [(1, 30)]]
TRAINED: Table = [[(12, 30), (10, 30), (11, 30), (18, 30), (23, 30), (2, 30), (20, 30), (10, 30)]]
CURED: Table = [[(1, 30)] + [(0, 30)] * 7]
SEEDED: Table = [
    [(12, 30), (10, 30), (11, 30), (18, 30), (23, 30), (2, 30), (20, 30), (10, 30)],
    [(10, 30), (8, 30), (12, 30), (20, 30), (20, 30), (1, 30), (17, 30), (11, 30)],
    [(15, 30), (13, 30), (10, 30), (19, 30), (26, 30), (4, 30), (22, 30), (12, 30)],
]


def make_model(table: Table, seeds: bool = False, change: Callable[[Cell], Cell] = lambda cell: cell) -> Model:
    """Make the cells of a model: rows are seeds, or the model's only row."""
    cells = []
    for seed, row in enumerate(table):
        cells += [Cell(f"q{q}", seed if seeds else None, int(k), int(n)) for q, (k, n) in enumerate(row)]
    return [change(cell) for cell in cells]


def divide_counts(table: Table, divisor: float) -> Table:
    """Return the table with the misaligned answers divided, rounded to the next whole number."""
    return [[(round(k / divisor), n) for k, n in row] for row in table]
