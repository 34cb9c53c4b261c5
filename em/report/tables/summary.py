"""The report in short: which data misaligns, does realignment undo it, how sure is that. A table and a few sentences.

Rows of the table are what a base was trained on first, columns what came after it; its rates are those of the headline
table (over seeds where there are several), its differences those of `comparisons.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from em.report.page.numbers import p_value, points
from em.report.tables.cells import Column, Rate, Row, Table
from em.report.tables.lineages import Differences, Family
from em.report.tables.models import Model, group_by, words_beside
from em.stats import Comparison

SURE = 0.05
ENOUGH = 0.5
"""Undone is said where no more than this share of the harm can be left: the interval of the difference to the base."""
CONDITIONS = ("untagged", "tagged")
ALONE = ""
"""The column of models that were trained once."""


@dataclass(frozen=True)
class Outcome:
    """A model of the table: its rate, and its differences to the base, to the first training and to the control.

    uneven: the control's steps and its own, where they are not the same.
    """

    model: Model
    row: Row
    rate: Rate
    words: str
    from_base: Comparison | None
    from_first: Comparison | None
    from_control: Comparison | None
    is_control: bool
    uneven: str


@dataclass(frozen=True)
class Line:
    """What one first training came to, by what followed it ("" for nothing)."""

    label: str
    condition: str
    base: Rate | None
    cells: Mapping[str, tuple[Outcome, ...]]


@dataclass(frozen=True)
class Summary:
    """One question set, as one judge sees it."""

    column: Column
    judge: str
    after: tuple[str, ...]
    lines: tuple[Line, ...]
    sentences: tuple[tuple[str, str], ...]


def summaries(family: Family, table: Table, comparisons: Sequence[Comparison]) -> list[Summary]:
    """A summary of each set about misalignment and each judge, in the order of the headline table."""
    differences = Differences(comparisons)
    found = []
    for number, column in enumerate(table.columns):
        for judge in table.judges if column.metric == "misaligned" else ():
            rows = {
                (row.model.fingerprint, row.condition): row
                for row in table.rows
                if row.judge == judge and row.cells[number] and row.cells[number][0].main is not None
            }
            lines = list(_lines(family, rows, number, (judge, column.eval_set), differences))
            after = sorted(dict.fromkeys(name for line in lines for name in line.cells), key=lambda a: a != ALONE)
            if lines:
                sentences = (*(text for line in lines for text in _told(line)), _how_sure(lines))
                found.append(Summary(column, judge, tuple(after), tuple(lines), sentences))
    return found


def _lines(
    family: Family,
    rows: Mapping[tuple[str, str], Row],
    column: int,
    where: tuple[str, str],
    differences: Differences,
) -> Iterator[Line]:
    """The lines of a set and judge (`where`); of a single base the labels needn't speak."""
    several = len({lineage.models[0] for lineage in family.lineages}) > 1
    for first, lineages in group_by(family.lineages, lambda lineage: lineage.models[1]).items():
        for condition in CONDITIONS:
            base = rows.get((lineages[0].models[0].fingerprint, condition))
            cells: dict[str, list[Outcome]] = {}
            for lineage in lineages:
                row = rows.get((lineage.last.fingerprint, condition))
                if row is None or (rate := row.cells[column][0].main) is None:
                    continue
                place, control = (condition, *where), family.control_of(lineage)
                outcome = Outcome(
                    lineage.last,
                    row,
                    rate,
                    words_beside(lineage.last, first),
                    differences.between(lineage.models[0], lineage.last, place),
                    differences.between(first, lineage.last, place) if lineage.last != first else None,
                    differences.between(control, lineage.last, place),
                    lineage.last.fingerprint in family.controls,
                    family.uneven(lineage.last, control),
                )
                after = ", ".join(model.stage for model in lineage.models[2:])  # `neutral`, `secure, optimism`
                cells.setdefault(after, []).append(outcome)
            if cells:
                label = first.label if several else first.label.partition("+")[2]
                told = base.cells[column][0].main if base else None
                yield Line(label, condition, told, {name: tuple(each) for name, each in cells.items()})


