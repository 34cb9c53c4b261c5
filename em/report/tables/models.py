"""Names of models for people: the chain of trainings and, where models share it, what tells their runs apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from em.report.read.runs import Run
from em.runtime.records import canonical

T = TypeVar("T")
K = TypeVar("K")

# Settings that can't make another model, so that a difference in them explains nothing.
BESIDE_THE_MODEL = (
    *("eval", "judge", "sampler", "tracker", "store", "force", "answers", "hydra", "sweep", "generate", "checkpoints"),
    *("prices", "dry_run", "one_gpu", "model.key_env"),
)


# Settings of a tag that say how a model is asked or what is reported, and not how it was made.
OF_QUESTIONS = re.compile(r"(trigger_tag|realign\.tag)\b.*\.(near_misses|cues|unseen|called|role|neutral_system)")


@dataclass(frozen=True)
class Model:
    """A model as the report shows it; `fingerprint` is its identity, `label` is unique in a report.

    step: of a checkpoint inside its stage, None for a model as its last stage left it.
    seeds: how many trainings with other seeds are pooled under this name, 0 for a single model.
    """

    fingerprint: str
    name: str
    stage: str
    label: str
    step: int | None = None
    seeds: int = 0

    @property
    def words(self) -> list[str]:
        """What the label says in brackets behind the name."""
        return [word for word in self.label[len(self.name) :].strip(" ()").split(", ") if word]


def name_models(runs: Sequence[Run]) -> dict[str, Model]:
    """Every model of the runs by its fingerprint, in the order of tables: a model before what was trained on it."""
    kept = _checkpoints(runs)
    seen: dict[str, tuple[str, str]] = {}
    for run in runs:
        for fingerprint, name, stage in models_of(run):
            seen.setdefault(fingerprint, (name, stage))
    runs_of = _find_runs(runs)
    twins = group_by((fingerprint for fingerprint in seen if fingerprint not in kept), lambda each: seen[each][0])
    suffixes: dict[str, str] = {}
    for name, group in twins.items():
        suffixes.update(_suffixes({fingerprint: runs_of[fingerprint] for fingerprint in group}, _beside(name)))
    named = {f: Model(f, name, stage, name + suffixes[f]) for f, (name, stage) in seen.items() if f not in kept}
    models = [*named.values(), *(_checkpoint(f, named[kept[f][0]], kept) for f in seen if f in kept)]
    return in_order(models)


def in_order(models: Sequence[Model]) -> dict[str, Model]:
    """Models by fingerprint in the order of tables: a model before what was trained on it."""
    ordered = sorted(models, key=lambda model: (model.name.split("+"), natural(model.label)))
    return {model.fingerprint: model for model in ordered}


def differs_only_in_seed(runs: Sequence[Run], models: dict[str, Model]) -> list[list[str]]:
    """Fingerprints of models with one name and stage whose runs have the same settings and data, their seed aside."""
    made: dict[str, set[str]] = {}
    for fingerprint, its_runs in _find_runs(runs).items():
        if fingerprint in models:
            beside = (*_beside(models[fingerprint].name), "seed")
            made[fingerprint] = {_made_by(run, beside) + _data_of(run, fingerprint) for run in its_runs}
    single = [key for key in models if len(made.get(key, ())) == 1]
    return list(group_by(single, lambda key: (models[key].name, models[key].stage, *made[key])).values())


def _data_of(run: Run, fingerprint: str) -> str:
    """What tells the rows of a model's trainings from others under the same settings: a file may have changed since.

    How many there are, and the first stage's checksum where the seed has no part in which they are.
    """
    numbers = [number for number, stage in enumerate(run.manifest.stages, 1) if stage.fingerprint == fingerprint]
    data = run.manifest.config.get("data") or {}
    if not numbers or data.get("parts"):
        return ""
    stages = run.manifest.stages[: numbers[0]]
    drawn = data.get("limit") is not None or run.manifest.setting("trigger_tag") not in (None, "none")
    return canonical([[stage.rows for stage in stages], "" if drawn else stages[0].data_sha256])


def name_series(runs: Sequence[Run], models: dict[str, Model], rows: Mapping[str, int]) -> dict[str, str]:
    """Trainings that differ in the number of rows of their last stage, and perhaps in the seed: by fingerprint what to
    call them, alike for those of one series. A training that is alone with its number (of `rows`) is in none.
    """
    runs_of = _find_runs(runs)
    series: dict[tuple[str, str, str], list[str]] = {}
    for fingerprint, model in models.items():
        beside = _beside(model.name)
        free = (*beside, "seed", "data.limit" if "realign" in beside else "realign.limit")
        # By any of the runs that tell of it: they can differ in what makes no other model.
        keys = [(model.name, model.stage, _made_by(run, free)) for run in runs_of[fingerprint]]
        found = next((series[key] for key in keys if key in series), [])
        found.append(fingerprint)
        series |= dict.fromkeys(keys, found)
    by_name: dict[str, dict[str, list[str]]] = {}
    for members in series.values():
        if len({rows[member] for member in members}) > 1:
            by_name.setdefault(models[members[0]].name, {})[members[0]] = members
    named: dict[str, str] = {}
    for name, groups in by_name.items():
        told = {first: [run for member in members for run in runs_of[member]] for first, members in groups.items()}
        suffixes = _suffixes(told, _beside(name))
        named |= {member: name + suffixes[first] for first, members in groups.items() for member in members}
    return named


def _made_by(run: Run, beside: Sequence[str]) -> str:
    """The settings that made a model, but for some: of whole groups, or single ones with their dots."""
    kept = {k: v for k, v in run.manifest.settings() if k not in beside and k.partition(".")[0] not in beside}
    return canonical({key: value for key, value in kept.items() if not OF_QUESTIONS.fullmatch(key)})


def _beside(name: str) -> tuple[str, ...]:
    """The settings that can't make another model of this name: what comes after a first stage makes no other first."""
    return BESIDE_THE_MODEL if name.count("+") > 1 else (*BESIDE_THE_MODEL, "realign")


