"""How the rate of misaligned answers moved during each training stage: every scored checkpoint, first to last.

Nothing is computed here: a point is a row of `scores.csv`, put at the optimiser step at which its adapter was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from em.report.read.runs import Run
from em.report.tables.cells import CONDITIONS, WHOLE_SET, Rate, condition_order, rate_of
from em.report.tables.models import Model, short_judges
from em.runtime.records import digest
from em.types import StageRecord

FOLLOWED = ("misaligned", "all", WHOLE_SET)
"""Metric, convention and question of the rows that are followed."""
FEWEST = 2  # points of a line


@dataclass(frozen=True)
class Curve:
    """The loss of one training stage; None where a step has none."""

    label: str
    fingerprint: str
    steps: tuple[int, ...]
    losses: tuple[float | None, ...]


@dataclass(frozen=True)
class Line:
    """What is followed: a question set under a condition, as one judge sees it."""

    eval_set: str
    condition: str
    judge: str
    threshold: str


@dataclass(frozen=True)
class Point:
    """A rate after so many steps; `model` is the checkpoint, at step 0 the model that the stage began with."""

    step: int
    model: Model
    rate: Rate
    loss: float | None


@dataclass(frozen=True)
class Trajectory:
    """The lines of one stage, called after the model that it ended with, and its training loss."""

    model: Model
    lines: dict[Line, tuple[Point, ...]]
    curve: Curve | None

    @property
    def steps(self) -> tuple[tuple[int, Model], ...]:
        """The steps that have a point, with their models."""
        found = {point.step: point.model for points in self.lines.values() for point in points}
        return tuple(sorted(found.items(), key=lambda pair: pair[0]))

    def point(self, line: Line, step: int) -> Point | None:
        """What a line has at a step."""
        return next((point for point in self.lines.get(line, ()) if point.step == step), None)

    def loss(self, step: int) -> float | None:
        """The loss logged at a step."""
        return _losses(self.curve).get(step)


def find_trajectories(runs: Sequence[Run], models: dict[str, Model], curves: Sequence[Curve]) -> list[Trajectory]:
    """One for each stage that was scored at two steps or more, a stage that runs share once, in the order of tables."""
    of_stage = {curve.fingerprint: curve for curve in curves}
    steps: dict[str, dict[str, int]] = {}
    for run in runs:
        before = _base(run)
        for stage in run.manifest.stages:
            curve = of_stage.get(stage.fingerprint)
            steps.setdefault(stage.fingerprint, {}).update(_steps(stage, before, curve))
            before = stage.fingerprint
    found = []
    for fingerprint, model in models.items():
        curve = of_stage.get(fingerprint)
        lines = _lines(runs, steps.get(fingerprint, {}), models, curve)
        if lines:
            found.append(Trajectory(model, lines, curve))
    return found


def lines_of(trajectories: Sequence[Trajectory]) -> dict[Line, str]:
    """All lines and what to call them: sets in the order in which they were met, untagged first."""
    lines = list(dict.fromkeys(line for trajectory in trajectories for line in trajectory.lines))
    sets = list(dict.fromkeys(line.eval_set for line in lines))
    lines.sort(key=lambda line: (sets.index(line.eval_set), condition_order(line.condition), line.judge))
    judges = short_judges(list(dict.fromkeys(line.judge for line in lines)))
    tagged = {line.condition for line in lines} != {CONDITIONS[0]}
    rules = {line.threshold for line in lines}
    names = {}
    for line in lines:
        words = [line.eval_set, *([line.condition] if tagged else [])]
        words += [f"judge {judges[line.judge]}"] if len(judges) > 1 else []
        names[line] = ", ".join([*words, *([line.threshold] if len(rules) > 1 else [])])
    return names


def _losses(curve: Curve | None) -> dict[int, float | None]:
    return dict(zip(curve.steps, curve.losses, strict=True)) if curve else {}


def _base(run: Run) -> str:
    """The fingerprint of what the run's first stage began with: as its scores have it, or by the base's identity."""
    trained = {stage.fingerprint for stage in run.manifest.stages}
    for score in run.scores:
        if score.stage == "base" and score.fingerprint not in trained:
            return score.fingerprint
    known = run.manifest.base.identity and not run.manifest.setting("model.adapter")
    return digest(run.manifest.base.identity) if known else ""


def _steps(stage: StageRecord, before: str, curve: Curve | None) -> dict[str, int]:
    """At which step of the stage each model stands. Where the manifest doesn't tell the last, the loss curve does."""
    steps = {before: 0} if before else {}
    steps |= {checkpoint.fingerprint: checkpoint.step for checkpoint in stage.checkpoints if checkpoint.fingerprint}
    last = stage.facts.get("steps")
    if not isinstance(last, int) and curve:
        last = max(curve.steps)
    return steps | ({stage.fingerprint: last} if isinstance(last, int) else {})


def _lines(
    runs: Sequence[Run], steps: dict[str, int], models: dict[str, Model], curve: Curve | None
) -> dict[Line, tuple[Point, ...]]:
    """The lines with enough points. Where runs differ, the run that has most of a line is the one to follow."""
    losses = _losses(curve)
    found: dict[Line, list[dict[int, Point]]] = {}
    for run in runs:
        told: dict[Line, dict[int, Point]] = {}
        for row in run.scores:
            step = steps.get(row.fingerprint)
            if step is not None and (row.metric, row.convention, row.question) == FOLLOWED:
                line = Line(row.eval_set, row.condition, row.judge, row.threshold)
                told.setdefault(line, {})[step] = Point(step, models[row.fingerprint], rate_of(row), losses.get(step))
        for line, points in told.items():
            found.setdefault(line, []).append(points)
    lines = {}
    for line, versions in found.items():
        points = {}
        for version in sorted(versions, key=len):  # the fullest last, so that it is the one that stays
            points |= version
        if len(points) >= FEWEST:
            lines[line] = tuple(points[step] for step in sorted(points))
    return lines


def loss_curves(runs: Sequence[Run], models: dict[str, Model]) -> list[Curve]:
    """The loss of every stage of every run, a shared stage once."""
    points: dict[str, dict[int, float | None]] = {}
    for run in runs:
        for row in run.losses:
            points.setdefault(row.fingerprint, {}).setdefault(row.step, row.loss)
    curves = []
    for fingerprint, model in models.items():
        if fingerprint in points:
            steps = sorted(points[fingerprint].items())
            curves.append(Curve(model.label, fingerprint, tuple(s for s, _ in steps), tuple(v for _, v in steps)))
    return curves
