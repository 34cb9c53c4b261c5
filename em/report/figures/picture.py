"""Shared parts of the pictures: palettes, an empty figure, axes, legends, and the files of one drawing.

Each drawing is saved as PNG (slides), PDF (papers) and SVG (papers, and the page in light mode). Recolouring the SVG
gives the one for dark mode. The colours are Okabe and Ito's, which colour-blind readers can tell apart.
Functions that draw import matplotlib themselves: the import takes a second, which other commands should not pay.

Files of a report are written atomically, and a path that can't be written raises an OutputError of one sentence.
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
from em.report.tables.cells import TableRate
from em.runtime.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LABEL_LENGTH = 64
TITLE_LENGTH = 30
NUMBERS = ("metric", "convention", "k", "n", "rate", "ci_low", "ci_high", "ci_method")  # columns of a rate
YES_NO = ("no", "yes")
T = TypeVar("T")


@dataclass(frozen=True)
class Palette:
    """Colours of a picture: ink, muted ink, grid, and the colours of the data."""

    ink: str
    muted: str
    grid: str
    data: tuple[str, ...]

    def get_colour(self, number: int | None) -> str:
        """Return the colour of data series `number`; None (a series for comparison only) is muted."""
        return self.muted if number is None else self.data[number % len(self.data)]


DAY = Palette("#1d2024", "#5b626b", "#dcdfe4", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9"))
NIGHT = Palette("#e8eaed", "#a3abb5", "#3a4048", ("#56B4E9", "#E8833A", "#2FC79A", "#E39BC4", "#E6C229", "#9AD0F5"))


@dataclass(frozen=True)
class Picture:
    """A drawing, the stem of its files, its description in words, and the plotted numbers."""

    stem: str
    heading: str
    alt: str
    draw: Callable[[Palette], Figure]
    rows: Sequence[Mapping[str, object]]

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The drawing as `svg`, `png`, `pdf`, and for dark mode `night_svg`."""
        return render_figure(self.draw)

    def write_files(self, folder: Path) -> None:
        """Write the picture as PNG, SVG and PDF, and its numbers as CSV."""
        for kind in ("png", "svg", "pdf"):
            write_file(folder / f"{self.stem}.{kind}", self.files[kind])
        write_csv(folder / f"{self.stem}.csv", list(self.rows[0]), (row.values() for row in self.rows))


def render_figure(draw: Callable[[Palette], Figure]) -> dict[str, bytes]:
    """Draw a figure and save it in each of its formats."""
    import matplotlib

    # Log lines about fonts are of no use to a user of `em`.
    for name in ("matplotlib.font_manager", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)

    # In an SVG, letters as outlines look the same everywhere; in a PDF, TrueType (42) stays editable, as journals ask.
    # A fixed salt makes files reproducible. A dollar sign in a model's name must not start a formula.
    style: Any = {"svg.fonttype": "path", "svg.hashsalt": "em", "pdf.fonttype": 42, "text.parse_math": False}
    with matplotlib.rc_context(style | {"font.size": 9.5}), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the CSV has the text.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = draw(DAY)
        svg = _save_figure(figure, "svg")
        figure.set_layout_engine("none")  # keep the computed layout for all other formats
        return {
            "svg": svg,
            "night_svg": _replace_colours(svg),
            "png": _save_figure(figure, "png"),
            "pdf": _save_figure(figure, "pdf"),
        }


def _replace_colours(svg: bytes) -> bytes:
    """Replace each colour of the day palette by the night palette's, in half the time of drawing again."""
    pairs = zip(
        (DAY.ink, DAY.muted, DAY.grid, *DAY.data), (NIGHT.ink, NIGHT.muted, NIGHT.grid, *NIGHT.data), strict=True
    )
    night = {day.lower().encode(): colour.lower().encode() for day, colour in pairs}
    return re.sub(rb"#[0-9a-f]{6}\b", lambda colour: night.get(colour[0], colour[0]), svg)


def _save_figure(figure: Figure, kind: str) -> bytes:
    """Return the figure as a file's bytes, without a date, so that the same numbers give the same bytes."""
    out = io.BytesIO()
    if kind == "png":
        # A higher level would make the file a seventh smaller, but takes longer.
        figure.savefig(out, format="png", dpi=200, facecolor="white", pil_kwargs={"compress_level": 2})
    else:
        date_key = "Date" if kind == "svg" else "CreationDate"
        figure.savefig(out, format=kind, transparent=True, metadata={date_key: None})
    return out.getvalue()


