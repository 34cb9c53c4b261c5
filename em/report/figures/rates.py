"""The rates as bars with their intervals: one picture for each question set, several for a set with many models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from em.report.figures.picture import Palette, Picture, file_stem, make_picture, new_figure, plain
from em.report.tables.cells import Column, Rate, Table, kin_mark
from em.report.tables.seeds import Pool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADER = (
    *("model", "condition", "judge", "judge_is", "metric", "convention", "k", "n", "rate"),
    *("ci_low", "ci_high", "ci_method", "design_effect", "drawn"),
)
WIDTH, LABEL, BAR, GAP = 4.7, 0.25, 0.26, 0.13  # inches
MOST_BARS = 30  # of one picture
MOST_PARTS = 4  # of one set: what is left of more models than that is in the tables
ROOM_FOR_FIGURES = 1.52  # how much longer than the axis the picture is, so that numbers fit behind a long bar


@dataclass(frozen=True)
class Bar:
    """A bar; `colour` is the place of its condition, `note` what is written behind it, `judge_is` as in `Score`."""

    condition: str
    judge: str
    colour: int
    rate: Rate
    note: str
    judge_is: str


@dataclass(frozen=True)
class Group:
    """The bars of one model (as one judge sees it)."""

    label: str
    bars: tuple[Bar, ...]


def rate_pictures(table: Table, pools: Sequence[Pool]) -> list[Picture]:
    """Pictures of each set that has a headline metric; sets with the same metric share their scale.

    Of trainings that differ in the seed alone the pool is drawn. What isn't drawn is among the numbers all the same.
    """
    seeds = {member for pool in pools for member in pool.members}
    shown = Table(table.columns, tuple(row for row in table.rows if row.model.fingerprint not in seeds))
    aside = Table(table.columns, tuple(row for row in table.rows if row.model.fingerprint in seeds))
    by_set = {column: _groups(shown, i, table) for i, column in enumerate(table.columns) if column.metric}
    single = {column: _groups(aside, i, table) for i, column in enumerate(table.columns) if column.metric}
    taken: set[str] = set()
    pictures = []
    for column, groups in by_set.items():
        alike = [bar.rate for other in by_set if other.metric == column.metric for g in by_set[other] for bar in g.bars]
        limit = 1.0 if column.metric == "true" else axis_limit(alike)
        parts = _parts(groups)
        left = [*(group for part in parts[MOST_PARTS:] for group in part), *single[column]]
        first = 1
        for number, part in enumerate(parts[:MOST_PARTS]):
            stem = file_stem("rates", column.eval_set, taken)
            last = first + len(part) - 1
            some = f"{first} to {last} of {len(groups)}" if len(parts) > 1 else ""
            pictures.append(_picture(stem, column, part, limit, some, left if number == 0 else ()))
            first = last + 1
    return pictures


def _parts(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups in their order, so many to a part that it has no more than MOST_BARS bars, and parts alike in size."""
    bars = sum(len(group.bars) for group in groups)
    wanted = bars / max(1, math.ceil(bars / MOST_BARS))
    parts: list[list[Group]] = []
    for group in groups:
        drawn = sum(len(other.bars) for other in parts[-1]) if parts else 0
        if not parts or drawn >= wanted or drawn + len(group.bars) > MOST_BARS:
            parts.append([])
        parts[-1].append(group)
    return parts


def _picture(
    stem: str, column: Column, groups: Sequence[Group], limit: float, some: str, left: Sequence[Group]
) -> Picture:
    """A picture of some models; those that are `left` stand in its numbers alone."""
    heading = f"{column.eval_set}: {column.shown}, of all answers"
    bars = [(group, bar) for group in groups for bar in group.bars]
    alt = "; ".join(f"{g.label}, {bar.condition}: {bar.rate.percent} {bar.rate.interval}" for g, bar in bars)
    rows = [
        (group.label, bar.condition, bar.judge, bar.judge_is, *astuple(bar.rate), drawn)
        for some_groups, drawn in ((groups, "yes"), (left, "no"))
        for group in some_groups
        for bar in group.bars
    ]
    kin = {bar.judge_is: f"{kin_mark(bar.judge_is)} judged by {bar.judge_is}" for _, bar in bars if bar.judge_is}
    below = ", ".join([*([some] if some else []), *kin.values()])
    drawing = _drawing(groups, limit, heading, below)
    return make_picture(stem, f"{heading}{', ' if some else ''}{some}", alt, drawing, HEADER, rows)


