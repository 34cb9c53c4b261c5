"""Hold the figures of `benchmarks.inference` and their targets, which were set before anything was measured."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

COMPARE: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
TARGETS = {
    "rates: mean coverage": ">= 0.94",
    "rates: lowest coverage": ">= 0.915",
    "rates: width at 20 %, 8 × 30": "<= 10.5",
    "rates: width at 0.4 %, 8 × 30": "<= 2.5",
    "misaligns: 20 %, 8 × 30, 1 seed, 1 arm": ">= 0.99",
    "misaligns: 20 %, 8 × 30, 1 seed, 4 arms": ">= 0.99",
    "misaligns: 5.8 %, 8 × 30, 1 seed, 1 arm": ">= 0.6",
    "misaligns: 5.8 %, 8 × 30, 1 seed, 4 arms": ">= 0.6",
    "misaligns: nothing, 8 × 30, 1 seed, 1 arm": "<= 0.05",
    "misaligns: nothing, 8 × 30, 1 seed, 4 arms": "<= 0.05",
    "undone: 44 → 0.4 %, 8 × 30, 1 seed, 1 arm": ">= 0.95",
    "undone: 44 → 0.4 %, 8 × 30, 1 seed, 4 arms": ">= 0.95",
    "undone: a quarter of 44 % left, 8 × 30, 1 seed, 1 arm": "<= 0.03",
    "undone: a quarter of 44 % left, 8 × 30, 1 seed, 4 arms": "<= 0.03",
    "misaligns: 20 %, 8 × 30, 3 seeds, 1 arm": ">= 0.85",
    "misaligns: nothing, 8 × 30, 3 seeds, 1 arm": "<= 0.06",
    "seeds: equal recipes of 20 %, 8 × 30, 3 seeds": "<= 0.06",
    "seeds: equal recipes of 44 %, 8 × 30, 3 seeds": "<= 0.06",
    "like_these: mean coverage": ">= 0.94",
    "like_these: lowest coverage": ">= 0.91",
    "like_these: mean width, 8 × 30": "<= 22",
    "jumps: largest ratio of neighbouring upper bounds": "<= 1.5",
    "interaction: mean coverage": ">= 0.94",
    "interaction: 15 points, 8 × 30": ">= 0.8",
    "interaction: nothing, 8 × 30": "<= 0.05",
    "unscored: any sentence, 60 % of misaligned answers unscored": "<= 0.05",
}
"""What each figure must reach. With several arms, a power is of each finding and `nothing` of any finding."""


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    name: `part: figure`.
    width: mean width of the intervals in points, beside a coverage.
    """

    name: str
    value: float
    width: float | None = None
    target: str = field(init=False)
    met: bool | None = field(init=False)

    def __post_init__(self) -> None:
        # A numpy number is neither `True` nor JSON.
        object.__setattr__(self, "value", float(self.value))
        target = TARGETS.get(self.name, "")
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "met", reach_target(self.value, target))

    def __str__(self) -> str:
        width = "" if self.width is None else f"{self.width:.1f}"
        verdict = {None: "", True: "met", False: "NOT MET"}[self.met]
        part, _, name = self.name.partition(": ")
        return f"| {part} | {name} | {self.value:.4g} | {width} | {self.target} | {verdict} |"


def reach_target(value: float, target: str) -> bool | None:
    """Tell whether a value reaches a target; None without a target."""
    if not target:
        return None
    sign, number = target.split()
    return bool(COMPARE[sign](value, float(number)))


@dataclass
class Coverage:
    """Counts of intervals and of those that hold the truth, and the sum of their widths."""

    name: str
    held: int = 0
    made: int = 0
    width: float = 0.0

    def add(self, low: float, high: float, truth: float) -> None:
        """Count one interval."""
        self.held += bool(low <= truth <= high)
        self.made += 1
        self.width += float(high - low)

    @property
    def points(self) -> float:
        """Return the mean width in points."""
        return 100 * self.width / self.made

    def make_figure(self) -> Figure:
        """Return the coverage, beside the width."""
        return Figure(self.name, self.held / self.made, self.points)


def summarise_coverage(part: str, figures: Sequence[Figure]) -> list[Figure]:
    """Return the mean and the lowest coverage of a part, each with the mean width."""
    points = sum(figure.width or 0.0 for figure in figures) / len(figures)
    mean = sum(figure.value for figure in figures) / len(figures)
    lowest = min(figures, key=lambda figure: figure.value)
    return [
        Figure(f"{part}: mean coverage", mean, points),
        Figure(f"{part}: lowest coverage", lowest.value, lowest.width),
    ]
