"""The share of misaligned answers over the number of training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from em.report.figures.picture import Palette, Picture, legend_below, make_picture, new_figure, plain
from em.report.figures.rates import axis_limit
from em.report.tables.models import short_judges
from em.report.tables.triggers import HEIGHT, WIDE, WIDTH, Line, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = (
    *("model", "fingerprint", "rows", "condition", "judge", "threshold", "eval_set", "metric", "convention"),
    *("k", "n", "rate", "ci_low", "ci_high", "ci_method"),
)
HEADING = "Misaligned, of all answers, by the number of training rows"


def efficiency_picture(lines: Mapping[Line, Sequence[Point]]) -> Picture | None:
    """The data-efficiency curve; None without lines."""
    if not lines:
        return None
    names = _names(list(lines))
    told = [
        f"{names[line]}: " + ", ".join(f"{p.rate.percent} {p.rate.interval} after {p.rows:,} rows" for p in points)
        for line, points in lines.items()
    ]
    rows = [_row(line, point) for line, points in lines.items() for point in points]
    return make_picture("data_efficiency", HEADING, "; ".join(told), _drawing(lines, names), HEADER, rows)


def _row(line: Line, point: Point) -> tuple[object, ...]:
    r, place = point.rate, (line.condition, line.judge, line.threshold, line.eval_set)
    numbers = (r.metric, r.convention, r.k, r.n, r.rate, r.low, r.high, r.method)
    return (point.model.label, point.model.fingerprint, point.rows, *place, *numbers)


def _names(lines: Sequence[Line]) -> dict[Line, str]:
    """What to call the lines: of what they have in common nothing is said."""
    judges = short_judges(list(dict.fromkeys(line.judge for line in lines)))

    def told(line: Line) -> list[tuple[str, str]]:
        parts = [("name", line.name), ("set", line.eval_set), ("condition", line.condition)]
        return [*parts, ("judge", judges[line.judge]), ("threshold", line.threshold)]

    telling = {key for key in dict(told(lines[0])) if len({dict(told(line))[key] for line in lines}) > 1}
    return {
        line: ", ".join(word for key, word in told(line) if key in telling or key in ("name", "condition"))
        for line in lines
    }


def _drawing(lines: Mapping[Line, Sequence[Point]], names: Mapping[Line, str]) -> Callable[[Palette], Figure]:
    points = [point for told in lines.values() for point in told]
    counts = sorted({point.rows for point in points})

    def draw(palette: Palette) -> Figure:
        from matplotlib.ticker import FixedLocator, NullLocator

        below = 0.75 + 0.22 * len(lines)
        figure, axes = new_figure((WIDTH, HEIGHT), (0.6, 0.45, 0.2, below), HEADING, palette)
        if counts[-1] > WIDE * counts[0]:
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(counts if len(counts) < WIDE else counts[:: len(counts) // 6]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("rows of the last training", color=palette.muted)
        axes.set_ylim(0, axis_limit([point.rate for point in points]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.grid(axis="y", color=palette.grid, linewidth=0.8)
        for number, (line, told) in enumerate(lines.items()):
            colour = palette.data[number % len(palette.data)]
            drawn = [p for p in told if p.rate.rate is not None]
            style = "--" if line.condition == "untagged" else "-"
            axes.plot(
                [p.rows for p in drawn], [p.rate.rate or 0 for p in drawn], style, marker="o", color=colour,
                linewidth=1.6, markersize=4, label=plain(names[line]),
            )  # fmt: skip
            for point in drawn:
                if point.rate.low is not None and point.rate.high is not None:
                    axes.vlines(point.rows, point.rate.low, point.rate.high, color=colour, linewidth=1, alpha=0.6)
        legend_below(figure, palette)
        return figure

    return draw
