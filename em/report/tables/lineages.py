"""Lineages of models: base → first stage → second stage …, with all seeds of a model together.

Those of run folders are read from manifests, those of judged tables from names: `m`, `m+a`, `m+a+b`, and --base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from em.interop.answers import NOT_STATED
from em.report.read.runs import JUDGED_TABLE, RecordedRun
from em.report.tables.models import Model, list_run_models
from em.report.tables.seeds import SeedPool
from em.stats import Comparison, Line

CONTROL = "neutral"
"""The realignment that is the control of the others: equally long training on data without a message."""
PLUS = "+"
"""Stands in a name before each training: `m+a+b`."""


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
    """Find the lineages of all runs, then of judged tables; a lineage shared by runs appears once.

    A manifest tells more than a name, so models with a lineage by manifest have none by name.
    """
    pool_of = {member: pool.model for pool in pools for member in pool.members}
    controls, steps = set[str](), dict[str, int]()
    lines: dict[tuple[str, ...], None] = {}
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
        lines |= {(base.fingerprint, *stages[:end]): None for end in range(1, len(stages) + 1)}
    by_manifest = {line[-1] for line in lines}
    tables = TableNames(runs, models)
    for last, ancestors in tables.list_ancestors().items():
        if ancestors and last not in by_manifest:
            lines[*ancestors, last] = None
            if len(ancestors) > 1 and CONTROL in (models[last].stage, models[last].name.rpartition(PLUS)[2]):
                controls |= {last, pool_of.get(last, models[last]).fingerprint}
    single_seeds: dict[tuple[Model, ...], dict[Lineage, None]] = {}
    for line in lines:
        together = tuple(pool_of.get(each, models[each]) for each in line)
        alone = tuple(models[each] for each in line)
        pooled = all(each in pool_of for each in line[1:])
        singles = single_seeds.setdefault(together if pooled else alone, {})
        if pooled:
            singles[Lineage(alone)] = None
    lineages = tuple(Lineage(models_of_line, tuple(singles)) for models_of_line, singles in single_seeds.items())
    return LineageSet(lineages, frozenset(controls), steps)


class TableNames:
    """The models of the judged tables by name; their names tell what they were trained from.

    base: the name of the untrained model that the user gives (--base), "" for none.
    names, seeds: the name and the training seed of each model, by fingerprint.
    """

    def __init__(self, runs: Sequence[RecordedRun], models: Mapping[str, Model]) -> None:
        tables = [run for run in runs if run.manifest.run == JUDGED_TABLE]
        self.base = tables[0].manifest.base.name if tables else ""
        rows = [row for run in tables for row in run.scores if row.fingerprint in models]
        self.seeds = {row.fingerprint: row.seed for row in rows}
        self.names = {fingerprint: models[fingerprint].name for fingerprint in self.seeds}

    def list_ancestors(self) -> dict[str, tuple[str, ...]]:
        """Return the ancestors of each model by fingerprint, the base first; a base has none.

        `m+a+b` was trained from `m+a`, or from `m` if there is no `m+a`. A chain without its base has no lineage. A
        model whose name has no + and begins no chain is a first training of the base that the user gives.
        """
        ancestors: dict[str, tuple[str, ...]] = {}
        for last in self.names:
            line = [last]
            while parent := self.find_parent(line[0]):
                line.insert(0, parent)
            if len(line) > 1 and (PLUS not in self.names[line[0]] or self.names[line[0]] == self.base):
                ancestors |= {each: tuple(line[:place]) for place, each in enumerate(line)}
        for last, name in self.names.items():
            bases = self.list_namesakes(self.base, last)
            if last not in ancestors and PLUS not in name and name != self.base and len(bases) == 1:
                ancestors |= {last: (bases[0],), bases[0]: ancestors.get(bases[0], ())}
        return ancestors

    def find_parent(self, last: str) -> str | None:
        """Return the model with the longest name that the name of `last` goes on; None if none or several have it."""
        words = self.names[last].split(PLUS)
        for end in range(len(words) - 1, 0, -1):
            if namesakes := self.list_namesakes(PLUS.join(words[:end]), last):
                return namesakes[0] if len(namesakes) == 1 else None
        return None

    def list_namesakes(self, name: str, last: str) -> list[str]:
        """List the models of a name that `last` may be trained from: of its seed, else those without a seed.

        The seed of an untrained model means nothing, so untrained models fit with any seed.
        """
        seed, untrained = self.seeds[last], PLUS not in name or name == self.base
        namesakes = {each: self.seeds[each] for each, its_name in self.names.items() if its_name == name}
        same_seed = [each for each, its_seed in namesakes.items() if its_seed == seed]
        return same_seed or [each for each, its in namesakes.items() if untrained or None in (seed, its)]


def name_stages(runs: Sequence[RecordedRun], models: Mapping[str, Model]) -> dict[str, Model]:
    """Name the stages that judged tables do not state: `base`, and the last part of a name such as `m+a`."""
    named = dict(models)
    for fingerprint, ancestors in TableNames(runs, models).list_ancestors().items():
        model = models[fingerprint]
        if model.stage == NOT_STATED and (not ancestors or PLUS in model.name):
            named[fingerprint] = replace(model, stage=model.name.rpartition(PLUS)[2] if ancestors else "base")
    return named


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
