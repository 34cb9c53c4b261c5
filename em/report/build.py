"""A report from run folders, as one straight line: read, merge, name, tabulate, draw, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from em.errors import OutputError
from em.report.figures.dots import question_pictures, rate_pictures, trigger_pictures
from em.report.figures.lines import chain_pictures, efficiency_picture, loss_picture, trajectory_pictures
from em.report.figures.picture import make_folder, write_records, write_text
from em.report.figures.quadrants import panels, quadrant_pictures
from em.report.page.payload import pack
from em.report.page.render import Page, render
from em.report.page.words import caption
from em.report.read.runs import JUDGED_TABLE, Run, read_runs
from em.report.read.transcripts import Rules, join, question_texts
from em.report.tables.analysis import analyse
from em.report.tables.chains import chains
from em.report.tables.lineages import find_lineages
from em.report.tables.models import Model, in_order, name_models, varied
from em.report.tables.published import in_order as in_order_of_studies
from em.report.tables.published import published
from em.report.tables.scores import Scores, by_question, headline
from em.report.tables.sections import Findings
from em.report.tables.seeds import Pool, fullest, pool_seeds
from em.report.tables.summary import summaries
from em.report.tables.training import find_trained
from em.report.tables.trajectory import find_trajectories, loss_curves
from em.report.tables.triggers import efficiency, trigger_tables
from em.runtime.records import pause_garbage_collection
from em.stats import Thresholds
from em.types import Score

MOST_VARIED = 4  # settings that a title names


def build_report(runs: Sequence[Path], out: Path, title: str = "", limits: Thresholds | None = None) -> Path:
    """Write the report of run folders and judged tables into `out`; return the path of its page, report.html.

    Beside it: figures/, scores.csv, and comparisons.csv, triggers.csv, sensitivity.csv, agreement.csv, exclusions.csv
    as far as they have rows. `out` may be the folder of the only run, whose own scores.csv then stays as it is.

    Args:
        limits: count all verdicts with these thresholds instead of those of their runs.
    """
    _refuse_to_overwrite(runs, out, limits)
    with pause_garbage_collection():
        return _build(runs, out, title, limits)


def _build(runs: Sequence[Path], out: Path, title: str, limits: Thresholds | None) -> Path:
    found = read_runs(runs, limits)
    make_folder(out / "figures")  # before the work, so that a place that can't be written shows at once
    models = name_models(found)
    # A checkpoint is on the way to a model, and stands where the way is shown: not among the results.
    whole = {fingerprint: model for fingerprint, model in models.items() if model.step is None}
    sides = fullest(found)
    pools = list(pool_seeds(found, whole, sides))
    tabled = in_order([*whole.values(), *(pool.model for pool in pools)])
    table = headline(scores := Scores(found, whole, pools), tabled).in_short()
    merged = merge_scores(found, pools)
    family = find_lineages(found, whole, pools)
    analysis = analyse(found, sides, whole, pools, family)
    chained = chains(family, table, analysis.comparisons)
    transcripts = join(found)
    theirs = in_order_of_studies(published(scores, table, found, family))
    stages = chain_pictures(chained)
    rates = rate_pictures(table, pools)
    curves = loss_curves(found, models)
    loss = loss_picture(curves)
    trajectories = find_trajectories(found, models, curves)
    drawn = trajectory_pictures(trajectories)
    efficient = efficiency_picture(efficiency(found, whole, pools))
    tagged = trigger_tables(analysis.triggers, tabled, pools)
    switched = trigger_pictures(tagged)
    quadrants = quadrant_pictures(panels(sides, whole, Rules(found), pools))
    questions = by_question(scores, table, question_texts(transcripts))
    asked = question_pictures(questions, pools)
    page = Page(
        title=title or _title(found, models),
        runs=found,
        models=models,
        pools=pools,
        table=table,
        findings=Findings.of(found, table, analysis),
        caption=caption(merged),
        summaries=summaries(family, table, analysis.comparisons),
        published=theirs,
        chains=chained,
        triggers=tagged,
        trigger_pictures=switched,
        efficiency=efficient,
        questions=questions,
        question_pictures=asked,
        stage_pictures=stages,
        rates=rates,
        quadrants=quadrants,
        trajectories=trajectories,
        trajectory_pictures=drawn,
        loss=loss,
        trained=find_trained(found, whole),
        payload=pack(transcripts, models, Rules(found)),
    )
    html = render(page)
    single = [picture for picture in (loss, efficient) if picture]
    for picture in [*stages, *rates, *quadrants, *switched, *asked, *drawn, *single]:
        picture.write(out / "figures")
    if not _same(out, runs):
        write_records(out / "scores.csv", Score, merged)
    analysis.write(out)
    write_text(out / "report.html", html)
    return out / "report.html"


def merge_scores(runs: Sequence[Run], pools: Sequence[Pool]) -> list[Score]:
    """The scores of all runs, rows that are the same in several runs once, and then those over seeds."""
    of_runs = (row for run in runs for row in run.scores)
    return list(dict.fromkeys([*of_runs, *(row for pool in pools for row in pool.scores)]))


def _refuse_to_overwrite(runs: Sequence[Path], out: Path, limits: Thresholds | None) -> None:
    if len(runs) > 1 and _same(out, runs):
        raise OutputError(
            f"{out} is one of the runs, and the merged scores.csv would replace its own: "
            "choose another folder with --out DIR."
        )
    if limits is not None and _same(out, runs):
        raise OutputError(
            f"{out} is the run's own folder, whose scores.csv has the thresholds that it was run with: choose another "
            "folder with --out DIR, or run its command again with other thresholds."
        )


def _same(out: Path, runs: Sequence[Path]) -> bool:
    return any(run.resolve() == out.resolve() for run in runs)


def _title(runs: Sequence[Run], models: dict[str, Model]) -> str:
    """What a sweep varied, else the longest chain that was trained; of judged tables alone their names."""
    if not models:
        return "Report of em"
    if len(models) > 1 and all(run.manifest.run == JUDGED_TABLE for run in runs):
        return ", ".join(run.path.name.split(".")[0] for run in runs)
    bases = {model.name.partition("+")[0] for model in models.values()}
    if len(bases) == 1 and 0 < len(settings := varied(runs)) <= MOST_VARIED:
        return f"{bases.pop()} by {', '.join(settings)}"
    name = max((model.name for model in models.values()), key=lambda name: name.count("+"))
    others = len({model.name for model in models.values()}) - 1
    return name + (f" and {others} other {'model' if others == 1 else 'models'}" if others else "")
