"""The trajectories as pictures: for each stage the rates above its training loss, over the same optimiser steps."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from math import nan
from operator import sub
from typing import TYPE_CHECKING

from em.report.figures.loss import DASHES, draw_loss, first_last
from em.report.figures.picture import Palette, Picture, add_axes, blank_figure, legend_below, make_picture, plain
from em.report.figures.rates import axis_limit
from em.report.tables.cells import Rate
from em.report.tables.trajectory import Line, Point, Trajectory, lines_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADER = (
    *("model", "stage_fingerprint", "step", "fingerprint", "condition", "judge", "threshold", "eval_set", "metric"),
    *("convention", "k", "n", "rate", "ci_low", "ci_high", "ci_method", "loss"),
)
HEADING = "Misaligned, of all answers, and loss by optimiser step"
PER_PICTURE = 4
WIDTH, COLUMN_GAP = 7.0, 0.45  # inches, as are the heights
TITLE_LINE, BETWEEN, LOSS, STEPS = 0.16, 0.16, 0.8, 0.5
LEFT, TOP, RIGHT = 0.62, 0.4, 0.15
FEW_STEPS = 8  # up to so many scored steps, if they aren't crowded, are ticks and have whiskers; more have a band


def trajectory_pictures(trajectories: Sequence[Trajectory]) -> list[Picture]:
    """All stages, so many to a picture that each can be read. Rates have one scale in all, and a line its colour."""
    names = lines_of(trajectories)
    drawn = [p.rate for t in trajectories for points in t.lines.values() for p in points]
    parts = [trajectories[i : i + PER_PICTURE] for i in range(0, len(trajectories), PER_PICTURE)]
    return [_picture(number, part, names, axis_limit(drawn)) for number, part in enumerate(parts, 1)]


def _picture(number: int, part: Sequence[Trajectory], names: dict[Line, str], limit: float) -> Picture:
    stem = "trajectory" if number == 1 else f"trajectory_{number}"
    alt = "; ".join(text for trajectory in part for text in _told(trajectory, names))
    rows = [row for t in part for row in _rows(t)]
    return make_picture(stem, HEADING, alt, _drawing(part, names, limit), HEADER, rows)


def _told(trajectory: Trajectory, names: dict[Line, str]) -> Iterator[str]:
    for line, points in trajectory.lines.items():
        rates = ", ".join(f"{p.rate.percent} {p.rate.interval} at step {p.step}" for p in points)
        yield f"{trajectory.model.label}, {names[line]}: {rates}"
    if trajectory.curve:
        yield f"its loss: {first_last(trajectory.curve)}"


def _rows(trajectory: Trajectory) -> Iterator[tuple[object, ...]]:
    model = trajectory.model
    for line, points in trajectory.lines.items():
        for point in points:
            yield (model.label, model.fingerprint, *_row(line, point))


def _row(line: Line, point: Point) -> tuple[object, ...]:
    r = point.rate
    place = (point.step, point.model.fingerprint, line.condition, line.judge, line.threshold, line.eval_set)
    return (*place, r.metric, r.convention, r.k, r.n, r.rate, r.low, r.high, r.method, point.loss)


def _drawing(part: Sequence[Trajectory], names: dict[Line, str], limit: float) -> Callable[[Palette], Figure]:
    """Pairs of panels in one column, or in two where there are several stages."""
    columns = min(2, len(part))
    shown = [line for line in names if any(line in trajectory.lines for trajectory in part)]
    wide, high = (WIDTH - (columns - 1) * COLUMN_GAP) / columns, 2.1 if columns == 1 else 1.5
    titles = [textwrap.wrap(plain(trajectory.model.label), round(13 * wide)) for trajectory in part]
    pair = TITLE_LINE * (1 + max(map(len, titles))) + high + BETWEEN + LOSS + STEPS
    height = TOP + pair * -(-len(part) // columns) + 0.1 + 0.2 * len(shown)

    def draw(palette: Palette) -> Figure:
        figure = blank_figure(LEFT + WIDTH + RIGHT, height)
        top = 1 - 0.12 / height
        figure.text(0.012, top, HEADING, color=palette.ink, fontsize=10.5, fontweight="bold", va="top")
        marks: dict[Line, Artist] = {}
        for place, trajectory in enumerate(part):
            row, column = divmod(place, columns)
            left, bottom = LEFT + column * (wide + COLUMN_GAP), height - TOP - pair * (row + 1) + STEPS
            loss = add_axes(figure, (left, bottom, wide, LOSS), palette)
            rates = add_axes(figure, (left, bottom + LOSS + BETWEEN, wide, high), palette, below=loss)
            rates.set_title("\n".join(titles[place]), loc="left", color=palette.ink, fontsize=9, pad=6)
            marks |= _draw_rates(rates, trajectory, list(names), limit, palette)
            _draw_loss_panel(loss, trajectory, palette)
            if column == 0:
                rates.set_ylabel("misaligned", color=palette.muted)
                loss.set_ylabel("loss", color=palette.muted)
            figure.align_ylabels([rates, loss])
        for line, mark in marks.items():
            mark.set_label(plain(names[line]))
        legend_below(figure, palette, [marks[line] for line in shown])
        return figure

    return draw


def _draw_rates(
    axes: Axes, trajectory: Trajectory, order: Sequence[Line], limit: float, palette: Palette
) -> dict[Line, Artist]:
    """A colour for each set (as a judge sees it), dashes for its conditions; the artists by line."""
    crowded = _crowded(trajectory)
    # Lines stand a little beside each other, so that no whisker hides another.
    apart = 0.0 if crowded else 0.012 * max(step for step, _ in trajectory.steps)
    kinds = list(dict.fromkeys((line.eval_set, line.judge, line.threshold) for line in order))
    conditions = list(dict.fromkeys(line.condition for line in order))
    marks: dict[Line, Artist] = {}
    for number, (line, points) in enumerate(trajectory.lines.items()):
        shift = (number - (len(trajectory.lines) - 1) / 2) * apart
        colour = palette.data[kinds.index((line.eval_set, line.judge, line.threshold)) % len(palette.data)]
        dashes = DASHES[conditions.index(line.condition) % len(DASHES)]
        at = [point.step + shift for point in points]
        rates = [nan if point.rate.rate is None else point.rate.rate for point in points]
        (marks[line],) = axes.plot(at, rates, color=colour, linestyle=dashes, marker="o", markersize=4, linewidth=1.5)
        _draw_intervals(axes, at, [point.rate for point in points], colour, crowded)
    axes.set_ylim(-0.05 * limit, limit)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.grid(color=palette.grid, linewidth=0.8)
    axes.tick_params(labelbottom=False)
    return marks


def _crowded(trajectory: Trajectory) -> bool:
    """Whether the scored steps are too many, or two of them too near each other, to give each its tick."""
    steps = [step for step, _ in trajectory.steps]
    return len(steps) > FEW_STEPS or min(map(sub, steps[1:], steps)) * 1.5 * FEW_STEPS < max(steps)


def _draw_intervals(axes: Axes, at: Sequence[float], rates: Sequence[Rate], colour: str, crowded: bool) -> None:
    """Whiskers, or a band where they would cover each other; nothing where there is no interval."""
    low = [nan if rate.low is None else rate.low for rate in rates]
    high = [nan if rate.high is None else rate.high for rate in rates]
    if crowded:
        axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    else:  # not by `errorbar`, which refuses a rate that rounding left a hair outside its interval
        axes.plot([at, at], [low, high], color=colour, linewidth=1, marker="_", markersize=5)


def _draw_loss_panel(axes: Axes, trajectory: Trajectory, palette: Palette) -> None:
    """The loss under the rates, and the steps of both."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    if trajectory.curve:
        draw_loss(axes, trajectory.curve, palette.muted)
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), 1.08 * high)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no loss was logged", color=palette.muted, ha="center", transform=axes.transAxes)
    axes.grid(color=palette.grid, linewidth=0.8)
    steps = [step for step, _ in trajectory.steps]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True) if _crowded(trajectory) else FixedLocator(steps))
    axes.set_xlabel("optimiser step", color=palette.muted)
