"""Draw rates as dots with intervals: per evaluation set, per condition (triggers), and per question.

The chart by question follows Betley et al. (arXiv 2502.17424). The CSV also holds the rates that are not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from em.report.figures import picture
from em.report.figures.picture import YES_NO, Palette, Picture, pick_fields
from em.report.page.numbers import format_percent
from em.report.page.words import DENOMINATOR_WORDS, METRICS
from em.report.tables.cells import HeadlineTable, ModelRow, QuestionTable, TableRate, mark_related_judge
from em.report.tables.models import group_by, shorten_judges
from em.report.tables.seeds import SeedPool
from em.report.tables.triggers import TriggerTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = ("o", "D", "s", "^", "v", "P")
MOST_DOTS = 30  # per picture of rates
MOST_PARTS = 4  # pictures per set; the rates of further models are in the tables only
MOST = 6  # models in a picture by condition or question, one for each colour
MOST_QUESTIONS = 60
HIGHEST = "models with the highest rates"
OTHERS = ("thin: these questions alone", "thin: questions like these")
"""What the light line of a dot shows: the interval that is not the headline's."""
TRIGGERS = (
    *("metric", "about", "condition", "k", "n", "rate", "ci_low", "ci_high", "ci_method"),
    *("difference", "difference_low", "difference_high", "p", "versus", "verdict"),
    *("these_low", "these_high", "like_these_low", "like_these_high"),
)


@dataclass(frozen=True)
class Dot:
    """A rate with its interval, the rates pooled in it, and the text to its right; None values are not drawn.

    far: the interval of the inference that is not the headline's, drawn lighter.
    """

    colour: int
    rate: float | None
    low: float | None = None
    high: float | None = None
    pooled: tuple[float, ...] = ()
    text: str = ""
    far: tuple[float, float] | None = None


@dataclass(frozen=True)
class DotChart:
    """Bands of dots from top to bottom, one line per dot; None leaves a line empty.

    names: what each colour stands for; without names, each dot has a text and each band's name is above its dots.
    limit: end of the axis; by default just above the highest dot.
    """

    heading: str
    note: str
    bands: Sequence[tuple[str, Sequence[Dot | None]]]
    names: Sequence[str] = ()
    limit: float | None = None


def draw_dots(chart: DotChart, palette: Palette) -> Figure:
    """Draw the bands, with a legend of the colours below."""
    # Lengths are inches. A name above its band may have any length, and the axis leaves room for each dot's text.
    wide, title, line, room = (6.7, 0.0, 0.13, 1.0) if chart.names else (4.9, 0.25, 0.26, 1.52)
    heights = [title + line * len(dots) + 0.12 for _, dots in chart.bands]
    tops = list(accumulate(heights, initial=0.0))
    foot = 0.25 * len(chart.note.splitlines()) + 0.2 * len(chart.names)
    figure = picture.start_figure((wide, max(tops[-1], 0.4) + foot + 0.7), chart.heading, palette)
    axes = figure.subplots()
    picture.style_axes(axes, palette, "x")
    drawn = [dot for _, dots in chart.bands for dot in dots if dot is not None]
    limit = chart.limit or picture.find_axis_end(v for dot in drawn for v in (dot.rate, dot.high, *dot.pooled))
    step = next(step for step in (0.05, 0.1, 0.2, 0.25) if limit <= 4 * step + 1e-9)
    axes.set_xlim(-0.012 * limit * room, limit * room)  # starts below zero, so that dots at zero are not cut
    axes.set_xticks([step * i for i in range(int(limit / step + 1e-9) + 1)])
    picture.show_percents(axes.xaxis)
    axes.set_ylim(max(tops[-1], 0.4), 0)
    axes.set_yticks([])
    if chart.names:
        middles = [top + height / 2 for top, height in zip(tops, heights, strict=False)]
        axes.set_yticks(middles, [picture.shorten_title(name) for name, _ in chart.bands], fontsize=8.5)
        axes.tick_params("y", labelcolor=palette.ink)
    for (name, dots), top in zip(chart.bands, tops, strict=False):
        if not chart.names:
            axes.text(0, top + title / 2, picture.clean_label(name), color=palette.ink, fontsize=9, va="center")
        for number, dot in enumerate(dots):
            if dot is not None:
                _draw_dot(axes, top + title + 0.06 + line * (number + 0.5), dot, palette)
    marks = []
    for number, name in enumerate(chart.names):
        marks.append(picture.make_legend_mark(name, palette.get_colour(number), MARKS[number % len(MARKS)]))
    picture.add_legend(figure, palette, marks, chart.note)
    return figure


