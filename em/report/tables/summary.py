"""The summary: which data misaligns, whether realignment undoes it, and how much evidence there is.

A table has a row for each first training and a column for each later one; sentences put it into words. Rates come from
the headline table (over seeds if there are several), differences and verdicts from `comparisons.csv`.
`em.report.tables.sentences` has the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from em.report.read.calls import JudgeErrors
from em.report.tables.cells import Column, HeadlineTable, ModelRow, TableRate
from em.report.tables.lineages import Differences, LineageSet
from em.report.tables.models import Model, find_distinguishing_words, group_by
from em.report.tables.sentences import (
    describe_evidence,
    describe_first_training,
    describe_judge_errors,
    describe_later_training,
    describe_topic,
)
from em.report.tables.topics import Topics
from em.stats import Comparison, Settings

CONDITIONS = ("untagged", "default_prompt", "no_default_prompt", "tagged")
FIRST_ONLY = ""
"""The key of the column of models without a second training."""


@dataclass(frozen=True)
class SummaryOutcome:
    """A model of the table: its rate, and its differences to the base, to the first training and to the control.

    words: what its label adds to that of the first training, such as `3 epochs`.
    uneven: the numbers of steps of the control and of this model, if they differ.
    """

    model: Model
    row: ModelRow
    rate: TableRate
    base: TableRate | None
    words: str
    from_base: Comparison | None
    from_first: Comparison | None
    from_control: Comparison | None
    is_control: bool
    uneven: str


@dataclass(frozen=True)
class SummaryLine:
    """The models of one first training, by the later training (FIRST_ONLY for none)."""

    label: str
    condition: str
    base: TableRate | None
    base_fingerprint: str
    cells: Mapping[str, tuple[SummaryOutcome, ...]]

    @property
    def outcomes(self) -> list[SummaryOutcome]:
        """The models of all cells."""
        return [outcome for cell in self.cells.values() for outcome in cell]


@dataclass(frozen=True)
class Summary:
    """The summary of one question set by one judge; `after` has the columns, `sentences` pairs of subject and text."""

    column: Column
    judge: str
    after: tuple[str, ...]
    lines: tuple[SummaryLine, ...]
    sentences: tuple[tuple[str, str], ...]


def make_summaries(
    family: LineageSet,
    table: HeadlineTable,
    comparisons: Sequence[Comparison],
    settings: Settings,
    errors: Mapping[str, JudgeErrors],
    topics: Topics,
) -> list[Summary]:
    """Summarise each set with a headline metric and each judge, in the order of the headline table.

    `errors`: of judges whose errors were measured. `topics`: answers on the training rows' own topic.
    """
    by_set_and_judge = []
    for number, column in enumerate(table.columns):
        differences = Differences(comparisons, column.convention)
        for judge in table.judges if column.metric else ():
            rows: dict[tuple[str, str], ModelRow] = {}
            for row in table.rows:
                if row.judge == judge and row.cells[number] and row.cells[number][0].main is not None:
                    rows[row.model.fingerprint, row.condition] = row
            lines = list(_make_summary_lines(family, rows, number, (judge, column.eval_set), differences))
            after = sorted(dict.fromkeys(name for line in lines for name in line.cells), key=lambda a: a != FIRST_ONLY)
            if lines:
                sentences = [sentence for line in lines for sentence in _describe_line(line)]
                if column.metric == "misaligned":
                    place = column.eval_set, judge
                    sentences += [sentence for line in lines for sentence in _describe_topics(line, place, topics)]
                outcomes = [outcome for line in lines for outcome in line.outcomes]
                evidence = describe_evidence([(o.model, o.rate, o.from_base) for o in outcomes], settings)
                sentences.append(("", evidence))
                if judge in errors and column.metric == "misaligned":
                    differences_by_name = [pair for line in lines for pair in _list_differences(line)]
                    sentences.append(("", describe_judge_errors(errors[judge], differences_by_name)))
                by_set_and_judge.append(Summary(column, judge, tuple(after), tuple(lines), tuple(sentences)))
    return by_set_and_judge


def _make_summary_lines(
    family: LineageSet,
    rows: Mapping[tuple[str, str], ModelRow],
    column: int,
    where: tuple[str, str],
    differences: Differences,
) -> Iterator[SummaryLine]:
    """Yield the lines of a judge and set (`where`). Labels name the base only if there are several bases."""
    several = len({lineage.models[0] for lineage in family.lineages}) > 1
    for first, lineages in group_by(family.lineages, lambda lineage: lineage.models[1]).items():
        for condition in CONDITIONS:
            base_row = rows.get((lineages[0].models[0].fingerprint, condition))
            base = base_row.cells[column][0].main if base_row else None
            cells: dict[str, list[SummaryOutcome]] = {}
            for lineage in lineages:
                row = rows.get((lineage.last.fingerprint, condition))
                if row is None or (rate := row.cells[column][0].main) is None:
                    continue
                place, control = (condition, *where), family.find_control(lineage)
                outcome = SummaryOutcome(
                    lineage.last,
                    row,
                    rate,
                    base,
                    find_distinguishing_words(lineage.last, first),
                    differences.find_difference(lineage.models[0], lineage.last, place),
                    differences.find_difference(first, lineage.last, place) if lineage.last != first else None,
                    differences.find_difference(control, lineage.last, place),
                    lineage.last.fingerprint in family.controls,
                    family.describe_uneven_steps(lineage.last, control),
                )
                after = ", ".join(model.stage for model in lineage.models[2:])  # `neutral`, `secure, optimism`
                cells.setdefault(after, []).append(outcome)
            if cells:
                label = first.label if several else first.label.removeprefix(f"{lineages[0].models[0].label}+")
                fingerprint = lineages[0].models[0].fingerprint
                yield SummaryLine(
                    label, condition, base, fingerprint, {name: tuple(each) for name, each in cells.items()}
                )


def _describe_line(line: SummaryLine) -> Iterator[tuple[str, str]]:
    """Yield sentences, each with its subject: on the effect of the first training, then of each later one."""
    for name, outcomes in line.cells.items():
        for outcome in outcomes:
            subject = _name_outcome(line, name, outcome)
            if name == FIRST_ONLY:
                yield subject, describe_first_training(outcome.rate, outcome.base, outcome.from_base)
                continue
            text = describe_later_training(
                outcome.rate,
                (outcome.from_first, outcome.from_base, outcome.from_control),
                outcome.uneven,
                outcome.is_control,
            )
            yield subject, text


def _describe_topics(line: SummaryLine, place: tuple[str, str], topics: Topics) -> Iterator[tuple[str, str]]:
    """Yield sentences on answers on the training rows' own topic, where there are any. `place`: set and judge."""
    for name, outcomes in line.cells.items():
        for outcome in outcomes:
            for topic, count in topics.get((outcome.model.fingerprint, line.condition, *place), {}).items():
                base = topics.get((line.base_fingerprint, line.condition, *place), {}).get(topic)
                if text := describe_topic(count, base):
                    yield _name_outcome(line, name, outcome), text


def _name_outcome(line: SummaryLine, name: str, outcome: SummaryOutcome) -> str:
    """Name a model of a line: `medical, then optimism (2 epochs) under tagged`."""
    under = f" under {line.condition}" if line.condition != CONDITIONS[0] else ""
    if name == FIRST_ONLY:
        return f"{line.label}{under}"
    words = f" ({outcome.words})" if outcome.words else ""
    control = " (the control)" if outcome.is_control else ""
    return f"{line.label}, then {name}{words}{under}{control}"


def _list_differences(line: SummaryLine) -> Iterator[tuple[str, Comparison]]:
    """Yield each model's difference from the base, or of a later training from the first."""
    for name, outcomes in line.cells.items():
        for outcome in outcomes:
            if comparison := outcome.from_first or outcome.from_base:
                yield _name_outcome(line, name, outcome), comparison
