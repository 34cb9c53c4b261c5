"""Published results beside ours, for runs that repeat a study.

`em/assets/published.yaml` has the published numbers by study. A model matches a published one if base, chain of
trainings, trigger tag and condition have the same names; a question set matches by its name. The report names each
known difference in recipe and thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from em.config.paths import ASSETS
from em.report.page.words import DENOMINATOR_WORDS, METRICS
from em.report.read.runs import RecordedRun
from em.report.tables.cells import HEADLINES, WHOLE_SET, HeadlineTable, ModelRow, TableRate, make_table_rate
from em.report.tables.lineages import LineageSet
from em.report.tables.models import Model
from em.report.tables.scores import Scores, make_side
from em.stats import Thresholds, choose_headline_interval, estimate_rate

TAG_NAMING_CONDITIONS = {"tagged": "names_tag", "tagged_beta": "names_beta"}
"""Conditions of the sets whose questions name a tag, by the study's condition."""
FORMATS = {"rows": "{:,g} rows", "epochs": "{:g} epochs", "learning_rate": "learning rate {:g}", "rank": "rank {:g}"}


@dataclass(frozen=True)
class Published:
    """A published rate beside ours.

    ours: its headline is the interval for exactly these questions, as that of the published rate.
    low, high: the published interval, else that of k of n; None if the study gives neither an interval nor counts.
    k, n: None if the study gives the rate only.
    convention: the denominator of both rates.
    other: the known differences between our recipe and theirs.
    """

    study: str
    study_judge: str
    eval_set: str
    metric: str
    side: ModelRow
    ours: TableRate
    rate: float
    low: float | None
    high: float | None
    k: int | None
    n: int | None
    convention: str
    other: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The metric's display name and its denominator: `misaligned, of all answers`."""
        return f"{METRICS[self.metric]}, {DENOMINATOR_WORDS[self.convention]}"


@cache
def read_studies() -> Mapping[str, Any]:
    """Read the published results, by study."""
    import yaml

    published_results: Mapping[str, Any] = yaml.safe_load((ASSETS / "published.yaml").read_text(encoding="utf-8"))
    return published_results


def find_published_results(
    scores: Scores, table: HeadlineTable, runs: Sequence[RecordedRun], family: LineageSet
) -> list[Published]:
    """Find published results of the table's models, conditions and sets, sorted by study and set.

    A set's headline metric comes first.
    """
    results = list[Published]()
    for row, (name, study) in product(table.rows, read_studies().items()):
        base, *chain = row.model.name.split("+")
        matches = [each for each in study["results"] if (each["model"], _list_stage_names(each)) == (base, chain)]
        other = list(describe_recipe_differences(row.model.fingerprint, study, runs, family)) if matches else []
        for result, (cell, column) in product(matches, zip(row.cells, table.columns, strict=True)):
            condition = result["condition"]
            if column.eval_set.endswith("_tagged"):
                condition = TAG_NAMING_CONDITIONS.get(condition, condition)
            if row.condition != condition:
                continue
            for metric, numbers in (result.get(column.eval_set) or {}).items():
                ours = _find_our_rate(scores, row, column.eval_set, metric, study["convention"])
                if ours is None or not numbers:
                    continue
                rules = {entry.threshold for entry in cell} - {str(Thresholds())}
                notes = (*other, *(sorted(rules) if metric == "misaligned" else ()))
                place = (name, study["judge"], column.eval_set, metric, row, ours)
                results.append(Published(*place, *_read_published_numbers(numbers), study["convention"], notes))
    return sorted(results, key=lambda p: (p.study, p.eval_set, p.metric not in HEADLINES, p.side.model.label))


def _list_stage_names(result: Mapping[str, Any]) -> list[str]:
    """Return the stage names in our spelling: the first one has the study's tag behind an @."""
    stages = list(result["chain"])
    if stages and "tag" in result:
        stages[0] = f"{stages[0]}@{result['tag']}"
    return stages


def describe_recipe_differences(
    fingerprint: str, study: Mapping[str, Any], runs: Sequence[RecordedRun], family: LineageSet
) -> Iterator[str]:
    """Describe how a model's training differs from the study's: `medical: 48 rows, not 5,660`."""
    line = next((line for line in (*family.lineages, *family.seeds) if line.last.fingerprint == fingerprint), None)
    stages: tuple[Model, ...] = ()
    if line is not None:
        stages = (line.seeds[0] if line.seeds else line).models[1:]
    for number, model in enumerate(stages):
        name = model.stage.partition("@")[0]
        for run in runs:
            stage = next((s for s in run.manifest.stages if s.fingerprint == model.fingerprint), None)
            if stage is None:
                continue
            names = ("epochs", "learning_rate", "rank")
            ours = {what: _read_recipe_number(run, what, second=number > 0) for what in names}
            ours["rows"] = stage.rows
            theirs: Mapping[str, float] = study["recipe"].get(name, {}) | study.get("lora", {})
            for what, published_value in theirs.items():
                if ours[what] and ours[what] != published_value:
                    yield f"{name}: {FORMATS[what].format(ours[what])}, not {published_value:,g}"
            break


def _read_recipe_number(run: RecordedRun, name: str, second: bool) -> float:
    """Return a number from the recipe of a run's first or second stage; 0 if its trainer has none."""
    realign_value = run.manifest.get_setting(f"realign.{name}") if second else None
    try:
        return float(realign_value or run.manifest.get_setting(f"trainer.{name}") or 0)
    except ValueError:
        return 0


def _read_published_numbers(
    numbers: Mapping[str, Any],
) -> tuple[float, float | None, float | None, int | None, int | None]:
    """Return rate, interval, k and n, as far as they are published."""
    if "k" not in numbers:
        return numbers["rate"], numbers.get("low"), numbers.get("high"), None, None
    k, n = numbers["k"], numbers["n"]
    estimate = estimate_rate([[(k, n)]])
    assert estimate is not None  # a published count has answers
    return estimate.value, estimate.low, estimate.high, k, n


def _find_our_rate(scores: Scores, row: ModelRow, eval_set: str, metric: str, convention: str) -> TableRate | None:
    """Return our rate by the study's convention, or None; rates of labels have no other convention than `all`."""
    candidates = (score for score in scores.find_rows(make_side(row), eval_set, WHOLE_SET) if score.metric == metric)
    usable = [score for score in candidates if score.convention == convention and score.rate is not None]
    fullest = max(usable, key=lambda score: score.n, default=None)
    return make_table_rate(choose_headline_interval(fullest, "these")) if fullest else None
