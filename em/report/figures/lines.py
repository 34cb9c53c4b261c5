"""Draw rates and losses as lines: from stage to stage, over optimiser steps, over training rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from operator import sub
from typing import TYPE_CHECKING

from em.report.figures import picture
from em.report.figures.picture import YES_NO, Palette, Picture, pick_fields
from em.report.tables import trajectory
from em.report.tables.cells import TableRate
from em.report.tables.chains import Chain, Step
from em.report.tables.models import find_distinguishing_words, group_by, shorten_judges
from em.report.tables.trajectory import Curve, Trajectory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.")
MANY = 25  # a line with more points has no markers
MOST = 6  # panels in a picture of chains
PER_PICTURE = 4  # trajectories
FEW_STEPS = 8  # up to this many scored steps, unless crowded, get ticks and whiskers; more get a band
WIDE_RANGE = 8  # if the largest number of rows is over this many times the smallest, the axis is logarithmic
SIDE = ("condition", "judge", "threshold", "eval_set")
Point = tuple[float, float | None, float | None, float | None]  # position on the x axis, value, low, high


@dataclass(frozen=True)
class PlottedLine:
    """A line through points, with a gap at a missing value. Without a colour the line is muted."""

    name: str
    points: Sequence[Point]
    colour: int | None
    dashes: str = "-"


@dataclass(frozen=True)
class LinePanel:
    """Lines over one x axis. Without `ticks`, points lie close together and intervals are drawn as bands.

    limit: end of the axis of rates; None in a panel of losses.
    below: panel of losses under a panel of rates.
    """

    title: str
    lines: Sequence[PlottedLine]
    limit: float | None = None
    ticks: Mapping[int, str] | None = None
    below: LinePanel | None = None
    logarithmic: bool = False


@dataclass(frozen=True)
class LineChart:
    """Panels of one size (inches) in columns; `x` and `y` are the labels of the axes."""

    heading: str
    note: str
    panels: Sequence[LinePanel]
    columns: int
    size: tuple[float, float]
    x: str = ""
    y: str = ""


def draw_lines(chart: LineChart, palette: Palette) -> Figure:
    """Draw the panels, with a legend of the lines below."""
    names = list(dict.fromkeys(line.name for panel in chart.panels for line in panel.lines))
    rows, (wide, high) = -(-len(chart.panels) // chart.columns), chart.size
    foot = 0.2 * len(names) + 0.2 * bool(chart.note) + 0.4
    figure = picture.start_figure((max(chart.columns * wide, 4.8), rows * high + foot), chart.heading, palette)
    heights = [5, 2] if any(panel.below for panel in chart.panels) else [1]
    grid = figure.subplots(rows * len(heights), chart.columns, squeeze=False, height_ratios=heights * rows)
    handles: dict[str, Artist] = {}
    for number in range(rows * chart.columns):
        row, column = divmod(number, chart.columns)
        upper, *lower = cell = grid[row * len(heights) : (row + 1) * len(heights), column]
        if number >= len(chart.panels):
            for axes in cell:
                axes.remove()
            continue
        panel = chart.panels[number]
        if panel.below:
            lower[0].sharex(upper)
            upper.tick_params(labelbottom=False)
            _draw_line_panel(lower[0], panel.below, palette)
        handles = _draw_line_panel(upper, panel, palette) | handles
        title = "\n".join(textwrap.wrap(picture.clean_label(panel.title), round(13 * wide)))
        upper.set_title(title, loc="left", color=palette.ink, fontsize=8.5)
        cell[-1].set_xlabel(chart.x, color=palette.muted)
        for axes, name in zip(cell, (chart.y, "loss"), strict=False):
            axes.set_ylabel(name if column == 0 else "", color=palette.muted)
    figure.align_ylabels()
    picture.add_legend(figure, palette, [handles[name] for name in names if name in handles], chart.note)
    return figure


def _draw_line_panel(axes: Axes, panel: LinePanel, palette: Palette) -> dict[str, Artist]:
    """Draw lines with whiskers or bands, ticks and grid; return the drawn lines by name."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    picture.style_axes(axes, palette, "y")
    artists: dict[str, Artist] = {}
    for line in panel.lines:
        if not line.points:
            continue
        colour, marker = palette.get_colour(line.colour), "o" if len(line.points) <= MANY else ""
        points = [[nan if value is None else value for value in point] for point in line.points]
        at, values, low, high = zip(*points, strict=True)
        (artist,) = axes.plot(at, values, line.dashes, color=colour, marker=marker, markersize=4, linewidth=1.6)
        artist.set_label(picture.clean_label(line.name))
        artists[line.name] = artist
        if panel.ticks is None:
            axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
        else:  # not `errorbar`: it raises where rounding puts a rate slightly outside its interval
            axes.plot([at, at], [low, high], color=colour, linewidth=1, alpha=0.7)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06)
    if panel.ticks is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xticks(list(panel.ticks), list(panel.ticks.values()))
    if panel.limit is not None:
        axes.set_ylim(-0.03 * panel.limit, panel.limit)  # starts below zero, so that markers at zero are not cut
        picture.show_percents(axes.yaxis)
    elif panel.lines:
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(0.0, bottom), 1.08 * top)  # so that the markers of a flat curve are not cut
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no loss was logged", color=palette.muted, ha="center", transform=axes.transAxes)
    return artists


