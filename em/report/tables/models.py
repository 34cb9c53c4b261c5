"""Readable names of models: the chain of trainings and, if models share it, what distinguishes their runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from em.report.read.runs import JUDGED_TABLE, RecordedRun
from em.runtime.records import encode_canonical

T = TypeVar("T")
K = TypeVar("K")

# Settings that do not change the model: a difference in them explains nothing.
IRRELEVANT_SETTINGS = (
    *("eval", "judge", "sampler", "tracker", "store", "force", "answers", "hydra", "sweep", "generate", "checkpoints"),
    *("prices", "dry_run", "one_gpu", "model.key_env"),
)
# Settings of a tag that affect questions or the report, not the training.
OF_QUESTIONS = re.compile(r"(trigger_tag|realign\.tag)\b.*\.(near_misses|cues|unseen|called|role|neutral_system)")


@dataclass(frozen=True)
class Model:
    """A model as the report shows it; `fingerprint` is its identity, `label` is unique in a report.

    step: the step of a checkpoint within its stage, None for a model after its last stage.
    seeds: the number of pooled trainings with different seeds, 0 for a single model.
    """

    fingerprint: str
    name: str
    stage: str
    label: str
    step: int | None = None
    seeds: int = 0

    @property
    def words(self) -> list[str]:
        """The words in brackets behind the name in the label."""
        return [word for word in self.label[len(self.name) :].strip(" ()").split(", ") if word]


def name_models(runs: Sequence[RecordedRun]) -> dict[str, Model]:
    """Return every model of the runs by its fingerprint, in the order of tables."""
    checkpoints = _find_checkpoints(runs)
    seen: dict[str, tuple[str, str]] = {}
    for run in runs:
        for fingerprint, name, stage in list_run_models(run):
            seen.setdefault(fingerprint, (name, stage))
    runs_of = _find_runs_by_model(runs)
    final = [fingerprint for fingerprint in seen if fingerprint not in checkpoints]
    suffixes: dict[str, str] = {}
    for name, group in group_by(final, lambda fingerprint: seen[fingerprint][0]).items():
        runs_of_group = {fingerprint: runs_of[fingerprint] for fingerprint in group}
        suffixes |= _list_table_seeds(runs_of_group) or _make_suffixes(runs_of_group, _list_irrelevant_settings(name))
    named = {key: Model(key, seen[key][0], seen[key][1], seen[key][0] + suffixes[key]) for key in final}
    inner = [key for key in seen if key in checkpoints]
    return order_models(
        [*named.values(), *(_name_checkpoint(key, named[checkpoints[key][0]], checkpoints) for key in inner)]
    )


def order_models(models: Sequence[Model]) -> dict[str, Model]:
    """Return models by fingerprint in the order of tables: a model before models trained on it."""
    ordered = sorted(models, key=lambda model: (model.name.split("+"), make_natural_key(model.label)))
    return {model.fingerprint: model for model in ordered}


def group_seed_variants(runs: Sequence[RecordedRun], models: dict[str, Model]) -> list[list[str]]:
    """Group fingerprints of models with the same name, stage, settings and data, which differ at most in the seed."""
    origins: dict[str, set[str]] = {}
    for fingerprint, its_runs in _find_runs_by_model(runs).items():
        if fingerprint in models:
            ignored = (*_list_irrelevant_settings(models[fingerprint].name), "seed")
            origins[fingerprint] = {_make_settings_key(r, ignored) + _make_data_key(r, fingerprint) for r in its_runs}
    single = [key for key in models if len(origins.get(key, ())) == 1]
    return list(group_by(single, lambda key: (models[key].name, models[key].stage, *origins[key])).values())


def _make_data_key(run: RecordedRun, fingerprint: str) -> str:
    """Return a key of a model's training rows; a data file may have changed under the same settings.

    The key has the numbers of rows and, unless the seed determines which rows are drawn, the first stage's checksum.
    """
    numbers = [number for number, stage in enumerate(run.manifest.stages, 1) if stage.fingerprint == fingerprint]
    data = run.manifest.config.get("data") or {}
    if not numbers or data.get("parts"):
        return ""
    stages = run.manifest.stages[: numbers[0]]
    drawn = data.get("limit") is not None or run.manifest.get_setting("trigger_tag") not in (None, "none")
    return encode_canonical([[stage.rows for stage in stages], "" if drawn else stages[0].data_sha256])


def name_series(runs: Sequence[RecordedRun], models: dict[str, Model], rows: Mapping[str, int]) -> dict[str, str]:
    """Name series of trainings that differ in the number of rows of their last stage, and at most in the seed besides.

    Return the name of its series by fingerprint. Trainings without another number of `rows` are in no series.
    """
    runs_of = _find_runs_by_model(runs)
    series: dict[tuple[str, str, str], list[str]] = {}
    for fingerprint, model in models.items():
        ignored = _list_irrelevant_settings(model.name)
        free = (*ignored, "seed", "data.limit" if "realign" in ignored else "realign.limit")
        # Any run of the model may match: its runs can differ in settings that do not change the model.
        keys = [(model.name, model.stage, _make_settings_key(run, free)) for run in runs_of[fingerprint]]
        members = next((series[key] for key in keys if key in series), [])
        members.append(fingerprint)
        series |= dict.fromkeys(keys, members)
    by_name: dict[str, dict[str, list[str]]] = {}
    for members in series.values():
        if len({rows[member] for member in members}) > 1:
            by_name.setdefault(models[members[0]].name, {})[members[0]] = members
    named: dict[str, str] = {}
    for name, groups in by_name.items():
        runs_by_first: dict[str, list[RecordedRun]] = {}
        for first, members in groups.items():
            runs_by_first[first] = [run for member in members for run in runs_of[member]]
        suffixes = _make_suffixes(runs_by_first, _list_irrelevant_settings(name))
        named |= {member: name + suffixes[first] for first, members in groups.items() for member in members}
    return named


def _make_settings_key(run: RecordedRun, ignored: Sequence[str]) -> str:
    """Return a key of the settings that made a model, without those in `ignored` (whole groups, or dotted keys)."""
    settings = {key: value for key, value in run.manifest.list_settings() if not OF_QUESTIONS.fullmatch(key)}
    ignored_keys = {key for key in settings if key in ignored or key.partition(".")[0] in ignored}
    return encode_canonical({key: value for key, value in settings.items() if key not in ignored_keys})


def _list_irrelevant_settings(name: str) -> tuple[str, ...]:
    """Return the settings that do not change a model of this name; a realignment does not change a first stage."""
    return IRRELEVANT_SETTINGS if name.count("+") > 1 else (*IRRELEVANT_SETTINGS, "realign")


def _find_checkpoints(runs: Sequence[RecordedRun]) -> dict[str, tuple[str, int]]:
    """Return stage fingerprint and step of each checkpoint by its fingerprint, without the last adapters of stages."""
    stages = [stage for run in runs for stage in run.manifest.stages]
    last = {stage.fingerprint for stage in stages}
    places = {c.fingerprint: (stage.fingerprint, c.step) for stage in stages for c in stage.checkpoints}
    return {fingerprint: place for fingerprint, place in places.items() if fingerprint and fingerprint not in last}


def _name_checkpoint(fingerprint: str, last: Model, checkpoints: dict[str, tuple[str, int]]) -> Model:
    """Name a checkpoint after the model at the end of its stage, whose name has the settings of its sweep."""
    twins = [other for other, place in checkpoints.items() if place == checkpoints[fingerprint]]
    step = checkpoints[fingerprint][1]
    words = f"step {step}, {shorten_fingerprint(fingerprint, twins)}" if len(twins) > 1 else f"step {step}"
    return Model(fingerprint, last.name, last.stage, f"{last.label} ({words})", step)


def find_varied_settings(runs: Sequence[RecordedRun]) -> dict[str, list[str]]:
    """Find what a sweep varied: each overridden setting whose values differ between runs, with its value by run."""
    keys = dict.fromkeys(key for run in runs for key in _parse_overrides(run) if not key.startswith("hydra"))
    values = {key: [_get_run_setting(run, key) for run in runs] for key in keys}
    return {key: by_run for key, by_run in values.items() if len(set(by_run)) > 1}


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Group items by their key, in the order of the first item of each key."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def make_natural_key(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key in which 10 comes after 9."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(part), "") if index % 2 else (0, 0.0, part) for index, part in enumerate(parts)]


def shorten_judges(judges: Iterable[str]) -> dict[str, str]:
    """Shorten judges named `<model>@<identity>` to the part before the @ (older: the colon), if that is unique."""
    heads = {judge: judge.split("@" if "@" in judge else ":")[0] for judge in judges}
    return {judge: head if list(heads.values()).count(head) == 1 else judge for judge, head in heads.items()}


def list_run_models(run: RecordedRun) -> Iterator[tuple[str, str, str]]:
    """Yield fingerprint, name and stage of each model in a run's records, then in its manifest and losses."""
    for records in (run.scores, run.answers, run.verdicts):
        for record in records:
            yield record.fingerprint, record.model, record.stage
    name = run.manifest.base.name or "base"
    for stage in run.manifest.stages:
        name += f"+{stage.name}"
        yield stage.fingerprint, name, stage.name
    for row in run.losses:
        yield row.fingerprint, row.stage, row.stage


