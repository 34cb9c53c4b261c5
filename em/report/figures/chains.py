"""Base → misaligned → realigned as lines: a picture for each set, a panel for each first training, controls dashed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from em.report.figures.picture import (
    NOTE,
    Palette,
    Picture,
    add_axes,
    blank_figure,
    file_stem,
    legend_below,
    make_picture,
    plain,
    put_heading,
    short_title,
    with_note,
)
from em.report.figures.rates import axis_limit
from em.report.tables.cells import Rate
from em.report.tables.chains import Chain, Step
from em.report.tables.models import short_judges, words_beside

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6  # panels of a picture: of more first trainings, those with the highest rates
COLUMNS = 3
WIDE, HIGH, GAP, LEFT, TOP, FOOT = 1.9, 1.9, 0.5, 0.6, 0.6, 0.4  # inches
HEADER = (
    *("eval_set", "condition", "judge", "chain", "step", "stage", "model", "fingerprint", "seeds", "control"),
    *("metric", "k", "n", "rate", "ci_low", "ci_high", "ci_method", "drawn"),
)
Panels = dict[str, list[Chain]]


def chain_pictures(found: Sequence[Chain]) -> list[Picture]:
    """A picture for each set, condition and judge that has chains; the numbers are of all, each seed too."""
    groups: dict[tuple[str, str, str], list[Chain]] = {}
    for chain in found:
        if rate_at(chain, chain.last) is not None:
            groups.setdefault((chain.eval_set, chain.condition, chain.judge), []).append(chain)
    judges = short_judges(list(dict.fromkeys(judge for _, _, judge in groups)))
    conditions = {condition for _, condition, _ in groups}
    pictures, taken = list[Picture](), set[str]()
    for (eval_set, condition, judge), chains in groups.items():
        panels: Panels = {}
        for chain in chains:
            panels.setdefault(chain.steps[1].row.model.label, []).append(chain)
        chosen = sorted(panels, key=lambda name: -_highest(panels[name][0]))[:MOST]
        shown = {name: each for name, each in panels.items() if name in chosen}
        metric = next(rate.shown for chain in chains for rate in rates_of(chain))
        told = [eval_set, *([condition] if len(conditions) > 1 else []), *([judges[judge]] if len(judges) > 1 else [])]
        note = f"the {MOST} of {len(panels)} trainings with the highest rates" if len(panels) > MOST else ""
        heading = f"{', '.join(told)}: {metric} from stage to stage, of all answers"
        alt = "; ".join(
            ", ".join(
                f"{_ending(chain) if step is chain.last else step.row.model.stage} {rate.percent} {rate.interval}"
                for step, rate in _steps(chain)
            )
            for each in shown.values()
            for chain in each
        )
        rows = [row for name, each in panels.items() for chain in each for row in _rows(chain, name in chosen)]
        stem = file_stem("stages", "_".join(told), taken)
        drawing = _drawing(shown, heading, note)
        pictures.append(make_picture(stem, with_note(heading, note), alt, drawing, HEADER, rows))
    return pictures


def rate_at(chain: Chain, step: Step) -> Rate | None:
    """The rate of a step in the chain's set."""
    entries = step.row.cells[chain.column].entries
    return entries[0].main if entries else None


def rates_of(chain: Chain) -> list[Rate]:
    """The rates of all steps that have one."""
    return [rate for _, rate in _steps(chain)]


def _steps(chain: Chain) -> Iterator[tuple[Step, Rate]]:
    for step in chain.steps:
        rate = rate_at(chain, step)
        if rate is not None and rate.rate is not None:
            yield step, rate


def _highest(chain: Chain) -> float:
    return max((rate.rate or 0.0 for rate in rates_of(chain)), default=0.0)


