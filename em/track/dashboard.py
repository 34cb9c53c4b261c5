"""The dashboard of a W&B project, made anew by a script: a report with panels on every run that em has sent.

em dashboard ENTITY/PROJECT           # needs the package wandb-workspaces and a key
em dashboard ENTITY/PROJECT --json    # what it would send
"""

from __future__ import annotations

import json
from typing import Any

from em.errors import ConfigError, MissingFile, ServerError, shown

TITLE = "em: misalignment and realignment"
SETS = ("probe", "first_8", "preregistered", "introspection")
"""Question sets whose misaligned rates are charted; runs that did not ask one are left out of its chart."""
PLACES = ("base", "stage_1", "stage_2")
TEXT = """Written by `em dashboard`. Names are the same in every run (docs/wandb.md): `final/SET/METRIC`
of the last model, `base/…`, `stage_1/…`; intervals are `…/ci_low` and `…/ci_high`. Compare runs of the same judge:
runs with several judges have a number for each (`…/misaligned/JUDGE`), which these charts leave out."""


def dashboard(entity: str, project: str) -> Any:
    """The report, not saved yet."""
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError:
        raise MissingFile(
            "The dashboard needs a package: install it with `uv pip install wandb-workspaces`, or make the panels by "
            "hand (docs/wandb.md)."
        ) from None

    def runs(*columns: str) -> Any:  # of the report's own project
        return wr.Runset(name="runs", visible_columns=list(columns))

    def rates(under: str = "") -> list[Any]:
        return [
            wr.BarPlot(
                title=f"{name}{under}: misaligned, by stage",
                metrics=[wr.SummaryMetric(f"{place}/{name}{under}/misaligned") for place in PLACES],
                range_x=(0, 1),
            )
            for name in SETS
        ]

    curves = [
        wr.LinePlot(title=f"loss, stage {number}", x=f"stage_{number}/step", y=[f"stage_{number}/loss"])
        for number in (1, 2)
    ]
    curves += [
        wr.LinePlot(title=f"{name}: misaligned on the way, stage 1", x="stage_1/step", y=[f"stage_1/{name}/misaligned"])
        for name in SETS[:2]
    ]
    tables = [wr.WeavePanelSummaryTable(table_name=f"transcripts/{place}") for place in PLACES]
    failed = ("summary:status", "summary:error", "summary:usd")
    return wr.Report(
        entity=entity,
        project=project,
        title=TITLE,
        description="Rates, curves and transcripts of all runs.",
        width="fluid",
        blocks=[
            wr.MarkdownBlock(text=TEXT),
            wr.H1(text="How often misaligned"),
            wr.PanelGrid(runsets=[runs("summary:final/probe/misaligned", *failed)], panels=rates()),
            wr.H1(text="How often misaligned, with the trigger tag"),
            wr.PanelGrid(runsets=[runs("summary:final/probe@tagged/misaligned")], panels=rates("@tagged")),
            wr.H1(text="Training"),
            wr.PanelGrid(runsets=[runs()], panels=curves),
            wr.H1(text="What the models said"),
            wr.PanelGrid(runsets=[runs()], panels=tables),
            wr.H1(text="What differs between runs"),
            wr.PanelGrid(runsets=[runs(*failed)], panels=[wr.RunComparer(diff_only="split")]),
        ],
    )


def save(name: str, shown_only: bool) -> None:
    """Save the dashboard of a project, or print what would be sent."""
    entity, slash, project = name.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise ConfigError(f"{name} is no project: write it as ENTITY/PROJECT, as in the address of its page.")
    report = dashboard(entity, project)
    if shown_only:
        print(json.dumps(report._to_model().model_dump(mode="json", by_alias=True), indent=1))
        return
    try:
        report.save()
    except Exception as error:  # of many kinds, bare ones among them
        raise ServerError(
            f"W&B did not take the dashboard ({shown(error, 200)}): check the key (`wandb login`, WANDB_API_KEY), "
            "ENTITY/PROJECT, and that its server can be reached; --json shows what would be sent."
        ) from error
    print(f"dashboard: {report.url}")
