"""The rate of misaligned answers over the optimiser steps of a training stage, and over the number of training rows.

Nothing is computed here: a point is a row of `scores.csv`, placed at the optimiser step at which its adapter was saved,
or at the number of rows of its last training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from em.report.read.runs import RecordedRun
from em.report.tables.cells import CONDITIONS, WHOLE_SET, TableRate, make_table_rate, rank_condition
from em.report.tables.models import Model, name_series, shorten_judges
from em.report.tables.seeds import SeedPool
from em.runtime.records import digest
from em.triggers.conditions import find_condition_kind
from em.types import Score, StageRecord

FEWEST = 2  # points of a line


@dataclass(frozen=True)
class Curve:
    """The training loss of one stage by step, None for a step without a logged loss."""

    label: str
    fingerprint: str
    losses: dict[int, float | None]


@dataclass(frozen=True)
class RateLine:
    """The identity of a line: a question set under a condition, judged by one judge.

    name: of a line over numbers of rows, the name of its trainings, which differ only in rows and seed; else empty.
    """

    eval_set: str
    condition: str
    judge: str
    threshold: str
    name: str = ""


@dataclass(frozen=True)
class RatePoint:
    """The rate after `at` steps, or `at` rows.

    model: over steps the checkpoint (at step 0 the model before the stage), over rows the model or pool of seeds.
    """

    at: int
    model: Model
    rate: TableRate


@dataclass(frozen=True)
class Trajectory:
    """The lines of one stage, the model that the stage produced, and its training loss."""

    model: Model
    lines: dict[RateLine, tuple[RatePoint, ...]]
    curve: Curve | None

    @property
    def steps(self) -> tuple[tuple[int, Model], ...]:
        """The steps with a point, each with its model."""
        models = {point.at: point.model for points in self.lines.values() for point in points}
        return tuple((step, models[step]) for step in sorted(models))

    def find_point(self, line: RateLine, step: int) -> RatePoint | None:
        """Return the point of a line at a step."""
        return next((point for point in self.lines.get(line, ()) if point.at == step), None)

    def find_loss(self, step: int) -> float | None:
        """Return the loss logged at a step."""
        return self.curve.losses.get(step) if self.curve else None


def collect_loss_curves(runs: Sequence[RecordedRun], models: dict[str, Model]) -> list[Curve]:
    """Collect the loss of every stage of every run; a stage shared by runs appears once."""
    losses: dict[str, dict[int, float | None]] = {}
    for run in runs:
        for row in run.losses:
            losses.setdefault(row.fingerprint, {}).setdefault(row.step, row.loss)
    return [Curve(models[key].label, key, dict(sorted(losses[key].items()))) for key in models if key in losses]


def find_trajectories(
    runs: Sequence[RecordedRun], models: dict[str, Model], curves: Sequence[Curve], convention: str
) -> list[Trajectory]:
    """Find the stages scored at two or more steps, in the order of tables; a stage shared by runs appears once."""
    of_stage = {curve.fingerprint: curve for curve in curves}
    steps: dict[str, dict[str, int]] = {}
    for run in runs:
        before = _find_base_fingerprint(run)
        for stage in run.manifest.stages:
            curve = of_stage.get(stage.fingerprint)
            steps.setdefault(stage.fingerprint, {}).update(_find_model_steps(stage, before, curve))
            before = stage.fingerprint
    lines = {key: _collect_lines(runs, steps.get(key, {}), models, convention) for key in models}
    return [Trajectory(models[key], lines[key], of_stage.get(key)) for key in models if lines[key]]


def name_trajectory_lines(trajectories: Sequence[Trajectory]) -> dict[RateLine, str]:
    """Return all lines with their names: sets in the order of the trajectories, in each untagged first."""
    lines = list(dict.fromkeys(line for trajectory in trajectories for line in trajectory.lines))
    sets = list(dict.fromkeys(line.eval_set for line in lines))
    lines.sort(key=lambda line: (sets.index(line.eval_set), rank_condition(line.condition), line.judge))
    return name_lines(lines)


def name_lines(lines: Sequence[RateLine]) -> dict[RateLine, str]:
    """Name the lines by what distinguishes them from one another."""
    judges = shorten_judges(line.judge for line in lines)
    sets, rules = {line.eval_set for line in lines}, {line.threshold for line in lines}
    tagged = {line.condition for line in lines} != {CONDITIONS[0]}
    names = {}
    for line in lines:
        words = (
            line.name,
            line.eval_set if len(sets) > 1 or not line.name else "",
            line.condition if tagged or line.name else "",
            f"judge {judges[line.judge]}" if len(judges) > 1 else "",
            line.threshold if len(rules) > 1 else "",
        )
        names[line] = ", ".join(filter(None, words))
    return names


def _find_base_fingerprint(run: RecordedRun) -> str:
    """Return the fingerprint of the run's base model, from its scores or the base's identity; "" if unknown."""
    trained = {stage.fingerprint for stage in run.manifest.stages}
    for score in run.scores:
        if score.stage == "base" and score.fingerprint not in trained:
            return score.fingerprint
    identity = run.manifest.base.identity
    return digest(identity) if identity and not run.manifest.get_setting("model.adapter") else ""


def _find_model_steps(stage: StageRecord, before: str, curve: Curve | None) -> dict[str, int]:
    """Return the step of each model of the stage. Without a last step in the manifest the loss curve gives it."""
    steps = {before: 0} if before else {}
    steps |= {checkpoint.fingerprint: checkpoint.step for checkpoint in stage.checkpoints if checkpoint.fingerprint}
    last = stage.facts.get("steps")
    if not isinstance(last, int) and curve:
        last = max(curve.losses)
    return steps | ({stage.fingerprint: last} if isinstance(last, int) else {})


def _collect_lines(
    runs: Sequence[RecordedRun], steps: dict[str, int], models: dict[str, Model], convention: str
) -> dict[RateLine, tuple[RatePoint, ...]]:
    """Collect the lines with enough points. If runs differ, the run with the most points of a line takes precedence."""
    versions: dict[RateLine, dict[int, dict[int, RatePoint]]] = {}
    for run in runs:
        for row in _select_followed(run, convention):
            if (step := steps.get(row.fingerprint)) is not None:
                points = versions.setdefault(_make_rate_line(row), {}).setdefault(run.number, {})
                points[step] = RatePoint(step, models[row.fingerprint], make_table_rate(row))
    lines = {}
    for line, by_run in versions.items():
        fullest_last = sorted(by_run.values(), key=len)  # the last one replaces the points of the others
        points = {step: point for version in fullest_last for step, point in version.items()}
        if len(points) >= FEWEST:
            lines[line] = tuple(points[step] for step in sorted(points))
    return lines


def _select_followed(source: RecordedRun | SeedPool, convention: str) -> Iterator[Score]:
    """Return the rows with the rate of misaligned answers to a whole set, under one convention."""
    wanted = ("misaligned", convention, WHOLE_SET)
    return (row for row in source.scores if (row.metric, row.convention, row.question) == wanted)


def _make_rate_line(row: Score, name: str = "") -> RateLine:
    return RateLine(row.eval_set, row.condition, row.judge, row.threshold, name)


def collect_efficiency_lines(
    runs: Sequence[RecordedRun], models: dict[str, Model], pools: Sequence[SeedPool] = (), convention: str = "all"
) -> dict[RateLine, tuple[RatePoint, ...]]:
    """Return the lines with points at two or more numbers of rows; pooled seeds are one point."""
    counts = {stage.fingerprint: stage.rows for run in runs for stage in run.manifest.stages}
    names = name_series(runs, {key: model for key, model in models.items() if key in counts}, counts)
    in_pools = {(member, _make_rate_line(row)) for pool in pools for row in pool.scores for member in pool.members}
    followed_rows = [row for run in runs for row in _select_followed(run, convention) if row.fingerprint in names]
    single_rows = [row for row in followed_rows if (row.fingerprint, _make_rate_line(row)) not in in_pools]
    rows = [(row.fingerprint, models[row.fingerprint], row) for row in single_rows]
    pooled = [(pool.members[0], pool) for pool in pools if pool.members[0] in names]
    rows += [(member, pool.model, row) for member, pool in pooled for row in _select_followed(pool, convention)]
    lines: dict[RateLine, dict[tuple[str, int | None], RatePoint]] = {}
    for member, model, row in rows:
        if find_condition_kind(row.condition) in ("untagged", "tagged"):
            points = lines.setdefault(_make_rate_line(row, names[member]), {})
            point, key = RatePoint(counts[member], model, make_table_rate(row)), (model.fingerprint, row.seed)
            # Runs may share answers: keep the rate over the most of them.
            points[key] = max(points.get(key, point), point, key=lambda each: each.rate.n)
    followed = {line: tuple(sorted(points.values(), key=lambda point: point.at)) for line, points in lines.items()}
    return {line: points for line, points in followed.items() if len({point.at for point in points}) > 1}