def _rows(chain: Chain, drawn: bool) -> Iterator[tuple[object, ...]]:
    for number, step in enumerate(chain.steps):
        rate, model = rate_at(chain, step), step.row.model
        if rate is not None:
            where = (chain.eval_set, chain.condition, chain.judge, chain.last.row.model.label, number, model.stage)
            which = (model.label, model.fingerprint, model.seeds or None, "yes" if chain.is_control else "no")
            numbers = (rate.metric, rate.k, rate.n, rate.rate, rate.low, rate.high, rate.method)
            yield (*where, *which, *numbers, "yes" if drawn else "no")
    for each in chain.seeds:
        yield from _rows(each, drawn=False)


def _drawing(panels: Panels, heading: str, note: str) -> Callable[[Palette], Figure]:
    columns = min(COLUMNS, len(panels))
    wide = WIDE if columns > 1 else 2 * WIDE
    lines = math.ceil(len(panels) / columns)
    last = {_ending(chain): chain.is_control for each in panels.values() for chain in each}
    foot = FOOT + 0.2 * len(last)
    width = max(LEFT + columns * (wide + GAP), 4.8)
    top = TOP + (NOTE if note else 0.0)
    height = top + lines * (HIGH + GAP) - GAP + foot
    limit = axis_limit([rate for each in panels.values() for chain in each for rate in rates_of(chain)])

    def draw(palette: Palette) -> Figure:
        figure = blank_figure(width, height)
        put_heading(figure, heading, note, palette)
        marks: dict[str, Artist] = {}
        for number, (name, chains) in enumerate(panels.items()):
            line, column = divmod(number, columns)
            bottom = height - top - HIGH - line * (HIGH + GAP)
            axes = add_axes(figure, (LEFT + column * (wide + GAP), bottom, wide, HIGH), palette)
            axes.set_title(short_title(name), loc="left", color=palette.ink, fontsize=8.5)
            axes.set_ylim(-0.02 * limit, limit)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
            axes.grid(axis="y", color=palette.grid, linewidth=0.8)
            steps = max(len(chain.steps) for chain in chains)
            axes.set_xlim(-0.25, steps - 0.75)
            axes.set_xticks(range(steps), ["base", "trained", *(["then …"] * (steps - 2))], fontsize=8.5)
            for place, chain in enumerate(chains):
                name = _ending(chain)
                colour = palette.muted if chain.is_control else palette.data[_place(name, last) % len(palette.data)]
                apart = 0.07 * (place - (len(chains) - 1) / 2)
                marks[name] = _draw_chain(axes, chain, colour, apart)
        for name, mark in marks.items():
            mark.set_label(plain(f"then {name}" + (", the control" if last[name] else "")))
        legend_below(figure, palette, list(marks.values()))
        return figure

    return draw


def _ending(chain: Chain) -> str:
    """The last stage of a chain, and what tells it from others of its name: `optimism (4 epochs)`."""
    model = chain.last.row.model
    words = words_beside(model, chain.steps[1].row.model)
    return f"{model.stage} ({words})" if words else model.stage


def _place(ending: str, last: dict[str, bool]) -> int:
    """The place of a last stage among those that are no controls, which have colours."""
    return [each for each, control in last.items() if not control].index(ending)


def _draw_chain(axes: Axes, chain: Chain, colour: str, apart: float) -> Artist:
    """A line through the steps, and a whisker at each; steps that chains share lie on each other."""
    at, rates = [], []
    for number, step in enumerate(chain.steps):
        rate = rate_at(chain, step)
        if rate is not None and rate.rate is not None:
            at.append(number + (apart if number > 1 else 0.0))
            rates.append(rate)
    dashes = "--" if chain.is_control else "-"
    (mark,) = axes.plot(
        at, [rate.rate or 0.0 for rate in rates], dashes, color=colour, marker="o", markersize=4, linewidth=1.6
    )
    for x, rate in zip(at, rates, strict=True):
        if rate.low is not None and rate.high is not None:
            axes.plot([x, x], [rate.low, rate.high], color=colour, linewidth=1, alpha=0.7)
    return mark