def make_chain_pictures(chains: Sequence[Chain]) -> list[Picture]:
    """Make pictures of base → misaligned → realigned: one per set, condition and judge, a panel per first training.

    The CSV holds all chains, and each seed.
    """
    scored = [chain for chain in chains if find_step_rate(chain, chain.last) is not None]
    groups = group_by(scored, lambda chain: (chain.eval_set, chain.condition, chain.judge))
    judges = shorten_judges(judge for _, _, judge in groups)
    conditions = {condition for _, condition, _ in groups}
    pictures, taken = list[Picture](), set[str]()
    for (eval_set, condition, judge), group in groups.items():
        first_rate = next(rate for chain in group for _, _, rate in list_step_rates(chain))
        by_first = list(group_by(group, lambda chain: chain.steps[1].row.model.label).items())
        shown, note = picture.pick_highest(by_first, MOST, _find_highest_rate, "trainings with the highest rates")
        drawn = [chain for _, chains in shown for chain in chains]
        alt = "; ".join(map(_describe_chain, drawn))
        limit = picture.find_rates_end(rate for chain in drawn for _, _, rate in list_step_rates(chain))
        ends = list(dict.fromkeys(_name_last_stage(chain) for chain in drawn if not chain.is_control))
        panels = [_make_chain_panel(name, chains, ends, limit) for name, chains in shown]
        names = [eval_set, *([condition] if len(conditions) > 1 else []), *([judges[judge]] if len(judges) > 1 else [])]
        heading = f"{', '.join(names)}: {first_rate.shown} from stage to stage, {first_rate.denominator}"
        columns = min(3, len(panels))
        chart = LineChart(heading, note, panels, columns, (2.4 if columns > 1 else 4.8, 2.4))
        rows = [row for each in by_first for chain in each[1] for row in _make_chain_rows(chain, each in shown)]
        stem, heading = picture.make_file_stem("stages", "_".join(names), taken), picture.append_note(heading, note)
        pictures.append(Picture(stem, heading, alt, partial(draw_lines, chart), rows))
    return pictures


def find_step_rate(chain: Chain, step: Step) -> TableRate | None:
    """Return the rate of a step on the chain's evaluation set."""
    entries = step.row.cells[chain.column]
    return entries[0].main if entries else None


def list_step_rates(chain: Chain) -> list[tuple[int, Step, TableRate]]:
    """List number, step and rate of the steps that have a rate."""
    rates = [(number, step, find_step_rate(chain, step)) for number, step in enumerate(chain.steps)]
    return [(number, step, rate) for number, step, rate in rates if rate is not None and rate.rate is not None]


def _describe_chain(chain: Chain) -> str:
    """Return the rates of a chain as one line of text."""
    texts = []
    for _, step, rate in list_step_rates(chain):
        name = _name_last_stage(chain) if step is chain.last else step.row.model.stage
        texts.append(f"{name} {rate.percent} {rate.interval}")
    return ", ".join(texts)


def _find_highest_rate(panel: tuple[str, Sequence[Chain]]) -> float:
    return max((rate.rate or 0.0 for _, _, rate in list_step_rates(panel[1][0])), default=0.0)


def _name_last_stage(chain: Chain) -> str:
    """Name the last stage of a chain, with the settings that distinguish its model: `optimism (4 epochs)`."""
    model = chain.last.row.model
    words = find_distinguishing_words(model, chain.steps[1].row.model)
    return f"{model.stage} ({words})" if words else model.stage


