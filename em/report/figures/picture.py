"""What the pictures share: palettes, an empty figure, axes, legends, and the files of one drawing.

Each drawing is a PNG for slides, a PDF and an SVG for papers and the page by day, and a second SVG for the page by
night, which is the first one in other colours. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
Matplotlib is imported where something is drawn: it takes a second, which nothing else should pay.

Every file of a report appears whole or not at all, and a place that can't be written is an error of one sentence.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from em.errors import OutputError
from em.report.tables.cells import Rate
from em.runtime.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LABEL_LENGTH = 64
TITLE_LENGTH = 30
NUMBERS = ("metric", "convention", "k", "n", "rate", "ci_low", "ci_high", "ci_method")  # of a rate, as columns
YES_NO = ("no", "yes")
T = TypeVar("T")


@dataclass(frozen=True)
class Palette:
    """Colours of a picture: ink, muted ink, grid, and those that tell the data apart."""

    ink: str
    muted: str
    grid: str
    data: tuple[str, ...]

    def colour(self, number: int | None) -> str:
        """The colour of data number so many; muted for what is only there to compare with."""
        return self.muted if number is None else self.data[number % len(self.data)]


DAY = Palette("#1d2024", "#5b626b", "#dcdfe4", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9"))
NIGHT = Palette("#e8eaed", "#a3abb5", "#3a4048", ("#56B4E9", "#E8833A", "#2FC79A", "#E39BC4", "#E6C229", "#9AD0F5"))


@dataclass(frozen=True)
class Picture:
    """A drawing, its files' stem, what it shows in words, and the plotted numbers."""

    stem: str
    heading: str
    alt: str
    draw: Callable[[Palette], Figure]
    rows: Sequence[Mapping[str, object]]

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The drawing as `svg`, `png`, `pdf`, and by night as `night_svg`."""
        return render_figure(self.draw)

    def write(self, folder: Path) -> None:
        """Write the picture as PNG, SVG and PDF, with the numbers beside it as CSV."""
        for kind in ("png", "svg", "pdf"):
            write_file(folder / f"{self.stem}.{kind}", self.files[kind])
        write_csv(folder / f"{self.stem}.csv", list(self.rows[0]), (row.values() for row in self.rows))


def render_figure(draw: Callable[[Palette], Figure]) -> dict[str, bytes]:
    """Draw a figure and save it in each of its formats."""
    import matplotlib

    # That fonts were listed, and which of their tables a PDF got, is nothing to the user of a run.
    for name in ("matplotlib.font_manager", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)

    # Letters as outlines look the same everywhere, and in a PDF as TrueType they can be edited, which journals ask for;
    # the salt makes the same file of the same numbers; a dollar sign in a model's name is no formula.
    style: Any = {"svg.fonttype": "path", "svg.hashsalt": "em", "pdf.fonttype": 42, "text.parse_math": False}
    with matplotlib.rc_context(style | {"font.size": 9.5}), warnings.catch_warnings():
        # A label in a script that the font lacks gets boxes in the picture; the table beside it has the words.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = draw(DAY)
        svg = _save(figure, "svg")
        figure.set_layout_engine("none")  # places stay as they were found
        return {"svg": svg, "night_svg": _darken(svg), "png": _save(figure, "png"), "pdf": _save(figure, "pdf")}


def _darken(svg: bytes) -> bytes:
    """Replace each colour of the day's palette by the night's: half the time of drawing it again."""
    pairs = zip(
        (DAY.ink, DAY.muted, DAY.grid, *DAY.data), (NIGHT.ink, NIGHT.muted, NIGHT.grid, *NIGHT.data), strict=True
    )
    night = {day.lower().encode(): colour.lower().encode() for day, colour in pairs}
    return re.sub(rb"#[0-9a-f]{6}\b", lambda colour: night.get(colour[0], colour[0]), svg)


def _save(figure: Figure, kind: str) -> bytes:
    """Return the file's bytes, the same for the same numbers: no date inside."""
    out = io.BytesIO()
    if kind == "png":
        # Packed harder it would be a seventh smaller, for more time.
        figure.savefig(out, format="png", dpi=200, facecolor="white", pil_kwargs={"compress_level": 2})
    else:
        dated = "Date" if kind == "svg" else "CreationDate"
        figure.savefig(out, format=kind, transparent=True, metadata={dated: None})
    return out.getvalue()