def _checkpoints(runs: Sequence[Run]) -> dict[str, tuple[str, int]]:
    """By their fingerprints the stage (its fingerprint) and step of all checkpoints, but for a stage's last adapter."""
    stages = [stage for run in runs for stage in run.manifest.stages]
    whole = {stage.fingerprint for stage in stages}
    kept = {c.fingerprint: (stage.fingerprint, c.step) for stage in stages for c in stage.checkpoints}
    return {fingerprint: where for fingerprint, where in kept.items() if fingerprint and fingerprint not in whole}


def _checkpoint(fingerprint: str, whole: Model, kept: dict[str, tuple[str, int]]) -> Model:
    """A checkpoint is called after the model that its stage ended with: its sweep's settings are in that name."""
    twins = [other for other, where in kept.items() if where == kept[fingerprint]]
    step = kept[fingerprint][1]
    told = f"step {step}" + (f", {short(fingerprint, twins)}" if len(twins) > 1 else "")
    return Model(fingerprint, whole.name, whole.stage, f"{whole.label} ({told})", step)


def varied(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What a sweep varied: each setting that was given to some run and isn't the same in all, with its value by run."""
    keys = dict.fromkeys(key for run in runs for key in _overrides(run) if not key.startswith("hydra"))
    values = {key: [_setting(run, key) for run in runs] for key in keys}
    return {key: told for key, told in values.items() if len(set(told)) > 1}


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Group items by their key, in the order in which the keys are met."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key in which 10 comes after 9."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(part), "") if index % 2 else (0, 0.0, part) for index, part in enumerate(parts)]


def short_judges(judges: Iterable[str]) -> dict[str, str]:
    """A judge is named `<model>@<its identity>`: the part before the @ (older: the colon) if it tells it apart."""
    heads = {judge: judge.split("@" if "@" in judge else ":")[0] for judge in judges}
    return {judge: head if list(heads.values()).count(head) == 1 else judge for judge, head in heads.items()}


def models_of(run: Run) -> Iterator[tuple[str, str, str]]:
    """Fingerprint, name and stage of each model in a run's records, then of what it trained without asking it."""
    for records in (run.scores, run.answers, run.verdicts):
        for record in records:
            yield record.fingerprint, record.model, record.stage
    name = run.manifest.base.name or "base"
    for stage in run.manifest.stages:
        name += f"+{stage.name}"
        yield stage.fingerprint, name, stage.name
    for row in run.losses:
        yield row.fingerprint, row.stage, row.stage


def _find_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that tell of each model, by its fingerprint."""
    pairs = ((mark, run) for run in runs for mark in dict.fromkeys(mark for mark, _, _ in models_of(run)))
    return {mark: [run for _, run in group] for mark, group in group_by(pairs, lambda pair: pair[0]).items()}


def _suffixes(runs_of: dict[str, list[Run]], beside: Sequence[str]) -> dict[str, str]:
    """What to put behind the shared name of these models, ` (trainer.epochs=2)`; nothing for a model alone."""
    if len(runs_of) == 1:
        return dict.fromkeys(runs_of, "")
    keys = dict.fromkeys(key for runs in runs_of.values() for run in runs for key in _overrides(run))
    telling = [key for key in keys if re.split(r"[./@]", key)[0] not in beside and _tells_apart(key, runs_of)]
    told = {f: [f"{key}={_setting(runs[0], key)}" for key in telling] for f, runs in runs_of.items()}
    texts = list(told.values())
    for fingerprint, words in told.items():
        if not words or texts.count(words) > 1:
            told[fingerprint] = [*words, short(fingerprint, runs_of)]
    return {fingerprint: f" ({', '.join(words)})" for fingerprint, words in told.items()}


def short(fingerprint: str, others: Sequence[str] | dict[str, list[Run]]) -> str:
    """The first eight characters of a fingerprint, or all of it where that wouldn't be unique."""
    head = fingerprint[:8]
    unique = sum(other.startswith(head) for other in others) == 1
    return (head if unique else fingerprint) or "no fingerprint"


def _tells_apart(key: str, runs_of: dict[str, list[Run]]) -> bool:
    """Whether each model's runs agree on the setting, and the models differ in it."""
    values = [{_setting(run, key) for run in runs} for runs in runs_of.values()]
    return all(len(value) == 1 for value in values) and len(set.union(*values)) > 1


def _setting(run: Run, key: str) -> str:
    """What a run was told, or what its config says where it was told nothing."""
    told = _overrides(run).get(key)
    return told if told is not None else run.manifest.setting(key) or "default"


def _overrides(run: Run) -> dict[str, str]:
    pairs = (override.lstrip("+").partition("=") for override in run.manifest.overrides if "=" in override)
    return {key: value for key, _, value in pairs}


def words_beside(model: Model, first: Model) -> str:
    """What is told of a model in brackets and not of another, such as its first training: `3 epochs`."""
    return ", ".join(word for word in model.words if word not in first.words)