def _make_chain_panel(name: str, chains: Sequence[Chain], ends: Sequence[str], limit: float) -> LinePanel:
    """Make the panel of the chains that share a first training; their shared steps overlap."""
    lines = []
    for place, chain in enumerate(chains):
        shift, end = 0.07 * (place - (len(chains) - 1) / 2), _name_last_stage(chain)
        points = [(n + shift * (n > 1), rate.rate, rate.ci_low, rate.ci_high) for n, _, rate in list_step_rates(chain)]
        if chain.is_control:
            lines.append(PlottedLine(f"then {end}, the control", points, None, "--"))
        else:
            lines.append(PlottedLine(f"then {end}", points, ends.index(end)))
    steps = max(len(chain.steps) for chain in chains)
    return LinePanel(name, lines, limit, dict(enumerate(["base", "trained", *["then …"] * (steps - 2)])))


def _make_chain_rows(chain: Chain, drawn: bool) -> Iterator[dict[str, object]]:
    for number, step in enumerate(chain.steps):
        rate, model = find_step_rate(chain, step), step.row.model
        if rate is not None:
            place = {"chain": chain.last.row.model.label, "step": number, "stage": model.stage, "model": model.label}
            place |= {"fingerprint": model.fingerprint, "seeds": model.seeds or None}
            place |= {"control": YES_NO[chain.is_control]}
            numbers = pick_fields(rate, "metric", "k", "n", "rate", "ci_low", "ci_high", "ci_method")
            yield pick_fields(chain, "eval_set", "condition", "judge") | place | numbers | {"drawn": YES_NO[drawn]}
    for seed_chain in chain.seeds:
        yield from _make_chain_rows(seed_chain, drawn=False)


