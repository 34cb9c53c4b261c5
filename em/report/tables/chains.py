"""Chains of training stages, base → first stage → second stage …, with the rate after each and paired differences.

Rates come from `scores.csv`, differences from `comparisons.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.report.tables.cells import HeadlineTable, ModelRow
from em.report.tables.lineages import Differences, Lineage, LineageSet
from em.stats import Comparison

Sides = Mapping[str, ModelRow]


@dataclass(frozen=True)
class Step:
    """A model of a chain: its row, and its differences to the model before, the base and the control."""

    row: ModelRow
    from_before: Comparison | None
    from_base: Comparison | None
    from_control: Comparison | None


@dataclass(frozen=True)
class Chain:
    """The models from a base to a trained model, in one set, under one condition, by one judge.

    column: the place of the set among the columns of the headline table.
    control: the label of the last stage's control, "" without one. is_control: whether the last stage is a control.
    uneven: the numbers of steps of the control and of the last stage, if they differ.
    seeds: the chains of the single seeds, if seeds are pooled.
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
        """The last step of the chain."""
        return self.steps[-1]


def make_chains(family: LineageSet, table: HeadlineTable, comparisons: Sequence[Comparison]) -> list[Chain]:
    """Make every chain of two or more trainings whose models all answered a set, in the order of the runs."""
    chains_found = []
    for number, column in enumerate(table.columns):
        differences = Differences(comparisons, column.convention)
        sides: dict[tuple[str, str], dict[str, ModelRow]] = {}
        for row in table.rows:
            if row.cells[number]:
                sides.setdefault((row.condition, row.judge), {})[row.model.fingerprint] = row
        for (condition, judge), rows in sides.items():
            where = (condition, judge, column.eval_set, number)
            for line in family.lineages:
                chain = _make_chain(line, family, rows, where, differences) if len(line.models) > 2 else None
                if chain is not None:
                    chains_found.append(chain)
    return chains_found


def _make_chain(
    line: Lineage, family: LineageSet, rows: Sides, where: tuple[str, str, str, int], differences: Differences
) -> Chain | None:
    """Make the chain of a lineage; None if one of its models has no row. `where`: condition, judge, set and column."""
    condition, judge, eval_set, column = where
    place = (condition, judge, eval_set)
    if any(model.fingerprint not in rows for model in line.models):
        return None
    control = family.find_control(line)
    if control is not None and control.fingerprint not in rows:
        control = None
    steps = []
    for number, model in enumerate(line.models):
        before = line.models[number - 1] if number else None
        base = line.models[0] if number > 1 else None
        from_before, from_base = (differences.find_difference(other, model, place) for other in (before, base))
        from_control = differences.find_difference(control, model, place) if model == line.last else None
        steps.append(Step(rows[model.fingerprint], from_before, from_base, from_control))
    singles = (_make_chain(each, family, rows, where, differences) for each in line.seeds)
    return Chain(
        eval_set=eval_set,
        condition=condition,
        judge=judge,
        column=column,
        steps=tuple(steps),
        control=control.label if control else "",
        is_control=line.last.fingerprint in family.controls,
        uneven=family.describe_uneven_steps(line.last, control),
        seeds=tuple(each for each in singles if each is not None),
    )