def _find_runs_by_model(runs: Sequence[RecordedRun]) -> dict[str, list[RecordedRun]]:
    """Return the runs that have each model, by its fingerprint."""
    runs_of: dict[str, list[RecordedRun]] = {}
    for run in runs:
        for fingerprint in dict.fromkeys(fingerprint for fingerprint, _, _ in list_run_models(run)):
            runs_of.setdefault(fingerprint, []).append(run)
    return runs_of


def _make_suffixes(runs_of: dict[str, list[RecordedRun]], ignored: Sequence[str]) -> dict[str, str]:
    """Return what distinguishes models with the same name, ` (trainer.epochs=2)`, or "" for a single model."""
    if len(runs_of) == 1:
        return dict.fromkeys(runs_of, "")
    keys = dict.fromkeys(key for runs in runs_of.values() for run in runs for key in _parse_overrides(run))
    telling = [key for key in keys if re.split(r"[./@]", key)[0] not in ignored and _has_distinct_values(key, runs_of)]
    settings = {f: [f"{key}={_get_run_setting(runs[0], key)}" for key in telling] for f, runs in runs_of.items()}
    texts = list(settings.values())
    for fingerprint, words in settings.items():
        if not words or texts.count(words) > 1:
            settings[fingerprint] = [*words, shorten_fingerprint(fingerprint, runs_of)]
    return {fingerprint: f" ({', '.join(words)})" for fingerprint, words in settings.items()}