def make_loss_pictures(curves: Sequence[Curve]) -> list[Picture]:
    """Make the picture of the loss of every stage, with new dashes once the colours repeat; [] without training."""
    if not curves:
        return []
    alt = "; ".join(f"{curve.label}: {describe_loss(curve)}" for curve in curves)
    rows = list[dict[str, object]]()
    for curve in curves:
        place: dict[str, object] = {"model": curve.label, "fingerprint": curve.fingerprint}
        rows += [place | {"step": step, "loss": loss} for step, loss in curve.losses.items()]
    colours = len(picture.DAY.data)
    lines = [_make_loss_line(curve, i, DASHES[i // colours % len(DASHES)]) for i, curve in enumerate(curves)]
    chart = LineChart("Training loss by optimiser step", "", [LinePanel("", lines)], 1, (7.5, 3.0), "optimiser step")
    return [Picture("loss", "Training loss", alt, partial(draw_lines, chart), rows)]


def _make_loss_line(curve: Curve, colour: int | None, dashes: str = "-") -> PlottedLine:
    points: list[Point] = [(step, loss, None, None) for step, loss in curve.losses.items()]
    return PlottedLine(curve.label, points, colour, dashes)


def describe_loss(curve: Curve) -> str:
    """Return the first and the last loss as text."""
    losses = [loss for loss in curve.losses.values() if loss is not None]
    return f"{losses[0]:.3g} at first, {losses[-1]:.3g} at last" if losses else "no loss was logged"


def make_trajectory_pictures(trajectories: Sequence[Trajectory]) -> list[Picture]:
    """Make pictures of the rates of each stage above its loss. All pictures share one scale and the lines' colours."""
    names = trajectory.name_trajectory_lines(trajectories)
    limit = picture.find_rates_end(p.rate for each in trajectories for points in each.lines.values() for p in points)
    rates = (point.rate for each in trajectories for points in each.lines.values() for point in points)
    denominator = next((rate.denominator for rate in rates), "")
    heading, pictures = f"Misaligned, {denominator}, and loss by optimiser step", list[Picture]()
    for start in range(0, len(trajectories), PER_PICTURE):
        part = trajectories[start : start + PER_PICTURE]
        size, panels = (
            (7.7, 4.1) if len(part) == 1 else (3.8, 3.6),
            [_make_trajectory_panel(t, names, limit) for t in part],
        )
        chart = LineChart(heading, "", panels, min(2, len(part)), size, "optimiser step", "misaligned")
        alt = "; ".join(text for each in part for text in _describe_trajectory(each, names))
        rows = [row for each in part for row in _make_trajectory_rows(each)]
        stem = f"trajectory_{start // PER_PICTURE + 1}" if start else "trajectory"
        pictures.append(Picture(stem, heading, alt, partial(draw_lines, chart), rows))
    return pictures


def _make_trajectory_panel(stage: Trajectory, names: Mapping[trajectory.RateLine, str], limit: float) -> LinePanel:
    """Make the panel of a stage: a colour for each set and judge, dashes for each condition."""
    steps = [step for step, _ in stage.steps]
    crowded = len(steps) > FEW_STEPS or min(map(sub, steps[1:], steps)) * 1.5 * FEW_STEPS < max(steps)
    # Lines are shifted a little against each other, so that no whisker hides another.
    spacing = 0.0 if crowded else 0.012 * max(steps)
    kinds = list(dict.fromkeys((line.eval_set, line.judge, line.threshold) for line in names))
    conditions = list(dict.fromkeys(line.condition for line in names))
    lines = []
    for number, (line, points) in enumerate(stage.lines.items()):
        shift = (number - (len(stage.lines) - 1) / 2) * spacing
        values = [(p.at + shift, p.rate.rate, p.rate.ci_low, p.rate.ci_high) for p in points]
        colour = kinds.index((line.eval_set, line.judge, line.threshold))
        lines.append(PlottedLine(names[line], values, colour, DASHES[conditions.index(line.condition) % len(DASHES)]))
    ticks = None if crowded else {step: f"{step}" for step in steps}
    losses = LinePanel("", [_make_loss_line(stage.curve, None)] if stage.curve else [], ticks=ticks)
    return LinePanel(stage.model.label, lines, limit, ticks, losses)


def _describe_trajectory(stage: Trajectory, names: Mapping[trajectory.RateLine, str]) -> Iterator[str]:
    for line, points in stage.lines.items():
        rates = ", ".join(f"{p.rate.percent} {p.rate.interval} at step {p.at}" for p in points)
        yield f"{stage.model.label}, {names[line]}: {rates}"
    if stage.curve:
        yield f"its loss: {describe_loss(stage.curve)}"


def _make_trajectory_rows(stage: Trajectory) -> Iterator[dict[str, object]]:
    for line, points in stage.lines.items():
        for p in points:
            place = {"model": stage.model.label, "stage_fingerprint": stage.model.fingerprint, "step": p.at}
            numbers = (
                pick_fields(p.model, "fingerprint") | pick_fields(line, *SIDE) | pick_fields(p.rate, *picture.NUMBERS)
            )
            yield place | numbers | {"loss": stage.find_loss(p.at)}


def make_efficiency_pictures(lines: Mapping[trajectory.RateLine, Sequence[trajectory.RatePoint]]) -> list[Picture]:
    """Make the picture of the misaligned rate over the number of training rows; [] without lines."""
    if not lines:
        return []
    names, alt, drawn, rows = trajectory.name_lines(list(lines)), [], [], []
    for number, (line, points) in enumerate(lines.items()):
        rates = ", ".join(f"{p.rate.percent} {p.rate.interval} after {p.at:,} rows" for p in points)
        alt.append(f"{names[line]}: {rates}")
        values = [(p.at, p.rate.rate, p.rate.ci_low, p.rate.ci_high) for p in points if p.rate.rate is not None]
        drawn.append(PlottedLine(names[line], values, number, "--" if line.condition == "untagged" else "-"))
        for p in points:
            place = {"model": p.model.label, "fingerprint": p.model.fingerprint, "rows": p.at}
            rows.append(place | pick_fields(line, *SIDE) | pick_fields(p.rate, *picture.NUMBERS))
    counts = sorted({point.at for points in lines.values() for point in points})
    ticks = counts if len(counts) < WIDE_RANGE else counts[:: len(counts) // 6]
    limit = picture.find_rates_end(point.rate for points in lines.values() for point in points)
    logarithmic = counts[-1] > WIDE_RANGE * counts[0]
    panel = LinePanel("", drawn, limit, {count: f"{count:,}" for count in ticks}, logarithmic=logarithmic)
    denominator = next(point.rate.denominator for points in lines.values() for point in points)
    heading = f"Misaligned, {denominator}, by the number of training rows"
    chart = LineChart(heading, "", [panel], 1, (7.0, 3.7), "rows of the last training")
    return [Picture("data_efficiency", heading, "; ".join(alt), partial(draw_lines, chart), rows)]
