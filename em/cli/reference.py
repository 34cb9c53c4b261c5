"""em reference: print every option and setting as Markdown, from the schemas and the option files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from em.cli.tool import handle_errors
from em.config.help import render_reference


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Print the page in Markdown."""
    argparse.ArgumentParser(prog="em reference", description=(__doc__ or "").splitlines()[0]).parse_args(words)
    print(render_reference(), end="")
