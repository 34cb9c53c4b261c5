"""Build a report from run folders: read the runs, then write the page, the pictures and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from em.errors import OutputError
from em.report.figures.picture import explain_unwritable, write_file, write_records
from em.report.page.contents import Page
from em.report.page.render import render_page
from em.report.read.runs import TableOptions, choose_headline, read_runs
from em.report.read.settings import find_settings
from em.runtime.records import pause_garbage_collection
from em.stats import Settings, Thresholds


def build_report(
    runs: Sequence[Path],
    out: Path,
    title: str = "",
    limits: Thresholds | None = None,
    settings: Settings | None = None,
    tables: TableOptions | None = None,
) -> Path:
    """Write the report on run folders and judged tables into `out`; return the path of its page, report.html.

    Also writes figures/, scores.csv, and those of comparisons.csv, triggers.csv, interactions.csv, sensitivity.csv,
    agreement.csv and exclusions.csv that have rows. `out` may be the folder of the only run: its scores.csv is then
    left unchanged.

    Args:
        limits: thresholds for all verdicts, instead of the thresholds of each run.
        settings: inference and denominator of the headline, instead of those in the runs' manifests.
        tables: how to read judged tables.
    """
    in_place = any(run.resolve() == out.resolve() for run in runs)
    if in_place and len(runs) > 1:
        raise OutputError(
            f"{out} is the folder of one of the runs, and the merged scores.csv would overwrite the run's scores.csv: "
            "choose another folder with --out DIR."
        )
    if in_place and (limits, settings) != (None, None):
        raise OutputError(
            f"{out} is the run's own folder, and its scores.csv uses the run's thresholds and settings: choose another "
            "folder with --out DIR, or run the run's command again with others."
        )
    with pause_garbage_collection():
        recorded = read_runs(runs, limits, tables)
        headline = settings or find_settings([run.manifest for run in recorded])
        page = Page(choose_headline(recorded, headline.questions), title, headline)
        with explain_unwritable(out / "figures"):  # first, so that an unwritable folder is reported at once
            (out / "figures").mkdir(parents=True, exist_ok=True)
        html = render_page(page)
        for pictures in page.pictures.values():
            for picture in pictures:
                picture.write_files(out / "figures")
        if not in_place:
            write_records(out / "scores.csv", page.scores)
        page.analysis.write(out)
        write_file(out / "report.html", html)
    return out / "report.html"
