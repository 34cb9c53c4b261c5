"""Chains of trainings, base → first stage → second stage …, with the rate after each and the paired differences.

Rates are those of `scores.csv`, differences those of `comparisons.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.report.tables.cells import Row, Table
from em.report.tables.lineages import Differences, Family, Lineage
from em.stats import Comparison

Sides = Mapping[str, Row]


@dataclass(frozen=True)
class Step:
    """A model of a chain: its cell in the set, and how it differs from the one before, the base and the control."""

    row: Row
    from_before: Comparison | None
    from_base: Comparison | None
    from_control: Comparison | None


@dataclass(frozen=True)
class Chain:
    """What a model was trained from, to itself, in one set, under one condition, as one judge sees it.

    control: the label of the last stage's control, "" where there is none. is_control: whether it is one itself.
    uneven: its steps and those of the last stage, where they are not the same.
    seeds: the same of each seed, where seeds are pooled.
    """

    eval_set: str
    condition: str
    judge: str
    column: int
    steps: tuple[Step, ...]
    control: str = ""
    is_control: bool = False
    uneven: str = ""
    seeds: tuple[Chain, ...] = ()

    @property
    def last(self) -> Step:
        """Where it ends."""
        return self.steps[-1]


def chains(family: Family, table: Table, comparisons: Sequence[Comparison]) -> list[Chain]:
    """Every chain of two trainings or more of which all models were asked the set, in the order of the runs."""
    differences = Differences(comparisons)
    found = []
    for number, column in enumerate(table.columns):
        sides: dict[tuple[str, str], dict[str, Row]] = {}
        for row in table.rows:
            if row.cells[number]:
                sides.setdefault((row.condition, row.judge), {})[row.model.fingerprint] = row
        for (condition, judge), rows in sides.items():
            where = (condition, judge, column.eval_set, number)
            for line in family.lineages:
                chain = _chain(line, family, rows, where, differences) if len(line.models) > 2 else None
                if chain is not None:
                    found.append(chain)
    return found


def _chain(
    line: Lineage, family: Family, rows: Sides, where: tuple[str, str, str, int], differences: Differences
) -> Chain | None:
    condition, judge, eval_set, column = where
    place = (condition, judge, eval_set)
    if any(model.fingerprint not in rows for model in line.models):
        return None
    control = family.control_of(line)
    if control is not None and control.fingerprint not in rows:
        control = None
    steps = tuple(
        Step(
            rows[model.fingerprint],
            differences.between(line.models[number - 1], model, place) if number else None,
            differences.between(line.models[0], model, place) if number > 1 else None,
            differences.between(control, model, place) if model == line.last else None,
        )
        for number, model in enumerate(line.models)
    )
    singles = (_chain(each, family, rows, where, differences) for each in line.seeds)
    return Chain(
        eval_set=eval_set,
        condition=condition,
        judge=judge,
        column=column,
        steps=steps,
        control=control.label if control else "",
        is_control=line.last.fingerprint in family.controls,
        uneven=family.uneven(line.last, control),
        seeds=tuple(each for each in singles if each is not None),
    )
