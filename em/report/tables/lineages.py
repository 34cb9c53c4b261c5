"""Lineages of models, read from manifests: base → first stage → second stage …, with all seeds of a model together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.report.read.runs import RecordedRun
from em.report.tables.models import Model, list_run_models
from em.report.tables.seeds import SeedPool
from em.stats import Comparison, Line

CONTROL = "neutral"
"""The realignment that is the control of the others: equally long training on data without a message."""


@dataclass(frozen=True)
class Lineage:
    """The models of a chain of trainings, the base first; `seeds` are the lineages of the single seeds of a pool."""

    models: tuple[Model, ...]
    seeds: tuple[Lineage, ...] = ()

    @property
    def last(self) -> Model:
        """The last model of the chain."""
        return self.models[-1]


@dataclass(frozen=True)
class LineageSet:
    """All lineages of a report, and the fingerprints of the models that are controls (a pool by its key).

    steps: the number of steps of each model's last stage, 0 if unknown.
    """

    lineages: tuple[Lineage, ...]
    controls: frozenset[str]
    steps: Mapping[str, int]

    @property
    def seeds(self) -> list[Lineage]:
        """The lineages of single seeds."""
        return [seed for each in self.lineages for seed in each.seeds]

    def list_lines(self) -> dict[str, Line]:
        """Return the ancestors of each model, the base first, and the control of its last stage; by fingerprint."""
        lines = {}
        for lineage in (*self.seeds, *self.lineages):
            control = self.find_control(lineage)
            ancestors = tuple(model.fingerprint for model in lineage.models[:-1])
            lines[lineage.last.fingerprint] = Line(ancestors, control.fingerprint if control else "")
        return lines

    def find_control(self, lineage: Lineage) -> Model | None:
        """Return the control of a lineage's last stage: another last stage after the same training.

        Among several the one with the nearest number of steps; None for a control itself.
        """
        if len(lineage.models) < 3 or lineage.last.fingerprint in self.controls:
            return None
        same_parent = [other for other in (*self.lineages, *self.seeds) if other.models[:-1] == lineage.models[:-1]]
        controls = [other.last for other in same_parent if other.last.fingerprint in self.controls]
        steps = self.steps.get(lineage.last.fingerprint, 0)
        return min(controls, key=lambda model: abs(self.steps.get(model.fingerprint, 0) - steps), default=None)

    def describe_uneven_steps(self, model: Model, control: Model | None) -> str:
        """Return `control: 63 steps, this model: 400 steps` if these numbers differ, else ""."""
        if control is None:
            return ""
        control_steps, steps = self.steps.get(control.fingerprint), self.steps.get(model.fingerprint)
        if not control_steps or not steps or control_steps == steps:
            return ""
        return f"control: {control_steps:,} steps, this model: {steps:,} steps"


def find_lineages(runs: Sequence[RecordedRun], models: Mapping[str, Model], pools: Sequence[SeedPool]) -> LineageSet:
    """Find the lineages of all runs, in their order; a lineage shared by runs appears once."""
    pool_of = {member: pool.model for pool in pools for member in pool.members}
    single_seeds: dict[tuple[Model, ...], dict[Lineage, None]] = {}
    controls, steps = set[str](), dict[str, int]()
    for run in runs:
        stages = [stage.fingerprint for stage in run.manifest.stages]
        base = find_base_model(run, models)
        if base is None or not stages or any(stage not in models for stage in stages):
            continue
        if run.manifest.get_setting("realign") == CONTROL and len(stages) > 1:
            controls |= {stages[-1], pool_of.get(stages[-1], models[stages[-1]]).fingerprint}
        for stage in run.manifest.stages:
            for mark in (stage.fingerprint, pool_of.get(stage.fingerprint, models[stage.fingerprint]).fingerprint):
                steps.setdefault(mark, int(stage.facts.get("steps") or 0))
        for end in range(1, len(stages) + 1):
            alone = (base, *(models[stage] for stage in stages[:end]))
            together = (base, *(pool_of.get(stage, models[stage]) for stage in stages[:end]))
            pooled = all(stage in pool_of for stage in stages[:end])
            singles = single_seeds.setdefault(together if pooled else alone, {})
            if pooled:
                singles[Lineage(alone)] = None
    lineages = tuple(Lineage(models_of_line, tuple(singles)) for models_of_line, singles in single_seeds.items())
    return LineageSet(lineages, frozenset(controls), steps)


def find_base_model(run: RecordedRun, models: Mapping[str, Model]) -> Model | None:
    """Return the base of a run: a model with records in the run, else one of the same name; None if ambiguous."""
    name = run.manifest.base.name
    in_run = (key for key, called, stage in list_run_models(run) if (called, stage) == (name, "base") and key in models)
    same_name = (key for key, model in models.items() if (model.name, model.stage) == (name, "base"))
    candidates = list(dict.fromkeys(in_run)) or list(same_name)
    return models[candidates[0]] if len(candidates) == 1 else None


class Differences:
    """The comparisons under one convention, indexed by models, condition, judge and set."""

    def __init__(self, comparisons: Sequence[Comparison], convention: str) -> None:
        counted = (c for c in comparisons if c.convention == convention)
        self._comparisons = {(c.first, c.second, c.condition, c.judge, c.eval_set): c for c in counted}

    def find_difference(self, first: Model | None, second: Model, where: tuple[str, str, str]) -> Comparison | None:
        """Return the comparison of a model with an ancestor or its control, None without one.

        Args:
            where: condition, judge and set.
        """
        return None if first is None else self._comparisons.get((first.fingerprint, second.fingerprint, *where))