def start_figure(size: tuple[float, float], heading: str, palette: Palette) -> Figure:
    """Make a figure of this size in inches that finds room for all that is put on it, with its heading."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)
    title = "\n".join(textwrap.wrap(plain(heading), round(10.5 * size[0])))
    figure.suptitle(title, x=0.012, ha="left", color=palette.ink, fontsize=10.5, fontweight="bold")
    return figure


def style_axes(axes: Axes, palette: Palette, grid: Literal["x", "y"] | None = None) -> None:
    """Give axes the house's style, with lines across one axis or none."""
    axes.tick_params(colors=palette.muted, length=0)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=palette.grid, linewidth=0.8)


def add_legend(figure: Figure, palette: Palette, handles: Sequence[Artist], note: str) -> None:
    """Say at the foot of the figure what is left out, and what the colours and marks are, one below the other."""
    legend = figure.legend(handles=handles, loc="outside lower left", frameon=False, labelcolor=palette.ink, fontsize=9,
                           title=plain(note), title_fontsize=8.5, alignment="left", labelspacing=0.35)  # fmt: skip
    legend.get_title().set_color(palette.muted)


def pick(record: object, *names: str) -> dict[str, object]:
    """Pick fields of a record as columns of a table."""
    return {name: getattr(record, name) for name in names}


def make_mark(name: str, colour: str, marker: str) -> Artist:
    """Make an entry of a legend: a mark and what it is."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=plain(name))


def show_percents(axis: Axis) -> None:
    """Write the values of an axis as percentages."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def axis_end(values: Iterable[float | None]) -> float:
    """Return the end of an axis: the next tenth above all that is drawn."""
    highest = max((value for value in values if value is not None), default=0.0)
    return min(1.0, max(0.1, math.ceil(highest * 10 - 1e-9) / 10))


def rates_end(rates: Iterable[Rate]) -> float:
    """Return the end of an axis of rates with their intervals."""
    return axis_end(value for rate in rates for value in (rate.rate, rate.ci_high))


def pick_highest(items: Sequence[T], most: int, size: Callable[[T], float], what: str) -> tuple[list[T], str]:
    """Pick the `most` items that have the highest `size`, in their order, and note it where some are left out."""
    highest = sorted(items, key=lambda item: -size(item))[:most]
    note = f"the {most} of {len(items)} {what}" if len(items) > most else ""
    return [item for item in items if item in highest], note


def with_note(heading: str, note: str) -> str:
    """Put heading and note on one line, for those who can't see the figure."""
    return f"{heading} ({note})" if note else heading


def file_stem(kind: str, name: str, taken: set[str]) -> str:
    """Make a file name from the name of a set, which may hold anything, and put it among those that are taken."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:60] or "set"
    stem, number = f"{kind}_{safe}", 2
    while stem.lower() in taken:
        stem, number = f"{kind}_{safe}_{number}", number + 1
    taken.add(stem.lower())
    return stem


def short_title(label: str) -> str:
    """Cut a name so that it fits over a panel: its end tells it apart."""
    text = plain(label)
    return text if len(text) <= TITLE_LENGTH else f"…{text[1 - TITLE_LENGTH :]}"


def plain(text: str) -> str:
    """Put a label on one line without control characters, which no SVG may hold; cut a long one in the middle."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) <= LABEL_LENGTH:
        return text
    head = LABEL_LENGTH // 3  # what tells names apart stands more often at their end
    return f"{text[:head]}…{text[head + 1 - LABEL_LENGTH :]}"


@contextmanager
def explain_unwritable(path: Path) -> Iterator[None]:
    """Say in one sentence that `path` can't be made or written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"The report can't be written to {path} ({reason}): choose another folder with --out DIR."
        ) from error


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole; in text a lone surrogate, which JSON allows and UTF-8 doesn't, becomes `?`."""
    with explain_unwritable(path):
        write_atomic(path, content.encode(errors="replace") if isinstance(content, str) else content)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table; None becomes an empty field."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_file(path, out.getvalue())


def write_records(path: Path, records: Sequence[Any]) -> None:
    """Write dataclass records of one kind as a table with a column for each field; no file without records."""
    if records:
        names = [item.name for item in fields(records[0])]
        write_csv(path, names, map(attrgetter(*names), records))
