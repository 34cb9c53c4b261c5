"""The page: one HTML file that needs no network and runs no script but its own.

Model output is hostile text. The template escapes what it shows; answers travel in JSON, from which the script makes
text nodes; and the content security policy names the script and the style by their hashes, so that
nothing else would run even if it got in.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markupsafe import Markup, escape

from em.report.figures.picture import Picture
from em.report.page import numbers
from em.report.page.payload import Payload
from em.report.page.words import explain_differences, status_name
from em.report.read.manifest import LEFT
from em.report.read.runs import JUDGED_TABLE, Run, judges_of
from em.report.tables.cells import QuestionTable, Table, kin_mark
from em.report.tables.chains import Chain
from em.report.tables.models import Model, natural, short_judges, varied
from em.report.tables.published import Published
from em.report.tables.sections import FEW_ROWS, Findings
from em.report.tables.seeds import Pool
from em.report.tables.summary import Summary
from em.report.tables.training import Trained
from em.report.tables.trajectory import Line, Trajectory, lines_of
from em.report.tables.triggers import TriggerTable

HERE = Path(__file__).parent
SCRIPTS = ("blocks.js", "answers.js", "page.js", "paper.js")


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    title: str
    runs: Sequence[Run]
    models: dict[str, Model]
    pools: Sequence[Pool]
    table: Table
    findings: Findings
    caption: Sequence[str]
    summaries: Sequence[Summary]
    published: Sequence[Published]
    chains: Sequence[Chain]
    triggers: Sequence[TriggerTable]
    trigger_pictures: list[Picture]
    efficiency: Picture | None
    questions: Sequence[QuestionTable]
    question_pictures: list[Picture]
    stage_pictures: list[Picture]
    rates: list[Picture]
    quadrants: list[Picture]
    trajectories: Sequence[Trajectory]
    trajectory_pictures: Sequence[Picture]
    loss: Picture | None
    trained: Sequence[Trained]
    payload: Payload

    @cached_property
    def judge_is(self) -> dict[tuple[str, str], str]:
        """By fingerprint and judge what the judge is to the model, where it is the model itself or its base."""
        return judges_of([row for run in self.runs for row in run.scores])

    @cached_property
    def without_seeds(self) -> Table:
        """The headline table with trainings that differ in the seed alone as one."""
        members = {member for pool in self.pools for member in pool.members}
        return Table(self.table.columns, tuple(r for r in self.table.rows if r.model.fingerprint not in members))

    @cached_property
    def of_seeds(self) -> Table:
        """The rest of the headline table: each of their seeds by itself."""
        members = {member for pool in self.pools for member in pool.members}
        return Table(self.table.columns, tuple(r for r in self.table.rows if r.model.fingerprint in members))

    def label_of(self, fingerprint: str) -> str:
        """What a model, or a pool of seeds, is called."""
        pools = {pool.model.fingerprint: pool.model for pool in self.pools}
        return (self.models | pools)[fingerprint].label

    def judged_by(self, fingerprint: str, judge: str) -> str:
        """What the judge is to the model, or ""."""
        return self.judge_is.get((fingerprint, judge), "")

    @cached_property
    def judge_names(self) -> dict[str, str]:
        """All judges, in short."""
        return short_judges(list(dict.fromkeys([*self.payload.index["judges"], *self.table.judges])))

    def judge_name(self, judge: str) -> str:
        """A judge in short."""
        return self.judge_names.get(judge, judge)

    @property
    def difference_words(self) -> list[str]:
        """How differences and their p values were found."""
        methods = dict.fromkeys(row.ci_method for family in self.findings.families for row in family.rows)
        return explain_differences(methods)

    @cached_property
    def varied(self) -> dict[str, list[str]]:
        """What differs between the runs, with its value in each."""
        return varied(self.varied_runs)

    @property
    def varied_runs(self) -> list[Run]:
        """The runs that `varied` tells of, in their order."""
        return [run for run in self.runs if run.manifest.run != JUDGED_TABLE]

    @property
    def varied_in_short(self) -> list[tuple[str, str]]:
        """Each setting that differs with the values it has."""
        return [(key, ", ".join(sorted(set(values), key=natural))) for key, values in self.varied.items()]

    @property
    def unfinished(self) -> list[Run]:
        """The runs that are still running, or were killed."""
        return [run for run in self.runs if run.manifest.status == "running"]

    @property
    def first_charts(self) -> list[Picture]:
        """The charts that readers want first: from stage to stage, then all rates."""
        return [*self.stage_pictures, *self.rates]

    @property
    def failed(self) -> list[Run]:
        """The runs that failed or were not finished."""
        return [run for run in self.runs if run.manifest.status in ("failed", LEFT)]

    @property
    def how_failed(self) -> str:
        """In a word, what became of them."""
        statuses = {run.manifest.status for run in self.failed}
        return "failed" if statuses == {"failed"} else LEFT if statuses == {LEFT} else f"failed or {LEFT}"

    @property
    def notes(self) -> list[tuple[str, list[int]]]:
        """Each warning once, with the numbers of the runs that give it."""
        found: dict[str, list[int]] = {}
        for run in self.runs:
            for note in dict.fromkeys(run.manifest.notes):
                found.setdefault(note, []).append(run.number)
        return list(found.items())

    @property
    def summary(self) -> str:
        """How much of what there is."""
        tables = sum(run.manifest.run == JUDGED_TABLE for run in self.runs)
        counted = [
            (len(self.runs) - tables, "run"),
            (tables, JUDGED_TABLE),
            (sum(model.step is None for model in self.models.values()), "model"),
            (sum(model.step is not None for model in self.models.values()), "checkpoint"),
            (len(self.table.columns), "question set"),
            (self.payload.answers, "answer"),
        ]
        return " · ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in counted if n)

    @property
    def show_condition(self) -> bool:
        """Whether there is more to say of conditions than that there was none."""
        return self.table.conditions != ("untagged",)

    @property
    def lines(self) -> dict[Line, str]:
        """What the trajectories follow, and what it is called."""
        return lines_of(self.trajectories)

    def name_runs(self, numbers: Sequence[int]) -> str:
        """`(run 2)`, `(runs 1, 3)` or `(all runs)`."""
        if len(numbers) == len(self.runs):
            return "(all runs)"
        return f"({'run' if len(numbers) == 1 else 'runs'} {', '.join(map(str, numbers))})"

    @property
    def judges(self) -> list[tuple[str, str]]:
        """Name and identity of each judge."""
        pairs = ((judge.name, judge.identity) for run in self.runs for judge in run.manifest.judges)
        return list(dict.fromkeys(pair for pair in pairs if pair[0]))


def render(page: Page) -> str:
    """The whole HTML file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["fact"] = _fact
    environment.filters["breakable"] = _breakable
    environment.filters["kin"] = kin_mark
    for write in (numbers.share, numbers.points, numbers.p_value, numbers.decimals, numbers.whole, numbers.dollars):
        environment.filters[write.__name__] = write
    environment.filters["status"] = status_name
    environment.filters["usage"] = numbers.usage
    script, style = "".join(map(_own, SCRIPTS)), _own("page.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        page=page,
        few=FEW_ROWS,
        judged_table=JUDGED_TABLE,
        policy=Markup(policy),  # all ours: hashes and keywords
        script=Markup(script),
        style=Markup(style),
        data=Markup("\n").join(page.payload.elements),
    )


def _fact(value: object) -> str:
    """A fact of a stage as text; a dash for one that the manifest doesn't have."""
    if value is None or not isinstance(value, (str, int, float, list, dict)):  # None or jinja's Undefined
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _breakable(text: str) -> Markup:
    """A long name that may break behind its punctuation, of which none occurs in what escaping writes."""
    return Markup(re.sub(r"([+_/=]|(?<=[a-z])\.(?=[a-z]))", r"\1<wbr>", str(escape(text))))


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
