"""em dashboard ENTITY/PROJECT: make the dashboard of a W&B project, with panels on every run that em has sent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from em.errors import EmError
from em.track.dashboard import save


def main(words: Sequence[str] | None = None) -> int:
    """Save the dashboard, or print it; the exit code."""
    parser = argparse.ArgumentParser(prog="em dashboard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument("--json", action="store_true", help="print what would be sent, and send nothing")
    arguments = parser.parse_args(words)
    try:
        save(arguments.project, arguments.json)
    except EmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
