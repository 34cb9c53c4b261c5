"""Which questions the models fail: the misaligned rate by question, a picture for each set.

The chart is that of Betley et al. (arXiv 2502.17424). Trainings that differ in the seed alone are one line: a dot for
their rate together, and a small one for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from em.report.figures.dots import Dot, Series, dot_plot
from em.report.figures.picture import Picture, file_stem, make_picture, with_note
from em.report.page.numbers import share
from em.report.tables.cells import QuestionTable, Rate
from em.report.tables.models import short_judges
from em.report.tables.seeds import Pool

MOST_LINES = 6  # models of a picture, one for each colour: of more, those with the highest rates
MOST_QUESTIONS = 60
HEADER = ("question", "model", "judge", "seeds", "k", "n", "rate", "ci_low", "ci_high", "ci_method", "drawn")


@dataclass(frozen=True)
class Spot:
    """The rates of one question by model: of a single one, or of each seed."""

    by_model: dict[str, Rate]

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The rates alone."""
        return tuple(self.by_model.values())

    @property
    def k(self) -> int:
        """Misaligned answers of all seeds."""
        return sum(rate.k for rate in self.rates)

    @property
    def n(self) -> int:
        """Answers of all seeds."""
        return sum(rate.n for rate in self.rates)

    @property
    def rate(self) -> float | None:
        """The rate of all seeds together."""
        return self.k / self.n if self.n else None


@dataclass(frozen=True)
class Line:
    """A model as one judge sees it, question by question; `members` are the labels of its seeds."""

    label: str
    judge: str
    members: tuple[str, ...]
    spots: dict[str, Spot]

    @property
    def seeds(self) -> int:
        """How many trainings are together here, 0 for a single model."""
        return len(self.members) if len(self.members) > 1 else 0

    @property
    def overall(self) -> float:
        """The rate of all questions together."""
        return sum(spot.k for spot in self.spots.values()) / max(1, sum(spot.n for spot in self.spots.values()))


def question_pictures(tables: Sequence[QuestionTable], pools: Sequence[Pool]) -> list[Picture]:
    """The misaligned rate by question of the plain questions; the numbers are of all models."""
    pictures, taken = list[Picture](), set[str]()
    for table in tables:
        if table.column.metric != "misaligned" or not 1 < len(table.rows) <= MOST_QUESTIONS:
            continue
        found = lines(table, pools)
        if not found:
            continue
        chosen = sorted(found, key=lambda line: -line.overall)[:MOST_LINES]
        shown = [line for line in found if line in chosen]
        some = f"the {MOST_LINES} of {len(found)} models with the highest rates" if len(found) > MOST_LINES else ""
        note = ", ".join(filter(None, (some, "a thin mark for each seed" if any(line.seeds for line in shown) else "")))
        heading = f"{table.column.eval_set}: misaligned by question, of all answers"
        questions = [row.question for row in table.rows]
        judges = short_judges(list(dict.fromkeys(line.judge for line in found)))
        names = [line.label + (f", judge {judges[line.judge]}" if len(judges) > 1 else "") for line in shown]
        alt = "; ".join(
            f"{q}, {name}: {share(line.spots[q].rate)}"
            for q in questions
            for name, line in zip(names, shown, strict=True)
            if q in line.spots
        )
        rows = [row for line in found for row in _rows(line, line in chosen)]
        stem = file_stem("questions", table.column.eval_set, taken)
        series = [_series(name, line) for name, line in zip(names, shown, strict=True)]
        drawing = dot_plot(heading, questions, series, note)
        pictures.append(make_picture(stem, with_note(heading, some), alt, drawing, HEADER, rows))
    return pictures


def lines(table: QuestionTable, pools: Sequence[Pool]) -> list[Line]:
    """The models that were asked the plain questions, those of one pool together."""
    pooled = {member: pool.model for pool in pools for member in pool.members}
    grouped: dict[tuple[str, str], list[int]] = {}
    for number, side in enumerate(table.sides):
        if side.condition == "untagged" and not side.model.seeds:
            label = pooled.get(side.model.fingerprint, side.model).label
            grouped.setdefault((label, side.judge), []).append(number)
    found = []
    for (label, judge), numbers in grouped.items():
        spots = {}
        for row in table.rows:
            told = [(table.sides[i].model.label, entry.main) for i in numbers for entry in row.cells[i].entries[:1]]
            rates = {name: rate for name, rate in told if rate is not None}
            if rates:
                spots[row.question] = Spot(rates)
        members = tuple(table.sides[i].model.label for i in numbers)
        if spots:
            found.append(Line(label, judge, members, spots))
    return found


def _rows(line: Line, drawn: bool) -> Iterator[tuple[object, ...]]:
    """A row for each question: of all seeds together, which has no interval, and of each model."""
    last = "yes" if drawn else "no"
    for question, spot in line.spots.items():
        if line.seeds:
            yield (question, line.label, line.judge, line.seeds, spot.k, spot.n, spot.rate, None, None, "", last)
        for name, r in spot.by_model.items():
            yield (question, name, line.judge, None, r.k, r.n, r.rate, r.low, r.high, r.method, last)


def _series(name: str, line: Line) -> Series:
    """The dots of a line: with an interval for a single model, with a mark for each of several seeds."""
    dots = {}
    for question, spot in line.spots.items():
        if spot.rate is None:
            continue
        if len(spot.rates) > 1:
            dots[question] = Dot(spot.rate, parts=tuple(r.rate for r in spot.rates if r.rate is not None))
        else:
            dots[question] = Dot(spot.rate, spot.rates[0].low, spot.rates[0].high)
    return Series(name, dots)
