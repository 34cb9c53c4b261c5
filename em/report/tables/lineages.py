"""What was trained from what, as manifests tell: base → first stage → second stage …, the seeds of each together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from em.report.read.runs import Run
from em.report.tables.models import Model, models_of
from em.report.tables.seeds import Pool
from em.stats import Comparison

CONTROL = "neutral"
"""The realignment that is the control of the others: as much training, on data without a message."""


@dataclass(frozen=True)
class Lineage:
    """The models of a chain of trainings, the base first; `seeds` are those of single seeds that are pooled in it."""

    models: tuple[Model, ...]
    seeds: tuple[Lineage, ...] = ()

    @property
    def last(self) -> Model:
        """The model that it ends with."""
        return self.models[-1]


@dataclass(frozen=True)
class Family:
    """All lineages of a report, and which models are controls: by fingerprint, a pool by its key.

    steps: how many each model's last stage took, where that is known.
    """

    lineages: tuple[Lineage, ...]
    controls: frozenset[str]
    steps: Mapping[str, int]

    @property
    def seeds(self) -> list[Lineage]:
        """The lineages of single seeds."""
        return [seed for each in self.lineages for seed in each.seeds]

    def lines(self) -> dict[str, tuple[str, ...]]:
        """The fingerprints of what each model was trained from, the base first."""
        everything = [*self.seeds, *self.lineages]
        return {line.last.fingerprint: tuple(m.fingerprint for m in line.models[:-1]) for line in everything}

    def control_of(self, lineage: Lineage) -> Model | None:
        """The control of the last stage: another last stage after the same training, None for a control itself.

        Of several the one with the nearest number of steps.
        """
        if len(lineage.models) < 3 or lineage.last.fingerprint in self.controls:
            return None
        controls = [
            other.last
            for other in (*self.lineages, *self.seeds)
            if other.last.fingerprint in self.controls and other.models[:-1] == lineage.models[:-1]
        ]
        steps = self.steps.get(lineage.last.fingerprint, 0)
        return min(controls, key=lambda model: abs(self.steps.get(model.fingerprint, 0) - steps), default=None)

    def uneven(self, model: Model, control: Model | None) -> str:
        """`63 steps to 400` where a control took another number of steps than a model, else empty."""
        if control is None:
            return ""
        its, ours = self.steps.get(control.fingerprint), self.steps.get(model.fingerprint)
        return f"{its:,} steps to {ours:,}" if its and ours and its != ours else ""


def find_lineages(runs: Sequence[Run], models: Mapping[str, Model], pools: Sequence[Pool]) -> Family:
    """The lineages of all runs, in their order; what several runs share is there once."""
    pool_of = {member: pool.model for pool in pools for member in pool.members}
    found: dict[tuple[Model, ...], dict[Lineage, None]] = {}
    controls, steps = set[str](), dict[str, int]()
    for run in runs:
        stages = [stage.fingerprint for stage in run.manifest.stages]
        base = base_of(run, models)
        if base is None or not stages or any(stage not in models for stage in stages):
            continue
        if run.manifest.setting("realign") == CONTROL and len(stages) > 1:
            controls |= {stages[-1], pool_of.get(stages[-1], models[stages[-1]]).fingerprint}
        for stage in run.manifest.stages:
            for mark in (stage.fingerprint, pool_of.get(stage.fingerprint, models[stage.fingerprint]).fingerprint):
                steps.setdefault(mark, int(stage.facts.get("steps") or 0))
        for end in range(1, len(stages) + 1):
            alone = (base, *(models[stage] for stage in stages[:end]))
            together = (base, *(pool_of.get(stage, models[stage]) for stage in stages[:end]))
            pooled = all(stage in pool_of for stage in stages[:end])
            singles = found.setdefault(together if pooled else alone, {})
            if pooled:
                singles[Lineage(alone)] = None
    return Family(tuple(Lineage(line, tuple(singles)) for line, singles in found.items()), frozenset(controls), steps)


def base_of(run: Run, models: Mapping[str, Model]) -> Model | None:
    """The base of a run's trainings: the one that it asked, else the only one of its name; None where several are."""
    name = run.manifest.base.name
    asked = (mark for mark, called, stage in models_of(run) if (called, stage) == (name, "base") and mark in models)
    named = (mark for mark, model in models.items() if (model.name, model.stage) == (name, "base"))
    found = list(dict.fromkeys(asked)) or list(named)
    return models[found[0]] if len(found) == 1 else None


class Differences:
    """The comparisons of all answers, found by their models, condition, judge and set, in either direction."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        told = (c for c in comparisons if c.convention == "all")
        self._found = {(c.first, c.second, c.condition, c.judge, c.eval_set): c for c in told}

    def between(self, first: Model | None, second: Model, where: tuple[str, str, str]) -> Comparison | None:
        """How much higher the rate of `second` is, where both were asked; `where`: condition, judge and set."""
        if first is None:
            return None
        one, other = first.fingerprint, second.fingerprint
        found = self._found.get((one, other, *where))
        turned = self._found.get((other, one, *where))
        if found is not None or turned is None:
            return found
        sides: Any = {"first": one, "first_name": turned.second_name, "second": other, "second_name": turned.first_name}
        low, high = -turned.ci_high, -turned.ci_low
        return replace(turned, difference=-turned.difference, ci_low=low, ci_high=high, **sides)
