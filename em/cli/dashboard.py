"""em dashboard ENTITY/PROJECT: make the dashboard of a W&B project, with panels on every run that em has sent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from em.cli.tool import answer_errors
from em.track.dashboard import save


@answer_errors
def main(words: Sequence[str] | None = None) -> None:
    """Save the dashboard, or print it."""
    parser = argparse.ArgumentParser(prog="em dashboard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument("--json", action="store_true", help="print what would be sent, and send nothing")
    arguments = parser.parse_args(words)
    save(arguments.project, arguments.json)