def _draw_dot(axes: Axes, y: float, dot: Dot, palette: Palette) -> None:
    """Draw interval, dot and text. A missing interval or rate is left out, never drawn as zero."""
    colour, size = palette.get_colour(dot.colour), 1.3 if dot.text else 1.0
    if dot.rate is not None:
        if dot.text:  # such lines are high enough for a bar
            axes.barh(y, dot.rate, height=0.18, color=colour, alpha=0.22, linewidth=0)
        axes.plot(dot.pooled, [y] * len(dot.pooled), "|", color=colour, markersize=5, alpha=0.8)
        if dot.far is not None:
            axes.plot(dot.far, [y, y], color=colour, linewidth=0.6 * size, alpha=0.3)
        if dot.low is not None and dot.high is not None:
            axes.plot([dot.low, dot.high], [y, y], color=colour, linewidth=size, alpha=0.7)
        axes.plot([dot.rate], [y], MARKS[dot.colour % len(MARKS)], color=colour, markersize=4 * size)
    if dot.text:
        end = max(dot.rate or 0.0, dot.high or 0.0, *(dot.far or ()))
        axes.annotate(dot.text, (end, y), xytext=(8, 0), textcoords="offset points",
                      color=palette.muted, fontsize=8, va="center_baseline")  # fmt: skip


@dataclass(frozen=True)
class ModelRate:
    """The rate of a model under one condition by one judge, and its dot."""

    label: str
    side: ModelRow
    rate: TableRate
    dot: Dot

    @property
    def columns(self) -> dict[str, object]:
        """The rate and what it belongs to, as columns of a table."""
        return {"model": self.label} | pick_fields(self.side, "condition", "judge", "judge_is") | vars(self.rate)


Group = list[ModelRate]  # all of one model and one judge


def make_rate_pictures(table: HeadlineTable, pools: Sequence[SeedPool]) -> list[Picture]:
    """Make pictures of each set that has a headline metric; sets with the same metric share one scale.

    Trainings that differ only in their seed are drawn as one pool.
    """
    seeds = {member for pool in pools for member in pool.members}
    rows = [row for row in table.rows if row.model.fingerprint not in seeds]
    single = [row for row in table.rows if row.model.fingerprint in seeds]
    by_set = {column: _group_rates(table, i, rows) for i, column in enumerate(table.columns) if column.metric}
    pictures, taken = list[Picture](), set[str]()
    for column, groups in by_set.items():
        same_metric = chain(*chain(*(by_set[other] for other in by_set if other.metric == column.metric)))
        limit = 1.0 if column.metric == "true" else picture.find_rates_end(each.rate for each in same_metric)
        parts, first = _split_groups(groups), 1
        left_out = list(chain(*chain(*parts[MOST_PARTS:]), *_group_rates(table, table.columns.index(column), single)))
        for part in parts[:MOST_PARTS]:
            drawn, last = list(chain(*part)), first + len(part) - 1
            range_note = f"{first} to {last} of {len(groups)}" if len(parts) > 1 else ""
            relations = dict.fromkeys(each.side.judge_is for each in drawn if each.side.judge_is)
            kin_notes = [f"{mark_related_judge(relation)} judged by {relation}" for relation in relations]
            far = OTHERS[_is_of_these(drawn)] if any(each.dot.far for each in drawn) else ""
            note = "\n".join(filter(None, [", ".join(filter(None, [range_note, *kin_notes])), far]))
            heading = f"{column.eval_set}: {column.shown}, {column.denominator}"
            bands = [(group[0].label, [each.dot for each in group]) for group in part]
            draw = partial(draw_dots, DotChart(heading, note, bands, limit=limit))
            alt = "; ".join(f"{r.label}, {r.side.condition}: {r.rate.percent} {r.rate.interval}" for r in drawn)
            numbers = [each.columns | {"drawn": "yes"} for each in drawn]
            numbers += [each.columns | {"drawn": "no"} for each in left_out if first == 1]
            stem = picture.make_file_stem("rates", column.eval_set, taken)
            pictures.append(Picture(stem, ", ".join(filter(None, [heading, range_note])), alt, draw, numbers))
            first = last + 1
    return pictures


