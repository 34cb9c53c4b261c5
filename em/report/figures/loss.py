"""The training loss of every stage as a curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from em.report.figures.picture import Palette, Picture, legend_below, make_picture, new_figure, plain
from em.report.tables.trajectory import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.")
POINTS_WITH_DOTS = 25  # up to so many steps each gets a dot, so that a stage of one step is seen at all


def loss_picture(curves: Sequence[Curve]) -> Picture | None:
    """The loss of every stage; None where nothing was trained."""
    if not curves:
        return None
    alt = "; ".join(f"{curve.label}: {first_last(curve)}" for curve in curves)
    rows = [(c.label, c.fingerprint, step, loss) for c in curves for step, loss in zip(c.steps, c.losses, strict=True)]
    header = ("model", "fingerprint", "step", "loss")
    return make_picture("loss", "Training loss", alt, _drawing(curves), header, rows)


def first_last(curve: Curve) -> str:
    """How the loss began and ended, in words."""
    losses = [loss for loss in curve.losses if loss is not None]
    return f"{losses[0]:.3g} at first, {losses[-1]:.3g} at last" if losses else "no loss was logged"


def draw_loss(axes: Axes, curve: Curve, colour: str, dashes: str = "-") -> None:
    """The curve as a line, which has a gap where a step has no loss."""
    axes.plot(
        curve.steps,
        [float("nan") if loss is None else loss for loss in curve.losses],
        label=plain(curve.label),
        color=colour,
        linestyle=dashes,
        marker="o" if len(curve.steps) <= POINTS_WITH_DOTS else None,
        markersize=3.5,
        linewidth=1.5,
    )


def _drawing(curves: Sequence[Curve]) -> Callable[[Palette], Figure]:
    """One line a stage; past the palette's colours the dashes change."""

    def draw(palette: Palette) -> Figure:
        from matplotlib.ticker import MaxNLocator

        below = 0.55 + 0.2 * len(curves)
        figure, axes = new_figure((7.0, 2.5), (0.4, 0.4, 0.15, below), "Training loss by optimiser step", palette)
        axes.grid(axis="y", color=palette.grid, linewidth=0.8)
        axes.set_xlabel("optimiser step", color=palette.muted)
        for index, curve in enumerate(curves):
            dashes = DASHES[index // len(palette.data) % len(DASHES)]
            draw_loss(axes, curve, palette.data[index % len(palette.data)], dashes)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, palette)
        return figure

    return draw
