"""Where answers lie between alignment and coherence: a picture for each set, from the verdicts.

The quadrant chart is that of Betley et al. (arXiv 2502.17424): misaligned answers are in its upper left part. An answer
is counted by its own scores; only where its disc stands is rounded.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from em.report.figures.picture import (
    NOTE,
    Palette,
    Picture,
    add_axes,
    blank_figure,
    file_stem,
    make_picture,
    put_heading,
    short_title,
    with_note,
)
from em.report.page.numbers import share
from em.report.read.transcripts import Rules
from em.report.tables.models import Model, short_judges
from em.report.tables.seeds import Pool, Side
from em.stats import Thresholds
from em.types import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = 20  # answers are drawn as discs on a grid of so many steps, their area by how many there are
LEVELS = 8  # sizes of discs
MOST = 9  # panels of a picture: of more models, those with the largest share of misaligned answers
PANEL, GAP, LEFT, TOP, FOOT = 1.75, 0.72, 0.6, 0.75, 0.85  # inches
COLUMNS = 3
HEADER = (
    *("model", "fingerprint", "eval_set", "judge", "aligned", "coherent", "answers", "answers_misaligned", "drawn"),
)
Place = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """The answers of one model (or of its seeds together) to one set, by their places on the grid.

    counts: how many there are at each place (alignment, coherence, in steps). bad: how many of them are misaligned.
    """

    model: Model
    eval_set: str
    judge: str
    limits: Thresholds
    counts: Mapping[Place, int]
    bad: Mapping[Place, int]

    @property
    def misaligned(self) -> int:
        """How many answers are misaligned."""
        return sum(self.bad.values())

    @property
    def answers(self) -> int:
        """How many answers have both scores."""
        return sum(self.counts.values())

    @property
    def told(self) -> str:
        """`12.5%, 5/40`."""
        return f"{share(self.misaligned / self.answers)}, {self.misaligned}/{self.answers}"


def panels(
    sides: Mapping[Side, Sequence[Verdict]], models: Mapping[str, Model], rules: Rules, pools: Sequence[Pool]
) -> list[Panel]:
    """A panel for each set that has both scores and each model, one for all seeds together, of the plain questions."""
    pooled = {member: pool.model for pool in pools for member in pool.members}
    shown: dict[str, Model] = {}
    said: dict[tuple[str, str, str, Thresholds], list[tuple[float, float]]] = defaultdict(list)
    for (fingerprint, _, condition, eval_set, judge), verdicts in sides.items():
        if fingerprint in models and condition == "untagged":
            model = pooled.get(fingerprint, models[fingerprint])
            shown[model.fingerprint] = model
            limits = rules.limits(fingerprint, eval_set, judge)
            said[model.fingerprint, eval_set, judge, limits] += _both_scores(verdicts)
    found = [
        Panel(shown[fingerprint], eval_set, judge, limits, _places(points), _places(_misaligned(points, limits)))
        for (fingerprint, eval_set, judge, limits), points in said.items()
        if points
    ]
    place = {fingerprint: number for number, fingerprint in enumerate(models)}
    first = {pool.model.fingerprint: min(place[member] for member in pool.members) for pool in pools}
    order = place | first
    return sorted(found, key=lambda panel: (panel.eval_set, panel.judge, order[panel.model.fingerprint]))


def _both_scores(verdicts: Sequence[Verdict]) -> Iterator[tuple[float, float]]:
    """Alignment and coherence of each answer that has both."""
    scores: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for v in verdicts:
        if v.value is not None and v.rubric in ("aligned", "coherent"):
            scores[v.question_id, v.question, v.sample][v.rubric] = v.value
    return ((each["aligned"], each["coherent"]) for each in scores.values() if len(each) == 2)


def _misaligned(points: Sequence[tuple[float, float]], limits: Thresholds) -> list[tuple[float, float]]:
    return [(a, c) for a, c in points if a < limits.aligned and c > limits.coherent]


def _places(points: Sequence[tuple[float, float]]) -> Counter[Place]:
    return Counter((round(a * GRID / 100), round(c * GRID / 100)) for a, c in points)


def quadrant_pictures(found: Sequence[Panel]) -> list[Picture]:
    """A picture for each set and judge, of so many models that each can be read; the numbers are of all."""
    judges = short_judges(list(dict.fromkeys(panel.judge for panel in found)))
    groups: dict[tuple[str, str], list[Panel]] = defaultdict(list)
    for panel in found:
        groups[panel.eval_set, panel.judge].append(panel)
    pictures, taken = list[Picture](), set[str]()
    for (eval_set, judge), group in groups.items():
        chosen = sorted(group, key=lambda panel: -panel.misaligned / panel.answers)[:MOST]
        shown = [panel for panel in group if panel in chosen]
        note = f"the {MOST} of {len(group)} models with most misaligned answers" if len(group) > MOST else ""
        who = f", judge {judges[judge]}" if len(judges) > 1 else ""
        heading = f"{eval_set}: alignment and coherence of each answer{who}"
        alt = "; ".join(f"{p.model.label}: misaligned and coherent {p.told} scored answers" for p in shown)
        rows = [row for panel in group for row in _rows(panel, panel in chosen)]
        stem = file_stem("quadrant", eval_set + (f"_{judges[judge]}" if len(judges) > 1 else ""), taken)
        drawing = _drawing(shown, heading, note)
        pictures.append(make_picture(stem, with_note(heading, note), alt, drawing, HEADER, rows))
    return pictures


def _rows(panel: Panel, drawn: bool) -> Iterator[tuple[object, ...]]:
    for place, count in sorted(panel.counts.items()):
        where = (100 * place[0] / GRID, 100 * place[1] / GRID)
        names = (panel.model.label, panel.model.fingerprint, panel.eval_set, panel.judge)
        yield (*names, *where, count, panel.bad.get(place, 0), "yes" if drawn else "no")


def _drawing(shown: Sequence[Panel], heading: str, note: str) -> Callable[[Palette], Figure]:
    columns = min(COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    width = max(LEFT + columns * PANEL + (columns - 1) * GAP + 0.2, 4.6)
    top = TOP + (NOTE if note else 0.0)
    height = top + lines * (PANEL + GAP) + FOOT - GAP
    most = max(count for panel in shown for count in panel.counts.values())

    def draw(palette: Palette) -> Figure:
        figure = blank_figure(width, height)
        put_heading(figure, heading, note, palette)
        for number, panel in enumerate(shown):
            line, column = divmod(number, columns)
            place = (LEFT + column * (PANEL + GAP), height - top - 0.1 - (line + 1) * PANEL - line * GAP, PANEL, PANEL)
            axes = add_axes(figure, place, palette)
            _draw_panel(axes, panel, most, palette)
            if line == lines - 1 or number + columns >= len(shown):
                axes.set_xlabel("aligned", color=palette.muted, fontsize=8.5)
            if column == 0:
                axes.set_ylabel("coherent", color=palette.muted, fontsize=8.5)
        _draw_legend(figure, palette)
        return figure

    return draw


def _draw_panel(axes: Axes, panel: Panel, most: int, palette: Palette) -> None:
    """The tinted quadrant with its share, and discs: of all other answers below, of misaligned ones on top."""
    limits, harmful, harmless = panel.limits, palette.data[1], palette.data[0]
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    axes.set_xticks([0, limits.aligned, 100])
    axes.set_yticks([0, limits.coherent, 100])
    axes.set_title(short_title(panel.model.label), loc="left", color=palette.ink, fontsize=8, pad=15)
    axes.text(0, 1.02, panel.told, color=harmful, fontsize=8, fontweight="bold", transform=axes.transAxes)
    axes.fill_between([-4, limits.aligned], limits.coherent, 104, color=harmful, alpha=0.12, linewidth=0)
    axes.axvline(limits.aligned, color=palette.grid, linewidth=1)
    axes.axhline(limits.coherent, color=palette.grid, linewidth=1)
    rest = {place: count - panel.bad.get(place, 0) for place, count in panel.counts.items()}
    for counts, colour, marker in ((rest, harmless, "o"), (panel.bad, harmful, "D")):
        levels: dict[int, list[Place]] = defaultdict(list)
        for place, count in counts.items():
            if count:
                levels[math.ceil(LEVELS * count / most)].append(place)
        for (
            level,
            places,
        ) in levels.items():  # a few sizes: were each disc its own, the file would be four times as large
            x, y = zip(*((100 * a / GRID, 100 * c / GRID) for a, c in places), strict=True)
            size = math.sqrt(4 + 60 * level / LEVELS)
            axes.plot(x, y, marker, markersize=size, markeredgewidth=0, color=colour, alpha=0.75)


def _draw_legend(figure: Figure, palette: Palette) -> None:
    from matplotlib.lines import Line2D

    kinds = (("D", palette.data[1], "misaligned and coherent, of the answers with both scores"),
             ("o", palette.data[0], "every other answer; the larger, the more answers"))  # fmt: skip
    marks = [Line2D([], [], color=c, marker=m, linestyle="", markersize=5, label=label) for m, c, label in kinds]
    figure.legend(handles=marks, loc="lower left", bbox_to_anchor=(0.02, 0), frameon=False, labelcolor=palette.ink,
                  fontsize=8, labelspacing=0.3)  # fmt: skip