def _group_rates(table: HeadlineTable, column: int, rows: Sequence[ModelRow]) -> list[Group]:
    """Group the rates of one column by model, in the order of the table; `rows` are some of its rows."""
    groups: dict[str, Group] = {}
    for row in rows:
        # Runs that differ only in the number of answers share a name; the run with most answers comes first and wins.
        entries = {entry.qualifier: entry for entry in reversed(row.cells[column])}
        for name, entry in reversed(entries.items()):
            rate, judge = entry.main, table.name_judge(row)
            if rate is None:
                continue
            text = (
                "no answers"
                if rate.rate is None
                else f"{rate.percent}{mark_related_judge(row.judge_is)}  {rate.k}/{rate.n}"
            )
            labels = ((row.condition, len(table.conditions)), (name, len(entries)))
            text += f"  {', '.join(label for label, kinds in labels if kinds > 1)}"
            colour, text = table.conditions.index(row.condition), text.rstrip()
            dot = Dot(colour, rate.rate, rate.ci_low, rate.ci_high, text=text, far=rate.other_bounds)
            label = f"{row.model.label}, judge {judge}" if judge else row.model.label
            groups.setdefault(label, []).append(ModelRate(label, row, rate, dot))
    return list(groups.values())


def _is_of_these(drawn: Sequence[ModelRate]) -> bool:
    """Tell whether the headline is for exactly these questions."""
    rates = [each.rate for each in drawn if each.dot.far]
    return all((rate.ci_low, rate.ci_high) == (rate.these_low, rate.these_high) for rate in rates)


def _split_groups(groups: Sequence[Group]) -> list[list[Group]]:
    """Split the groups into parts of similar size, of at most MOST_DOTS rates each."""
    rates = sum(map(len, groups))
    target_size = rates / max(1, math.ceil(rates / MOST_DOTS))
    parts: list[list[Group]] = []
    for group in groups:
        drawn = sum(map(len, parts[-1])) if parts else 0
        if not parts or drawn >= target_size or drawn + len(group) > MOST_DOTS:
            parts.append([])
        parts[-1].append(group)
    return parts


def make_trigger_pictures(tables: Sequence[TriggerTable]) -> list[Picture]:
    """Make a picture of activation and leakage by condition for each set and judge; the CSV holds all models."""
    groups = group_by(tables, lambda table: (table.eval_set, table.judge))
    judges = shorten_judges(judge for _, judge in groups)
    pictures, taken = list[Picture](), set[str]()
    for (eval_set, judge), group in groups.items():
        shown, note = picture.pick_highest(group, MOST, lambda t: max(row.rate or 0.0 for row in t.rows), HIGHEST)
        names = [eval_set, *([judges[judge]] if len(judges) > 1 else [])]
        about, of = METRICS[shown[0].rows[0].about], DENOMINATOR_WORDS[shown[0].rows[0].convention]
        heading = f"{', '.join(names)}: {about} by condition, {of}"
        bands: dict[str, list[Dot | None]] = {row.condition: [None] * len(shown) for t in shown for row in t.rows}
        for i, table in enumerate(shown):
            for row in table.rows:
                bands[row.condition][i] = Dot(i, row.rate, row.ci_low, row.ci_high)
        descriptions, rows = list[str](), list[dict[str, object]]()
        for table in shown:
            rates = ", ".join(f"{row.condition} {format_percent(row.rate)}" for row in table.rows)
            descriptions.append(f"{table.model.label}: {rates}")
        for table in group:
            place: dict[str, object] = {"eval_set": eval_set, "judge": judge, "model": table.model.label}
            place |= {"fingerprint": table.model.fingerprint}
            rows += [place | pick_fields(row, *TRIGGERS) | {"drawn": YES_NO[table in shown]} for row in table.rows]
        alt = "; ".join(descriptions)
        chart = DotChart(heading, note, list(bands.items()), [table.model.label for table in shown])
        stem, heading = picture.make_file_stem("triggers", "_".join(names), taken), picture.append_note(heading, note)
        pictures.append(Picture(stem, heading, alt, partial(draw_dots, chart), rows))
    return pictures