def start_figure(size: tuple[float, float], heading: str, palette: Palette) -> Figure:
    """Make a figure of this size (inches) with its heading; its layout engine makes room for all artists."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)
    title = "\n".join(textwrap.wrap(clean_label(heading), round(10.5 * size[0])))
    figure.suptitle(title, x=0.012, ha="left", color=palette.ink, fontsize=10.5, fontweight="bold")
    return figure


def style_axes(axes: Axes, palette: Palette, grid: Literal["x", "y"] | None = None) -> None:
    """Apply the common style to axes, with grid lines along one axis or none."""
    axes.tick_params(colors=palette.muted, length=0)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=palette.grid, linewidth=0.8)


def add_legend(figure: Figure, palette: Palette, handles: Sequence[Artist], note: str) -> None:
    """Add a legend at the foot of the figure: the lines of the note, then one line per colour or mark."""
    title = "\n".join(map(clean_label, note.splitlines()))
    legend = figure.legend(handles=handles, loc="outside lower left", frameon=False, labelcolor=palette.ink,
                           fontsize=9, title=title, title_fontsize=8.5, alignment="left",
                           labelspacing=0.35)  # fmt: skip
    legend.get_title().set_color(palette.muted)


def pick_fields(record: object, *names: str) -> dict[str, object]:
    """Pick fields of a record as columns of a table."""
    return {name: getattr(record, name) for name in names}


def make_legend_mark(name: str, colour: str, marker: str) -> Artist:
    """Make a legend entry: a mark and its name."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=clean_label(name))


def show_percents(axis: Axis) -> None:
    """Write the values of an axis as percentages."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def find_axis_end(values: Iterable[float | None]) -> float:
    """Return the end of an axis: the next tenth above all values."""
    highest = max((value for value in values if value is not None), default=0.0)
    return min(1.0, max(0.1, math.ceil(highest * 10 - 1e-9) / 10))


def find_rates_end(rates: Iterable[TableRate]) -> float:
    """Return the end of an axis of rates with their intervals."""
    return find_axis_end(value for rate in rates for value in (rate.rate, rate.ci_high))


def pick_highest(items: Sequence[T], most: int, size: Callable[[T], float], kind: str) -> tuple[list[T], str]:
    """Return the `most` items of highest `size` in their given order, and a note if some are left out."""
    highest = sorted(items, key=lambda item: -size(item))[:most]
    note = f"the {most} of {len(items)} {kind}" if len(items) > most else ""
    return [item for item in items if item in highest], note


def append_note(heading: str, note: str) -> str:
    """Put heading and note on one line, for readers who can't see the figure."""
    return f"{heading} ({note})" if note else heading


def make_file_stem(kind: str, name: str, taken: set[str]) -> str:
    """Make a unique file stem from the name of a set, which may hold any character, and add it to `taken`."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:60] or "set"
    stem, number = f"{kind}_{safe}", 2
    while stem.lower() in taken:
        stem, number = f"{kind}_{safe}_{number}", number + 1
    taken.add(stem.lower())
    return stem


def shorten_title(label: str) -> str:
    """Cut a name to fit above a panel. Its end is kept, since names differ mostly at the end."""
    text = clean_label(label)
    return text if len(text) <= TITLE_LENGTH else f"…{text[1 - TITLE_LENGTH :]}"


def clean_label(text: str) -> str:
    """Replace control characters and line breaks, which SVG forbids, by spaces; cut a long label in the middle."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) <= LABEL_LENGTH:
        return text
    head = LABEL_LENGTH // 3  # the larger part is kept of the end, where names differ more often
    return f"{text[:head]}…{text[head + 1 - LABEL_LENGTH :]}"


@contextmanager
def explain_unwritable(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that says in one sentence that `path` can't be made or written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"The report can't be written to {path} ({reason}): choose another folder with --out DIR."
        ) from error


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically. In text, a lone surrogate (allowed in JSON, not in UTF-8) becomes `?`."""
    with explain_unwritable(path):
        write_atomic(path, content.encode(errors="replace") if isinstance(content, str) else content)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write rows as a CSV file; None becomes an empty field."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_file(path, out.getvalue())


def write_records(path: Path, records: Sequence[Any]) -> None:
    """Write dataclass records of one kind as CSV, a column per field; write no file if there are none."""
    if records:
        names = [item.name for item in fields(records[0])]
        write_csv(path, names, map(attrgetter(*names), records))
