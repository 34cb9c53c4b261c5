"""What the pictures share: palettes, the empty figure, and the files of one drawing.

Each drawing is a PNG for slides, a PDF and an SVG for papers and the page by day, and a second SVG for the page by
night, which is the first one in other colours. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
Matplotlib is imported where something is drawn: it takes a second, which nothing else should pay.

Every file of a report appears whole or not at all, and a place that can't be written is an error of one sentence.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.errors import OutputError
from em.runtime.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_LENGTH = 64
TITLE_LENGTH = 30
NOTE = 0.2  # inches for a note below a heading


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
    pdf: bytes
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def write(self, folder: Path) -> None:
        """Write the picture as PNG, SVG and PDF, with the numbers beside it as CSV."""
        for kind, content in (("png", self.png), ("svg", self.svg), ("pdf", self.pdf)):
            write_bytes(folder / f"{self.stem}.{kind}", content)
        write_csv(folder / f"{self.stem}.csv", self.header, self.rows)


def make_picture(
    stem: str,
    heading: str,
    alt: str,
    draw: Callable[[Palette], Figure],
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
) -> Picture:
    """A drawing in all its files, with the numbers that it shows."""
    return Picture(stem, heading, alt, *render_figure(draw), header, rows)


def render_figure(draw: Callable[[Palette], Figure]) -> tuple[bytes, bytes, bytes, bytes]:
    """PNG, SVG by day, SVG by night and PDF of a drawing."""
    import matplotlib

    # That fonts were listed, and which of their tables a PDF got, is nothing to the user of a run.
    for name in ("matplotlib.font_manager", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)

    # Letters as outlines look the same everywhere, and in a PDF as TrueType they can be edited, which journals ask for;
    # the salt makes the same file of the same numbers; a dollar sign in a model's name is no formula.
    style = matplotlib.rc_context(
        {
            **{"svg.fonttype": "path", "svg.hashsalt": "em"},
            **{"pdf.fonttype": 42, "text.parse_math": False, "font.size": 9.5},
        }
    )
    with style, warnings.catch_warnings():
        # A label in a script that the font lacks gets boxes in the picture; the table beside it has the words.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = draw(DAY)
        svg = _save(figure, "svg")
        return _save(figure, "png"), svg, _by_night(svg), _save(figure, "pdf")


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
        # Packed harder it would be a seventh smaller, for more time.
        figure.savefig(out, format="png", dpi=200, facecolor="white", pil_kwargs={"compress_level": 2})
    else:
        dated = "Date" if kind == "svg" else "CreationDate"
        figure.savefig(out, format=kind, transparent=True, metadata={dated: None})
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


def with_note(heading: str, note: str) -> str:
    """A heading for those who can't see the figure."""
    return f"{heading} ({note})" if note else heading


def put_heading(figure: Figure, heading: str, note: str, palette: Palette) -> None:
    """What a figure without a single title shows, and below it what it leaves out (NOTE inches more at the top)."""
    width, height = figure.get_size_inches()
    left = 0.1 / width
    figure.text(left, 1 - 0.22 / height, plain(heading), color=palette.ink, fontsize=10.5, fontweight="bold",
                va="center")  # fmt: skip
    if note:
        figure.text(left, 1 - 0.42 / height, plain(note), color=palette.muted, fontsize=8.5, va="center")


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


def file_stem(kind: str, name: str, taken: set[str]) -> str:
    """A file name from the name of a set, which may hold anything; put among those that are taken."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:60] or "set"
    stem, number = f"{kind}_{safe}", 2
    while stem.lower() in taken:
        stem, number = f"{kind}_{safe}_{number}", number + 1
    taken.add(stem.lower())
    return stem


def short_title(label: str) -> str:
    """A name that fits over a panel: its end tells it apart."""
    text = plain(label)
    return text if len(text) <= TITLE_LENGTH else f"…{text[1 - TITLE_LENGTH :]}"


def plain(text: str) -> str:
    """A label on one line without control characters, which no SVG may hold; cut in the middle where it is long."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) <= LABEL_LENGTH:
        return text
    head = LABEL_LENGTH // 3  # what tells names apart stands more often at their end
    return f"{text[:head]}…{text[head + 1 - LABEL_LENGTH :]}"


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; OutputError where that isn't possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    try:
        write_atomic(path, content)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. A lone surrogate, which JSON allows and UTF-8 doesn't, becomes `?`."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; None becomes an empty field."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, out.getvalue())


def write_records(path: Path, kind: type[Any], records: Sequence[Any]) -> None:
    """Write dataclass records of one kind as a table with a column for each field; no file without records."""
    names = [item.name for item in fields(kind)]
    if records:
        write_csv(path, names, map(attrgetter(*names), records))


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"The report can't be written to {path} ({reason}): choose another folder with --out DIR.")