@dataclass(frozen=True)
class QuestionLine:
    """The rates of a model by one judge: question → training → rate. `seeds` is 0 for a single training."""

    label: str
    judge: str
    seeds: int
    rates: Mapping[str, Mapping[str, TableRate]]

    def pool_rates(self, *questions: str) -> TableRate:
        """Pool the answers of all seeds to these questions (default: all); a pooled rate has no interval."""
        rates = [rate for question in questions or self.rates for rate in self.rates[question].values()]
        if len(rates) == 1:
            return rates[0]
        k, n = sum(rate.k for rate in rates), sum(rate.n for rate in rates)
        return TableRate("misaligned", rates[0].convention, k, n, k / n if n else None, None, None, "")

    def make_dot(self, colour: int, question: str) -> Dot | None:
        """Make a dot with an interval for a single rate, or with a thin mark for each pooled rate."""
        if question not in self.rates:
            return None
        rate, seeds = self.pool_rates(question), self.rates[question].values()
        pooled = tuple(r.rate for r in seeds if r.rate is not None) if len(seeds) > 1 else ()
        return Dot(colour, rate.rate, rate.ci_low, rate.ci_high, pooled)

    def make_rows(self, drawn: str) -> Iterator[dict[str, object]]:
        """Yield the rows of each question: all seeds together (without interval), then each training."""
        for question, rates in self.rates.items():
            together = replace(self.pool_rates(question), ci_low=None, ci_high=None, ci_method="")
            pooled = [(self.label, self.seeds, together)] if self.seeds else []
            single = [(name, None, rate) for name, rate in rates.items()]
            for name, seeds, rate in [*pooled, *single]:
                place = {"question": question, "model": name, "judge": self.judge, "seeds": seeds}
                yield place | pick_fields(rate, "k", "n", "rate", "ci_low", "ci_high", "ci_method") | {"drawn": drawn}


def make_question_pictures(tables: Sequence[QuestionTable], pools: Sequence[SeedPool]) -> list[Picture]:
    """Make pictures of the misaligned rate by question, without tags; the CSV holds all models."""
    pictures, taken = list[Picture](), set[str]()
    for table in tables:
        lines = find_question_lines(table, pools)
        if table.column.metric != "misaligned" or not 1 < len(table.rows) <= MOST_QUESTIONS or not lines:
            continue
        shown, limit_note = picture.pick_highest(lines, MOST, lambda line: line.pool_rates().rate or 0.0, HIGHEST)
        seeds_note = "a thin mark for each seed" if any(line.seeds for line in shown) else ""
        note = ", ".join(filter(None, (limit_note, seeds_note)))
        heading = f"{table.column.eval_set}: misaligned by question, {table.column.denominator}"
        judges = shorten_judges(line.judge for line in lines)
        names = [line.label + (f", judge {judges[line.judge]}" if len(judges) > 1 else "") for line in shown]
        bands = [(row.question, [line.make_dot(i, row.question) for i, line in enumerate(shown)]) for row in table.rows]
        descriptions = list[str]()
        for row in table.rows:
            for name, line in zip(names, shown, strict=True):
                if row.question in line.rates:
                    descriptions.append(f"{row.question}, {name}: {format_percent(line.pool_rates(row.question).rate)}")
        rows = [record for line in lines for record in line.make_rows(YES_NO[line in shown])]
        draw = partial(draw_dots, DotChart(heading, note, bands, names))
        stem = picture.make_file_stem("questions", table.column.eval_set, taken)
        pictures.append(Picture(stem, picture.append_note(heading, limit_note), "; ".join(descriptions), draw, rows))
    return pictures


def find_question_lines(table: QuestionTable, pools: Sequence[SeedPool]) -> list[QuestionLine]:
    """List the models with answers to untagged questions; trainings that differ only in their seed are one line."""
    pooled = {member: pool.model for pool in pools for member in pool.members}
    numbers: dict[tuple[str, str], list[int]] = {}
    for number, side in enumerate(table.sides):
        if side.condition == "untagged" and not side.model.seeds:
            label = pooled.get(side.model.fingerprint, side.model).label
            numbers.setdefault((label, side.judge), []).append(number)
    lines = []
    for (label, judge), members in numbers.items():
        rates: dict[str, dict[str, TableRate]] = {}
        for row in table.rows:
            entries = [(table.sides[i].model.label, entry) for i in members for entry in row.cells[i][:1]]
            for name, entry in entries:
                if entry.main is not None:
                    rates.setdefault(row.question, {})[name] = entry.main
        if rates:
            lines.append(QuestionLine(label, judge, len(members) if len(members) > 1 else 0, rates))
    return lines
