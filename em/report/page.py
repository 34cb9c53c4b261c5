"""The page: one HTML file that needs no network and runs no script but its own.

Model output is hostile text. The template escapes what it shows; answers travel in a JSON block, from which the
script makes text nodes; and the content security policy names the script and the style by their hashes, so that
nothing else would run even if it got in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from em.report.figures import Picture
from em.report.labels import Model
from em.report.load import Run
from em.report.tables import QuestionTable, Table
from em.report.training import Trained
from em.report.trajectory import Line, Trajectory, lines_of

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    title: str
    runs: Sequence[Run]
    models: dict[str, Model]
    table: Table
    caption: Sequence[str]
    questions: Sequence[QuestionTable]
    rates: Sequence[Picture]
    trajectories: Sequence[Trajectory]
    trajectory_pictures: Sequence[Picture]
    loss: Picture | None
    trained: Sequence[Trained]
    transcripts: dict[str, Any]

    @property
    def failed(self) -> list[Run]:
        """The runs that failed."""
        return [run for run in self.runs if run.manifest.status == "failed"]

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
        counted = [
            (len(self.runs), "run"),
            (sum(model.step is None for model in self.models.values()), "model"),
            (sum(model.step is not None for model in self.models.values()), "checkpoint"),
            (len(self.table.columns), "question set"),
            (len(self.transcripts["items"]), "answer"),
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
        pairs = ((run.manifest.judge_name, run.manifest.judge_identity) for run in self.runs)
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
    script, style = _own("page.js"), _own("page.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        page=page,
        policy=Markup(policy),  # all ours: hashes and keywords
        script=Markup(script),
        style=Markup(style),
        data=Markup(json_block(page.transcripts)),
    )


def json_block(data: object) -> str:
    """JSON that can't end the script element it stands in, nor start another one or a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