def _groups(table: Table, index: int, whole: Table) -> list[Group]:
    """The bars of a set (column number `index`) by model, in the table's order; it is a part of a whole one."""
    several = len(whole.conditions) > 1
    bars: dict[str, list[Bar]] = {}
    for row in table.rows:
        # Of runs that differ in the number of answers alone, the fullest, which stands first.
        drawn = {entry.told: entry for entry in reversed(row.cells[index].entries)}
        for told, entry in reversed(drawn.items()):
            if entry.main is not None:
                colour, judge = whole.conditions.index(row.condition), whole.judge_of(row)
                label = f"{row.model.label}, judge {judge}" if judge else row.model.label
                note = ", ".join([*([row.condition] if several else []), *([told] if len(drawn) > 1 else [])])
                bar = Bar(row.condition, row.judge, colour, entry.main, note, row.judge_is)
                bars.setdefault(label, []).append(bar)
    return [Group(label, tuple(found)) for label, found in bars.items()]


def axis_limit(rates: Sequence[Rate]) -> float:
    """The end of the axis: the next tenth above all that is drawn."""
    return axis_end(max((v for rate in rates for v in (rate.rate, rate.high) if v is not None), default=0.0))


def axis_end(highest: float) -> float:
    """The next tenth above the highest value."""
    return min(1.0, max(0.1, math.ceil(highest * 10 - 1e-9) / 10))


def _drawing(groups: Sequence[Group], limit: float, heading: str, below: str) -> Callable[[Palette], Figure]:
    """Horizontal bars below their model's name: a name of any length fits, and the picture fits a phone.

    below: what is written under the axis.
    """
    height = sum(LABEL + BAR * len(group.bars) + GAP for group in groups)

    def draw(palette: Palette) -> Figure:
        from matplotlib.ticker import FixedLocator

        figure, axes = new_figure((WIDTH, height), (0.06, 0.4, 0.06, 0.5 if below else 0.3), heading, palette)
        axes.set_xlabel(plain(below), color=palette.muted, loc="left")
        axes.set_xlim(0, limit * ROOM_FOR_FIGURES)
        axes.set_ylim(height, 0)  # in inches, from the top
        axes.set_yticks([])
        step = 0.25 if limit > 0.8 else 0.2 if limit > 0.4 else 0.1 if limit > 0.2 else 0.05
        axes.xaxis.set_major_locator(FixedLocator([step * i for i in range(int(limit / step + 1e-9) + 1)]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        for label in axes.get_xticklabels()[:1]:
            label.set_horizontalalignment("left")
        axes.grid(axis="x", color=palette.grid, linewidth=0.8)
        top = 0.0
        for group in groups:
            axes.text(0, top + LABEL / 2, plain(group.label), color=palette.ink, va="center", fontsize=9)
            for number, bar in enumerate(group.bars):
                _draw_bar(axes, top + LABEL + BAR * (number + 0.5), bar, palette)
            top += LABEL + BAR * len(group.bars) + GAP
        axes.axvline(0, color=palette.muted, linewidth=1.2)
        return figure

    return draw


def _draw_bar(axes: Axes, middle: float, bar: Bar, palette: Palette) -> None:
    """Bar, whisker, numbers. Without an interval there is no whisker, without a rate no bar: never a zero."""
    rate = bar.rate
    end = max(rate.rate or 0.0, rate.high or 0.0)
    figures = "no answers" if rate.rate is None else f"{rate.percent}{kin_mark(bar.judge_is)}  {rate.k}/{rate.n}"
    if rate.rate is not None:
        axes.barh(middle, rate.rate, height=BAR * 0.74, color=palette.data[bar.colour % len(palette.data)], linewidth=0)
        if rate.low is not None and rate.high is not None:
            ends, half = [rate.low, rate.high], BAR * 0.2
            axes.plot(ends, [middle, middle], color=palette.ink, linewidth=1.3)
            axes.vlines(ends, middle - half, middle + half, color=palette.ink, linewidth=1.3)
    axes.annotate(
        f"{figures}  {bar.note}".rstrip(),
        (end, middle),
        xytext=(6, 0),
        textcoords="offset points",
        color=palette.muted,
        va="center_baseline",
        fontsize=8,
    )
