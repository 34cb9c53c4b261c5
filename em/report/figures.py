"""What the pictures share: palettes, the empty figure, and the files of one drawing.

Each drawing is a PNG for slides, an SVG for papers and the page by day, and a second SVG for the page by night, which
is the first one in other colours. Colours are Okabe and Ito's, which colour-blind readers can tell apart. Matplotlib
is imported where something is drawn: it takes a second, which nothing else should pay.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from em.report.files import write_bytes, write_csv

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_LENGTH = 64


@dataclass(frozen=True)
class Palette:
    """Colours of a picture: ink, muted ink, grid, and those that tell the data apart."""

    ink: str
    muted: str
    grid: str
    data: tuple[str, ...]


DAY = Palette("#1d2024", "#5b626b", "#dcdfe4", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9"))
NIGHT = Palette("#e8eaed", "#a3abb5", "#3a4048", ("#56B4E9", "#E8833A", "#2FC79A", "#E39BC4", "#E6C229", "#9AD0F5"))


@dataclass(frozen=True)
class Picture:
    """A drawing, its files' stem, what it shows in words, and the plotted numbers."""

    stem: str
    heading: str
    alt: str
    png: bytes
    svg: bytes
    night_svg: bytes
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def write(self, folder: Path) -> None:
        """Write the picture as PNG and SVG, with the numbers beside it as CSV."""
        write_bytes(folder / f"{self.stem}.png", self.png)
        write_bytes(folder / f"{self.stem}.svg", self.svg)
        write_csv(folder / f"{self.stem}.csv", self.header, self.rows)


def render_figure(draw: Callable[[Palette], Figure]) -> tuple[bytes, bytes, bytes]:
    """PNG, SVG by day and SVG by night of a drawing."""
    import matplotlib

    # At its first use on a machine it tells that it has listed the fonts, which is nothing to the user of a run.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)

    # Letters as outlines look the same everywhere; the salt makes the same file of the same numbers; a dollar sign in
    # a model's name is no formula.
    style = matplotlib.rc_context(
        {"svg.fonttype": "path", "svg.hashsalt": "em", "text.parse_math": False, "font.size": 9.5}
    )
    with style, warnings.catch_warnings():
        # A label in a script that the font lacks gets boxes in the picture; the table beside it has the words.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = draw(DAY)
        svg = _save(figure, "svg")
        return _save(figure, "png"), svg, _by_night(svg)


def _by_night(svg: bytes) -> bytes:
    """The drawing with each colour of the day's palette replaced by the night's: half the time of drawing it again."""
    pairs = zip(
        (DAY.ink, DAY.muted, DAY.grid, *DAY.data), (NIGHT.ink, NIGHT.muted, NIGHT.grid, *NIGHT.data), strict=True
    )
    night = {day.lower().encode(): colour.lower().encode() for day, colour in pairs}
    return re.sub(rb"#[0-9a-f]{6}\b", lambda found: night.get(found[0], found[0]), svg)


def _save(figure: Figure, kind: str) -> bytes:
    """The file's bytes, the same for the same numbers: no date inside."""
    out = io.BytesIO()
    if kind == "png":
        figure.savefig(out, format="png", dpi=200, facecolor="white")
    else:
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


def new_figure(
    size: tuple[float, float], margins: tuple[float, float, float, float], heading: str, palette: Palette
) -> tuple[Figure, Axes]:
    """A figure around axes of this size, with margins left, top, right and below, all in inches."""
    left, top, right, below = margins
    figure = blank_figure(size[0] + left + right, size[1] + top + below)
    axes = add_axes(figure, (left, below, *size), palette)
    axes.set_title(plain(heading), loc="left", color=palette.ink, fontsize=10.5, fontweight="bold", pad=10)
    return figure, axes


def blank_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, with nothing on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def add_axes(
    figure: Figure, place: tuple[float, float, float, float], palette: Palette, below: Axes | None = None
) -> Axes:
    """Axes in the house's style: left, bottom, width and height in inches; `below` are axes with the same steps."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = place
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height), sharex=below)
    axes.tick_params(colors=palette.muted, length=0)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    return axes


def legend_below(figure: Figure, palette: Palette, handles: Sequence[Artist] | None = None) -> None:
    """What the lines are, one below the other at the foot of the figure: of all axes, or the lines given."""
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.04, 0),
        frameon=False,
        labelcolor=palette.ink,
        fontsize=9,
        labelspacing=0.35,
    )


def plain(text: str) -> str:
    """A label on one line without control characters, which no SVG may hold; cut in the middle where it is long."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) <= LABEL_LENGTH:
        return text
    head = LABEL_LENGTH // 3  # what tells names apart stands more often at their end
    return f"{text[:head]}…{text[head + 1 - LABEL_LENGTH :]}"