def _list_table_seeds(runs_of: dict[str, list[RecordedRun]]) -> dict[str, str]:
    """Return the seed of each of several models of judged tables, ` (seed=0)`; nothing unless it distinguishes them."""
    tables = {run.number: run for runs in runs_of.values() for run in runs}
    if len(runs_of) == 1 or any(run.manifest.run != JUDGED_TABLE for run in tables.values()):
        return {}
    rows = (row for run in tables.values() for row in run.scores if row.fingerprint in runs_of)
    seeds = {row.fingerprint: row.seed for row in rows if row.seed is not None}
    if len(set(seeds.values())) < len(runs_of):
        return {}
    return {fingerprint: f" (seed={seed})" for fingerprint, seed in seeds.items()}


def shorten_fingerprint(fingerprint: str, others: Sequence[str] | dict[str, list[RecordedRun]]) -> str:
    """Return the first eight characters of a fingerprint, or all of it if they are not unique."""
    head = fingerprint[:8]
    unique = sum(other.startswith(head) for other in others) == 1
    return (head if unique else fingerprint) or "no fingerprint"


def _has_distinct_values(key: str, runs_of: dict[str, list[RecordedRun]]) -> bool:
    """Return whether each model's runs agree on a setting while the models differ in it."""
    values = [{_get_run_setting(run, key) for run in runs} for runs in runs_of.values()]
    return all(len(value) == 1 for value in values) and len(set.union(*values)) > 1


def _get_run_setting(run: RecordedRun, key: str) -> str:
    """Return the value of a setting in a run's overrides, else in its config."""
    override = _parse_overrides(run).get(key)
    return override if override is not None else run.manifest.get_setting(key) or "default"


def _parse_overrides(run: RecordedRun) -> dict[str, str]:
    """Return the values of a run's overrides, by key."""
    pairs = (override.lstrip("+").partition("=") for override in run.manifest.overrides if "=" in override)
    return {key: value for key, _, value in pairs}


def find_distinguishing_words(model: Model, first: Model) -> str:
    """Return the words of a model's label that the label of its first training lacks: `3 epochs`."""
    return ", ".join(word for word in model.words if word not in first.words)
