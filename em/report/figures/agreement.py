"""Draw two judges' scores of the same answers against each other, and their difference by question.

Discs stand on the grid of the quadrant chart. A judge that agrees with the other has all discs on the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from em.report.figures import picture
from em.report.figures.dots import MARKS
from em.report.figures.picture import Palette, Picture
from em.report.figures.quadrants import Scores, count_places, draw_discs
from em.stats import AgreementRow, Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 24  # questions in the picture
HEADING = "The scores of two judges for the same answers"
LEGEND = "the larger a disc, the more answers; lines: 95 % intervals"


@dataclass(frozen=True)
class AgreementChart:
    """What the picture shows. names: judge A and judge B. scores: of A and of B for each answer, by rubric."""

    names: tuple[str, str]
    scores: Mapping[str, Sequence[Scores]]
    limits: Thresholds
    rows: Sequence[AgreementRow]

    def describe(self, rubric: str) -> str:
        """Return the mean absolute error and alpha of a rubric in words."""
        values = {row.statistic: row.value for row in self.rows if (row.score, row.group) == (rubric, "*")}
        alpha = values["alpha"]
        return f"mean error {values['mean_absolute_error']:.1f}" + ("" if alpha is None else f", alpha {alpha:.2f}")

    def list_biases(self) -> tuple[dict[str, dict[str, AgreementRow]], str]:
        """Return the bias by question and rubric, and a note if only the largest are there."""
        questions: dict[str, dict[str, AgreementRow]] = {}
        for row in self.rows:
            if row.statistic == "bias" and row.group.startswith("question "):
                questions.setdefault(row.group.removeprefix("question "), {})[row.score] = row
        shown, note = picture.pick_highest(
            list(questions.items()), MOST, lambda q: max(abs(r.value or 0) for r in q[1].values()), "largest biases"
        )
        return dict(shown), note


def make_agreement_picture(chart: AgreementChart) -> Picture:
    """Make the picture; its CSV, `agree.csv`, has all statistics."""
    described = (f"{rubric}: {len(pairs)} answers, {chart.describe(rubric)}" for rubric, pairs in chart.scores.items())
    rows = [asdict(row) for row in chart.rows]
    return Picture("agree", HEADING, "; ".join(described), partial(draw_agreement, chart), rows)


def draw_agreement(chart: AgreementChart, palette: Palette) -> Figure:
    """Draw a panel for each rubric, then the bias by question."""
    biases, note = chart.list_biases()
    panels = len(chart.scores)
    size = (2.7 * panels + 3.9, max(3.9, 0.2 * len(biases) + 1.7))
    figure = picture.start_figure(size, HEADING, palette)
    *squares, last = figure.subplots(1, panels + 1, squeeze=False, width_ratios=[1] * panels + [1.1])[0]
    marks = []
    for number, (axes, rubric) in enumerate(zip(squares, chart.scores, strict=True)):
        draw_scores(axes, chart, rubric, palette)
        marks.append(picture.make_legend_mark(rubric, palette.get_colour(number), MARKS[number % len(MARKS)]))
    last.set_title("\n".join(filter(None, ("B − A by question", note))), loc="left", color=palette.ink, fontsize=8)
    draw_biases(last, biases, list(chart.scores), palette)
    picture.add_legend(figure, palette, marks, LEGEND)
    return figure


def draw_scores(axes: Axes, chart: AgreementChart, rubric: str, palette: Palette) -> None:
    """Draw the answers by both scores, with the diagonal and the rubric's threshold."""
    number = list(chart.scores).index(rubric)
    limit = {"aligned": chart.limits.aligned, "coherent": chart.limits.coherent}.get(rubric)
    ticks = [0, 100] if limit is None else [0, limit, 100]
    picture.style_axes(axes, palette)
    axes.set_box_aspect(1)
    axes.set_anchor("N")
    axes.set(xlim=(-4, 104), ylim=(-4, 104), xticks=ticks, yticks=ticks)
    axes.set_title(f"{rubric}: {chart.describe(rubric)}", loc="left", color=palette.ink, fontsize=8)
    axes.set_xlabel(f"A: {picture.shorten_title(chart.names[0])}", color=palette.muted, fontsize=8.5)
    axes.set_ylabel(f"B: {picture.shorten_title(chart.names[1])}", color=palette.muted, fontsize=8.5)
    axes.plot([0, 100], [0, 100], color=palette.muted, linewidth=0.6, linestyle="--")
    if limit is not None:
        axes.axvline(limit, color=palette.muted, linewidth=0.8)
        axes.axhline(limit, color=palette.muted, linewidth=0.8)
    counts = count_places(chart.scores[rubric])
    draw_discs(axes, counts, max(counts.values()), palette.get_colour(number), MARKS[number % len(MARKS)])


def draw_biases(
    axes: Axes, biases: Mapping[str, Mapping[str, AgreementRow]], rubrics: Sequence[str], palette: Palette
) -> None:
    """Draw B − A of each question and rubric with its interval."""
    picture.style_axes(axes, palette, "x")
    axes.axvline(0, color=palette.muted, linewidth=0.8)
    names = [picture.shorten_title(name) for name in biases]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params("y", labelcolor=palette.ink)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for y, by_rubric in enumerate(biases.values()):
        for rubric, row in by_rubric.items():
            number = rubrics.index(rubric)
            place, colour = y + 0.25 * (number - (len(rubrics) - 1) / 2), palette.get_colour(number)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1, alpha=0.7)
            axes.plot([row.value or 0.0], [place], MARKS[number % len(MARKS)], color=colour, markersize=4)
