"""Rates as dots with their intervals, a band for each thing asked and a colour for each that was asked it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from em.report.figures.picture import (
    NOTE,
    Palette,
    add_axes,
    blank_figure,
    legend_below,
    plain,
    put_heading,
    short_title,
)
from em.report.figures.rates import axis_end

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, LEFT, FOOT, TOP = 4.6, 1.9, 0.45, 0.5  # inches
LINE = 0.13
MARKS = ("o", "D", "s", "^", "v", "P")


@dataclass(frozen=True)
class Dot:
    """A rate with its interval, if it has one, and the rates that it is made of, if there are several."""

    rate: float
    low: float | None = None
    high: float | None = None
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Series:
    """What has one colour and one mark: its name and its dots by band."""

    name: str
    dots: dict[str, Dot]


def dot_plot(
    heading: str, bands: Sequence[str], series: Sequence[Series], note: str = ""
) -> Callable[[Palette], Figure]:
    """A drawing of these dots: bands from top to bottom, series in their order; the note stands below the heading."""
    band = 0.1 + LINE * len(series)
    high, foot = max(band * len(bands), 0.4), FOOT + 0.22 * len(series)
    width, height = LEFT + WIDE + 0.2, high + TOP + foot + (NOTE if note else 0.0)
    highest = max(
        (value for each in series for dot in each.dots.values() for value in (dot.rate, dot.high or 0.0, *dot.parts)),
        default=0.0,
    )
    limit = axis_end(highest)

    def draw(palette: Palette) -> Figure:
        figure = blank_figure(width, height)
        axes = add_axes(figure, (LEFT, foot, WIDE, high), palette)
        put_heading(figure, heading, note, palette)
        axes.set_ylim(high, 0)
        axes.set_xlim(-0.01 * limit, limit)  # so that dots at zero are whole
        axes.set_yticks([band * (i + 0.5) for i in range(len(bands))])
        axes.set_yticklabels([short_title(name) for name in bands], color=palette.ink, fontsize=8.5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.grid(axis="x", color=palette.grid, linewidth=0.8)
        for number, each in enumerate(series):
            colour = palette.data[number % len(palette.data)]
            places = [(band * i + 0.05 + LINE * (number + 0.5), each.dots.get(name)) for i, name in enumerate(bands)]
            drawn = [(y, dot) for y, dot in places if dot is not None]
            axes.plot([dot.rate for _, dot in drawn], [y for y, _ in drawn], MARKS[number % len(MARKS)], color=colour,
                      markersize=4, label=plain(each.name))  # fmt: skip
            for y, dot in drawn:
                axes.plot(dot.parts, [y] * len(dot.parts), "|", color=colour, markersize=5, alpha=0.8)
                if dot.low is not None and dot.high is not None:
                    axes.plot([dot.low, dot.high], [y, y], color=colour, linewidth=1, alpha=0.7)
        legend_below(figure, palette)
        return figure

    return draw