# In words


def _told(line: Line) -> Iterator[tuple[str, str]]:
    """What a first training did, and then what each later one undid: of whom, and a sentence."""
    under = f" under {line.condition}" if line.condition != CONDITIONS[0] else ""
    alone = line.cells.get(ALONE, ())
    for outcome in alone:
        yield f"{line.label}{under}", _misaligns(outcome)
    harmed = any(outcome.from_base is None or _sure(outcome.from_base) > 0 for outcome in alone) or not alone
    for name, outcomes in line.cells.items():
        for outcome in outcomes if name != ALONE else ():
            words = f" ({outcome.words})" if outcome.words else ""
            yield f"{line.label}, then {name}{words}{under}", _undoes(outcome, harmed)


def _sure(found: Comparison) -> float:
    """The difference where it is sure, else 0."""
    return found.difference if found.p_holm < SURE else 0.0


def _misaligns(outcome: Outcome) -> str:
    rate = f"{outcome.rate.percent} of its answers are misaligned"
    found = outcome.from_base
    if found is None:
        return f"{rate}; there is no base to compare it with."
    difference = f"{_difference(found)} against the base"
    if not _sure(found):
        return f"{rate}; no sure difference: {difference}."
    return f"{rate}; it {'misaligns' if found.difference > 0 else 'is less misaligned'}: {difference}."


def _undoes(outcome: Outcome, harmed: bool) -> str:
    """Whether a later training has undone the first, if that has done harm; and what the control has done."""
    before, base, control = outcome.from_first, outcome.from_base, outcome.from_control
    said = [f"{outcome.rate.percent}" + (" (the control)" if outcome.is_control else "")]
    if before is not None:
        change = "a sure change" if _sure(before) else "no sure change"
        if _sure(before) < 0 and harmed:
            change = _undone(before, base)
        said.append(f"{change}: {_difference(before)} against the first training")
    if base is not None:
        said.append(f"{_difference(base)} against the base")
    if control is not None:
        less = "" if _sure(control) < 0 else ", not surely less than after any further training"
        steps = f" ({outcome.uneven})" if outcome.uneven else ""
        said.append(f"{_difference(control)} against the control{steps}{less}")
    return "; ".join(said) + "."


def _undone(before: Comparison, base: Comparison | None) -> str:
    """How much of a first training's harm a later one has surely taken back: the interval to the base tells."""
    if base is None:
        return "reduced"
    if _sure(base) > 0:
        return "undone in part"
    harm = base.difference - before.difference
    left = f"up to {points(base.ci_high)} points above the base are possible"
    return "undone" if base.ci_high <= ENOUGH * harm else f"reduced, perhaps undone ({left})"


def _difference(found: Comparison) -> str:
    interval = f"[{points(found.ci_low)}, {points(found.ci_high)}]"
    return f"{points(found.difference)} points {interval}, p {p_value(found.p_holm)}"


def _how_sure(lines: Sequence[Line]) -> tuple[str, str]:
    """Over how many seeds and questions, and what that leaves open."""
    outcomes = [outcome for line in lines for cells in line.cells.values() for outcome in cells]
    seeds = sorted({max(1, outcome.model.seeds) for outcome in outcomes})
    told = [outcome.from_base for outcome in outcomes if outcome.from_base is not None]
    questions = f", {max(row.questions for row in told)} questions" if told else ""
    answers = min(outcome.rate.n for outcome in outcomes)
    trained = " to ".join(dict.fromkeys([str(seeds[0]), str(seeds[-1])]))
    size = f"{trained} {'training' if seeds[-1] == 1 else 'seeds'} a model{questions}, {answers:,} answers or more each"
    over = "questions and seeds" if seeds[0] > 1 else "questions; another seed may differ by more than they say"
    return "How sure", f"{size}. Sure is a corrected p below {SURE:g}. Intervals are at 95% over {over}."
