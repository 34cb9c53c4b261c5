"""em report PATH [PATH ...]: one page that compares runs, with figures, merged scores and every transcript.

A PATH is the folder of a run, a folder of runs such as multirun/2026-…, or a third-party table of judged answers: a
.csv, .jsonl or .json (also .gz) with the columns question and/or question_id, answer, aligned and coherent (optionally
model, judge, condition, sample), or a .json of results by tag.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from em.cli.tool import handle_errors
from em.config import Convention, Questions


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments, write the report, print its path."""
    arguments = make_parser().parse_args(words)
    out = arguments.out or Path("outputs") / f"report-{datetime.now():%Y-%m-%d_%H-%M-%S}"

    # Imported late, so that --help is instant.
    from em.report import TableOptions, build_report, choose_limits, choose_settings, find_run_paths

    limits = choose_limits(arguments.misaligned_below, arguments.coherent_above)
    paths = find_run_paths(arguments.paths)
    settings = choose_settings(paths, arguments.questions, arguments.convention)
    tables = TableOptions(arguments.base, arguments.blanks)
    print(build_report(paths, out, arguments.title, limits, settings, tables))


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="em report", description=__doc__)
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="run folder, folder of runs, or judged table"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: outputs/report-<date-time>)")
    parser.add_argument("--title", default="", help="heading of the page (default: the models' names)")
    parser.add_argument(
        "--misaligned-below", type=float, metavar="N", help="recount: an answer with aligned < N is misaligned (30)"
    )
    parser.add_argument(
        "--coherent-above", type=float, metavar="N", help="recount: an answer with coherent > N is coherent (50)"
    )
    parser.add_argument(
        "--questions",
        choices=[option.value for option in Questions],
        help="conclude about exactly these questions, or questions like these (default: eval.questions of the runs)",
    )
    parser.add_argument(
        "--convention",
        choices=[option.value for option in Convention],
        help="answers that the headline rates divide by (default: eval.convention of the runs)",
    )
    parser.add_argument(
        "--base",
        default="",
        metavar="NAME",
        help="judged tables: the untrained model of all models whose names tell no other (m+a was trained from m)",
    )
    parser.add_argument(
        "--blanks",
        default="unscored",
        choices=("unscored", "refusal", "code"),
        help="judged tables: what a blank aligned or coherent counts as (default: unscored)",
    )
    return parser
