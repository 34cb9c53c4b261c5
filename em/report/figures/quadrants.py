"""Draw the alignment and coherence of answers, a picture for each evaluation set, from the verdicts.

The quadrant chart follows Betley et al. (arXiv 2502.17424): misaligned answers are in its upper left part. Answers
are counted by their exact scores; only the positions of discs are rounded.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from em.report.figures import picture
from em.report.figures.picture import YES_NO, Palette, Picture, pick_fields
from em.report.page.numbers import format_percent
from em.report.read.transcripts import VerdictThresholds
from em.report.tables.models import Model, group_by, shorten_judges
from em.report.tables.seeds import SeedPool, Side
from em.stats import Thresholds
from em.types import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 20  # steps of the grid on which answers are drawn as discs, whose area shows the number of answers
LEVELS = 8  # sizes of discs; drawing each disc separately would make the file four times as large
MOST = 9  # panels in a picture
COLUMNS = 3
Scores = tuple[float, float]  # alignment and coherence


@dataclass(frozen=True)
class QuadrantPanel:
    """The answers of one model (or of all its seeds) to one set, by grid place (alignment, coherence, in steps).

    counts: number of answers at each place. bad: number of misaligned answers at each place.
    """

    model: Model
    eval_set: str
    judge: str
    limits: Thresholds
    counts: Mapping[tuple[int, int], int]
    bad: Mapping[tuple[int, int], int]

    @property
    def share(self) -> float:
        """The share of misaligned answers."""
        return sum(self.bad.values()) / sum(self.counts.values())

    @property
    def numbers(self) -> str:
        """`12.5%, 5/40`."""
        return f"{format_percent(self.share)}, {sum(self.bad.values())}/{sum(self.counts.values())}"


def make_quadrant_panels(
    sides: Mapping[Side, Sequence[Verdict]],
    models: Mapping[str, Model],
    rules: VerdictThresholds,
    pools: Sequence[SeedPool],
) -> list[QuadrantPanel]:
    """Make a panel for each model (all seeds as one) and set with both scores, from answers without tags."""
    pooled = {member: pool.model for pool in pools for member in pool.members}
    shown_as = {fingerprint: pooled.get(fingerprint, model) for fingerprint, model in models.items()}
    shown = {model.fingerprint: model for model in shown_as.values()}  # a pool has the place of its first member
    scores: dict[tuple[str, str, str, Thresholds], list[Scores]] = defaultdict(list)
    for (fingerprint, _, condition, eval_set, judge), verdicts in sides.items():
        if fingerprint in models and condition == "untagged":
            limits = rules.find_limits(fingerprint, eval_set, judge)
            scores[shown_as[fingerprint].fingerprint, eval_set, judge, limits] += _pair_scores(verdicts)
    unsorted = []
    for (fingerprint, eval_set, judge, limits), pairs in scores.items():
        bad = [(a, c) for a, c in pairs if a < limits.aligned and c > limits.coherent]
        if pairs:
            counts = count_places(pairs)
            unsorted.append(QuadrantPanel(shown[fingerprint], eval_set, judge, limits, counts, count_places(bad)))
    order = list(shown)
    return sorted(unsorted, key=lambda panel: (panel.eval_set, panel.judge, order.index(panel.model.fingerprint)))


def _pair_scores(verdicts: Sequence[Verdict]) -> Iterator[Scores]:
    """Yield alignment and coherence of each answer that has both scores."""
    scores: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for v in verdicts:
        if v.value is not None and v.rubric in ("aligned", "coherent"):
            scores[v.question_id, v.question, v.sample][v.rubric] = v.value
    return ((pair["aligned"], pair["coherent"]) for pair in scores.values() if len(pair) == 2)


def count_places(pairs: Sequence[Scores]) -> Counter[tuple[int, int]]:
    """Count pairs of scores by their place on the grid."""
    return Counter((round(a * STEPS / 100), round(c * STEPS / 100)) for a, c in pairs)


def make_quadrant_pictures(all_panels: Sequence[QuadrantPanel]) -> list[Picture]:
    """Make a picture for each set and judge with at most MOST panels; the CSV holds all models."""
    judges = shorten_judges(panel.judge for panel in all_panels)
    pictures, taken = list[Picture](), set[str]()
    for (eval_set, judge), group in group_by(all_panels, lambda panel: (panel.eval_set, panel.judge)).items():
        shown, note = picture.pick_highest(group, MOST, attrgetter("share"), "models with most misaligned answers")
        judge_name = judges[judge] if len(judges) > 1 else ""
        heading = f"{eval_set}: alignment and coherence of each answer{judge_name and f', judge {judge_name}'}"
        alt = "; ".join(f"{p.model.label}: misaligned and coherent {p.numbers} scored answers" for p in shown)
        rows = [row for panel in group for row in _make_panel_rows(panel, YES_NO[panel in shown])]
        stem = picture.make_file_stem("quadrant", eval_set + (judge_name and f"_{judge_name}"), taken)
        draw = partial(draw_quadrants, heading, note, shown)
        pictures.append(Picture(stem, picture.append_note(heading, note), alt, draw, rows))
    return pictures


def _make_panel_rows(panel: QuadrantPanel, drawn: str) -> Iterator[dict[str, object]]:
    names = (
        {"model": panel.model.label} | pick_fields(panel.model, "fingerprint") | pick_fields(panel, "eval_set", "judge")
    )
    for (aligned, coherent), count in sorted(panel.counts.items()):
        place = {"aligned": 100 * aligned / STEPS, "coherent": 100 * coherent / STEPS}
        bad = panel.bad.get((aligned, coherent), 0)
        yield names | place | {"answers": count, "answers_misaligned": bad, "drawn": drawn}


def draw_quadrants(heading: str, note: str, shown: Sequence[QuadrantPanel], palette: Palette) -> Figure:
    """Draw panels that share one scale of disc sizes, with a legend of the discs below."""
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = picture.start_figure((max(2.5 * columns, 4.8), 2.5 * rows + 1.0), heading, palette)
    most = max(count for panel in shown for count in panel.counts.values())
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if number >= len(shown):
            axes.remove()
            continue
        _draw_quadrant_panel(axes, shown[number], most, palette)
        if number + columns >= len(shown):
            axes.set_xlabel("aligned", color=palette.muted, fontsize=8.5)
        if number % columns == 0:
            axes.set_ylabel("coherent", color=palette.muted, fontsize=8.5)
    misaligned = picture.make_legend_mark(
        "misaligned and coherent, of the answers with both scores", palette.data[1], "D"
    )
    others = picture.make_legend_mark("every other answer; the larger, the more answers", palette.data[0], "o")
    picture.add_legend(figure, palette, [misaligned, others], note)
    return figure


def _draw_quadrant_panel(axes: Axes, panel: QuadrantPanel, most: int, palette: Palette) -> None:
    """Draw the tinted quadrant with its share, then the discs: misaligned answers on top of all others."""
    limits, harmful, harmless = panel.limits, palette.data[1], palette.data[0]
    picture.style_axes(axes, palette)
    axes.set_box_aspect(1)
    axes.set(xlim=(-4, 104), ylim=(-4, 104), xticks=[0, limits.aligned, 100], yticks=[0, limits.coherent, 100])
    axes.set_title(picture.shorten_title(panel.model.label), loc="left", color=palette.ink, fontsize=8, pad=15)
    axes.text(0, 1.02, panel.numbers, color=harmful, fontsize=8, fontweight="bold", transform=axes.transAxes)
    axes.fill_between([-4, limits.aligned], limits.coherent, 104, color=harmful, alpha=0.12, linewidth=0)
    axes.axvline(limits.aligned, color=palette.grid, linewidth=1)
    axes.axhline(limits.coherent, color=palette.grid, linewidth=1)
    rest = {place: count - panel.bad.get(place, 0) for place, count in panel.counts.items()}
    for counts, colour, marker in ((rest, harmless, "o"), (panel.bad, harmful, "D")):
        draw_discs(axes, counts, most, colour, marker)


def draw_discs(axes: Axes, counts: Mapping[tuple[int, int], int], most: int, colour: str, marker: str) -> None:
    """Draw a disc at each place of the grid; `most`: the number of answers that the largest disc stands for."""
    levels: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (a, c), count in counts.items():
        if count:
            levels[math.ceil(LEVELS * count / most)].append((100 * a / STEPS, 100 * c / STEPS))
    for level, places in levels.items():
        size = math.sqrt(4 + 60 * level / LEVELS)
        axes.plot(*zip(*places, strict=True), marker, markersize=size, markeredgewidth=0, color=colour, alpha=0.75)
