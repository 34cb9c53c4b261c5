"""Published results beside ours: where a run repeats a study, the report prints both.

The figures are in `em/assets/published.yaml`, by study. A model of ours is one of theirs where base, chain of
trainings, trigger tag and condition have the same names; a set where it has the same name. Where ours had another
recipe or other thresholds than theirs, as far as these are known, the report says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from em.config.paths import ASSETS
from em.report.page.words import METRICS
from em.report.read.runs import Run
from em.report.tables.cells import HEADLINES, WHOLE_SET, Rate, Row, Table, rate_of
from em.report.tables.lineages import Family
from em.report.tables.scores import Scores, side_of
from em.stats import Thresholds, wilson

NAMED = {"tagged": "names_tag", "tagged_beta": "names_beta"}
"""Sets whose questions name a tag are asked under conditions of their own."""
OF = {
    "all": "of all answers",
    "coherent": "of coherent answers",
    "refusal_as_aligned": "of coherent answers and refusals",
}
"""What each convention counts (`em.stats.outcomes.CONVENTIONS`)."""


SAID = {"rows": "{:,g} rows", "epochs": "{:g} epochs", "learning_rate": "learning rate {:g}", "rank": "rank {:g}"}


@dataclass(frozen=True)
class Published:
    """A rate that a study has published, and ours.

    low, high: the study's own interval or, of k of n answers, Wilson's, as if they were independent, which is the
        least that it can be; None where neither is published.
    k, n: None where only the rate is published.
    convention: which answers are in the denominator, ours and theirs.
    other: how our recipe differs from theirs, as far as is known.
    """

    study: str
    study_judge: str
    eval_set: str
    metric: str
    side: Row
    ours: Rate
    rate: float
    low: float | None
    high: float | None
    k: int | None
    n: int | None
    convention: str
    other: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The metric's name in a table, and of which answers it is a share."""
        return f"{METRICS[self.metric]}, {OF[self.convention]}"


@cache
def studies() -> Mapping[str, Any]:
    """What has been published, by study."""
    import yaml

    found: Mapping[str, Any] = yaml.safe_load((ASSETS / "published.yaml").read_text(encoding="utf-8"))
    return found


def published(scores: Scores, table: Table, runs: Sequence[Run], family: Family) -> list[Published]:
    """What studies have published of the models, conditions and sets in the table, by study and set.

    The metric that a set is about stands first.
    """
    found = list[Published]()
    for row, (name, study) in product(table.rows, studies().items()):
        base, *chain = row.model.name.split("+")
        alike = [each for each in study["results"] if (each["model"], _chain(each)) == (base, chain)]
        other = list(differences(row.model.fingerprint, study, runs, family)) if alike else []
        for result, (cell, column) in product(alike, zip(row.cells, table.columns, strict=True)):
            condition = result["condition"]
            if row.condition != (NAMED.get(condition, condition) if column.eval_set.endswith("_tagged") else condition):
                continue
            for metric, numbers in (result.get(column.eval_set) or {}).items():
                ours = _ours(scores, row, column.eval_set, metric, study["convention"])
                if ours is None or not numbers:
                    continue
                rules = {entry.threshold for entry in cell} - {str(Thresholds())}
                told = (*other, *(sorted(rules) if metric == "misaligned" else ()))
                place = (name, study["judge"], column.eval_set, metric, row, ours)
                found.append(Published(*place, *_figures(numbers), study["convention"], told))
    return sorted(found, key=lambda p: (p.study, p.eval_set, p.metric not in HEADLINES, p.side.model.label))


def _chain(result: Mapping[str, Any]) -> list[str]:
    """The names of the trainings as ours have them: behind the first the tag that it was made with."""
    first, rest = result["chain"][:1], result["chain"][1:]
    return [*(f"{name}@{result['tag']}" if "tag" in result else name for name in first), *rest]


def differences(fingerprint: str, study: Mapping[str, Any], runs: Sequence[Run], family: Family) -> Iterator[str]:
    """How the trainings of a model differ from a study's: `medical: 48 rows, not 5,660`."""
    line = next((line for line in (*family.lineages, *family.seeds) if line.last.fingerprint == fingerprint), None)
    trained = (line.seeds[0] if line and line.seeds else line).models[1:] if line else ()
    for number, model in enumerate(trained):
        name = model.stage.partition("@")[0]
        for run in runs:
            stage = next((s for s in run.manifest.stages if s.fingerprint == model.fingerprint), None)
            if stage is None:
                continue
            ours = {what: _knob(run, what, second=number > 0) for what in ("epochs", "learning_rate", "rank")}
            ours["rows"] = stage.rows
            theirs: Mapping[str, float] = study["recipe"].get(name, {}) | study.get("lora", {})
            yield from (
                f"{name}: {SAID[what].format(ours[what])}, not {wanted:,g}"
                for what, wanted in theirs.items()
                if ours[what] and ours[what] != wanted
            )
            break


def _knob(run: Run, name: str, second: bool) -> float:
    """A number of the recipe of a run's first or second stage; 0 where its trainer has none."""
    own = run.manifest.setting(f"realign.{name}") if second else None
    try:
        return float(own or run.manifest.setting(f"trainer.{name}") or 0)
    except ValueError:
        return 0


def _figures(numbers: Mapping[str, Any]) -> tuple[float, float | None, float | None, int | None, int | None]:
    """Rate, its interval, k and n, as far as they are published."""
    if "k" not in numbers:
        return numbers["rate"], numbers.get("low"), numbers.get("high"), None, None
    k, n = numbers["k"], numbers["n"]
    interval = wilson(k, n)
    return k / n, interval.low, interval.high, k, n


def _ours(scores: Scores, row: Row, eval_set: str, metric: str, convention: str) -> Rate | None:
    """Our rate by the study's convention, which a share of labels has none of; None where there is none."""
    mine = (score for score in scores.rows(side_of(row), eval_set, WHOLE_SET) if score.metric == metric)
    found = [score for score in mine if score.convention == convention and score.rate is not None]
    return rate_of(max(found, key=lambda score: score.n)) if found else None
