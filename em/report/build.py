"""A report from run folders, as one straight line: read, merge, name, tabulate, draw, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from em.errors import OutputError
from em.report.files import make_folder, write_csv, write_text
from em.report.labels import Model, name_models
from em.report.load import Run, read_runs
from em.report.loss import loss_curves, loss_picture
from em.report.page import Page, render
from em.report.rates import rate_pictures
from em.report.tables import Scores, by_question, headline
from em.report.training import find_trained
from em.report.trajectory import find_trajectories
from em.report.trajectory_picture import trajectory_pictures
from em.report.transcripts import Rules, join, pack, question_texts
from em.report.words import caption
from em.types import Score


def build_report(runs: Sequence[Path], out: Path, title: str = "") -> Path:
    """Write report.html, figures/ and scores.csv of the run folders into `out`; return the page's path.

    `out` may be the folder of the only run, whose own scores.csv then stays as it is.
    """
    _refuse_to_overwrite(runs, out)
    found = read_runs(runs)
    make_folder(out / "figures")  # before the work, so that a place that can't be written shows at once
    models = name_models(found)
    merged = merge_scores(found)
    # A checkpoint is on the way to a model, and stands where the way is shown: not among the results.
    whole = {fingerprint: model for fingerprint, model in models.items() if model.step is None}
    table = headline(scores := Scores(found, whole), whole)
    transcripts = join(found)
    rates = rate_pictures(table)
    curves = loss_curves(found, models)
    loss = loss_picture(curves)
    trajectories = find_trajectories(found, models, curves)
    drawn = trajectory_pictures(trajectories)
    page = Page(
        title=title or _title(models),
        runs=found,
        models=models,
        table=table,
        caption=caption(merged),
        questions=by_question(scores, table, question_texts(transcripts)),
        rates=rates,
        trajectories=trajectories,
        trajectory_pictures=drawn,
        loss=loss,
        trained=find_trained(found, whole),
        transcripts=pack(transcripts, models, Rules(found)),
    )
    html = render(page)
    for picture in [*rates, *drawn, *([loss] if loss else [])]:
        picture.write(out / "figures")
    if not _same(out, runs):
        write_csv(out / "scores.csv", [item.name for item in fields(Score)], map(astuple, merged))
    write_text(out / "report.html", html)
    return out / "report.html"


def merge_scores(runs: Sequence[Run]) -> list[Score]:
    """The scores of all runs, rows that are the same in several runs once."""
    return list(dict.fromkeys(score for run in runs for score in run.scores))


def _refuse_to_overwrite(runs: Sequence[Path], out: Path) -> None:
    if len(runs) > 1 and _same(out, runs):
        raise OutputError(
            f"{out} is one of the runs, and the merged scores.csv would replace its own: "
            "choose another folder with --out DIR."
        )


def _same(out: Path, runs: Sequence[Path]) -> bool:
    return any(run.resolve() == out.resolve() for run in runs)


def _title(models: dict[str, Model]) -> str:
    """The longest chain that was trained, which is what most reports are about."""
    if not models:
        return "Report of em"
    name = max((model.name for model in models.values()), key=lambda name: name.count("+"))
    others = len({model.name for model in models.values()}) - 1
    return name + (f" and {others} other {'model' if others == 1 else 'models'}" if others else "")
