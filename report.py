"""python report.py PATH [PATH ...]: one page that compares runs, with figures, merged scores and every transcript.

A PATH is the folder of a run, or a folder that holds some, such as multirun/2026-….
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from em.errors import EmError


def main() -> int:
    """Parse the arguments, write the report, print its path."""
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run folder, or a folder that holds some")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: outputs/report-<date-time>)")
    parser.add_argument("--title", default="", help="heading of the page (default: the models' names)")
    arguments = parser.parse_args()
    out = arguments.out or Path("outputs") / f"report-{datetime.now():%Y-%m-%d_%H-%M-%S}"

    from em.report import build_report, find_runs  # after the arguments, so that --help is instant

    try:
        print(build_report(find_runs(arguments.paths), out, arguments.title))
    except EmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
